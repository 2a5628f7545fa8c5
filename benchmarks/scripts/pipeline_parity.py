r"""Our `pipeline("question-answering")` against the one that Transformers had up to 5.2.

Transformers 5.3 and later don't have it, so the two run in different environments:

    pip install torch 'transformers==5.2.*'
    python benchmarks/scripts/pipeline_parity.py write \
        --checkpoint FOLDER --data SQUAD_FILE --output theirs.json

    pip install 'electra-qa[build]'
    electra-qa build --checkpoint FOLDER --output bundle
    python benchmarks/scripts/pipeline_parity.py compare \
        --bundle bundle --data SQUAD_FILE --theirs theirs.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

QUESTIONS = 200
# Each way of calling, on every question. The third cuts SQuAD's paragraphs into several windows.
CALLS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "top_k=3, handle_impossible_answer": {"top_k": 3, "handle_impossible_answer": True},
    "max_seq_len=128, doc_stride=32": {"max_seq_len": 128, "doc_stride": 32, "top_k": 2},
    "max_answer_len=5, align_to_words=False": {"max_answer_len": 5, "align_to_words": False},
}
# The models that tell question and context apart by an embedding.
SPECIAL = ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token")
SEGMENTS = ("albert", "bert", "deberta-v2", "electra")


def read_questions(path: Path) -> list[dict[str, str]]:
    """Every n-th question of a SQuAD file, `QUESTIONS` of them."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    questions = [
        {"question": qa["question"], "context": paragraph["context"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return questions[:: len(questions) // QUESTIONS][:QUESTIONS]


def answer_all(pipe: Any, questions: list[dict[str, str]]) -> dict[str, list[list[Any]]]:
    answers = {}
    for name, options in CALLS.items():
        results = [pipe(**question, **options) for question in questions]
        answers[name] = [result if isinstance(result, list) else [result] for result in results]
    return answers


def _tokenizer(checkpoint: Path) -> Any:
    """The tokenizer.json as it stands. 5.2's own classes build it anew, with another pair for XLM-R
    and MPNet, and with spaces in CamemBERT's words, which later versions mended."""
    import transformers

    settings = json.loads((checkpoint / "tokenizer_config.json").read_text(encoding="utf-8"))
    special = {name: value for name, value in settings.items() if name in SPECIAL}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(checkpoint / "tokenizer.json"), model_max_length=512, **special
    )


def write(checkpoint: str, data: Path, output: Path) -> None:
    import transformers

    # Without a dtype it computes in the checkpoint's own, float16 here, down to the scores.
    pipe = transformers.pipeline(
        "question-answering",
        model=checkpoint,
        tokenizer=_tokenizer(Path(checkpoint)),
        dtype="float32",
    )
    # It gives the model what the tokenizer names: segments where there are such.
    names = ["input_ids", "attention_mask"]
    if pipe.model.config.model_type in SEGMENTS:
        names.append("token_type_ids")
    pipe.tokenizer.model_input_names = names
    answers = answer_all(pipe, read_questions(data))
    output.write_text(json.dumps(answers), encoding="utf-8")


def compare(bundle: str, data: Path, theirs: Path) -> None:
    from electra_qa.client import pipeline

    with pipeline("question-answering", bundle=bundle) as pipe:
        ours = answer_all(pipe, read_questions(data))
    for name, expected in json.loads(theirs.read_text(encoding="utf-8")).items():
        same = 0
        largest = 0.0
        different = []
        for mine, other in zip(ours[name], expected, strict=True):
            if [(a["answer"], a["start"], a["end"]) for a in mine] == [
                (a["answer"], a["start"], a["end"]) for a in other
            ]:
                same += 1
                difference = max(
                    abs(a["score"] - b["score"]) for a, b in zip(mine, other, strict=True)
                )
                largest = max(largest, difference)
            else:
                different.append((mine, other))
        print(f"{name}: {same} of {len(expected)} the same, scores within {largest:.1e}")
        for mine, other in different[:5]:
            print("  ours:  ", mine, "\n  theirs:", other)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("--checkpoint", required=True)
    writing.add_argument("--data", type=Path, required=True)
    writing.add_argument("--output", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--bundle", required=True)
    comparing.add_argument("--data", type=Path, required=True)
    comparing.add_argument("--theirs", type=Path, required=True)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.checkpoint, arguments.data, arguments.output)
    else:
        compare(arguments.bundle, arguments.data, arguments.theirs)


if __name__ == "__main__":
    main()
