r"""Our `pipeline("question-answering")` against the one that Transformers had up to 5.2.

Transformers 5.3 and later don't have it, so the two run in different environments:

    pip install torch 'transformers==5.2.*'
    python benchmarks/scripts/pipeline_parity.py write \
        --checkpoint FOLDER --data SQUAD_FILE --output theirs.json

(--checkpoint may be given several times.)

    pip install 'electra-qa[build]'
    electra-qa build --checkpoint FOLDER --output bundle
    python benchmarks/scripts/pipeline_parity.py compare \
        --checkpoint FOLDER --bundle bundle --data SQUAD_FILE --theirs theirs.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

Answer = dict[str, Any]

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


def read_questions(path: Path, count: int) -> list[dict[str, str]]:
    """Every n-th question of a SQuAD file, `count` of them."""
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    questions = [
        {"question": qa["question"], "context": paragraph["context"]}
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    return questions[:: len(questions) // count][:count]


def answer_all(pipe: Any, questions: list[dict[str, str]]) -> dict[str, list[list[Answer]]]:
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


def write(checkpoints: list[Path], data: Path, count: int, output: Path) -> None:
    questions = read_questions(data, count)
    answers = {folder.name: _their_answers(folder, questions) for folder in checkpoints}
    output.write_text(json.dumps(answers), encoding="utf-8")


def _their_answers(
    checkpoint: Path, questions: list[dict[str, str]]
) -> dict[str, list[list[Answer]]]:
    import transformers

    # Without a dtype it computes in the checkpoint's own, float16 here, down to the scores.
    pipe = transformers.pipeline(
        "question-answering",
        model=str(checkpoint),
        tokenizer=_tokenizer(checkpoint),
        dtype="float32",
    )
    # It gives the model what the tokenizer names: segments where there are such.
    names = ["input_ids", "attention_mask"]
    if pipe.model.config.model_type in SEGMENTS:
        names.append("token_type_ids")
    pipe.tokenizer.model_input_names = names
    return answer_all(pipe, questions)


def compare(checkpoint: Path, bundle: str, data: Path, count: int, theirs: Path) -> None:
    from electra_qa.client import pipeline

    with pipeline("question-answering", bundle=bundle) as pipe:
        ours = answer_all(pipe, read_questions(data, count))
    expected = json.loads(theirs.read_text(encoding="utf-8"))[checkpoint.name]
    for name, calls in expected.items():
        pairs = list(zip(ours[name], calls, strict=True))
        different = [(mine, other) for mine, other in pairs if not same(mine, other)]
        largest = max(
            (
                abs(a["score"] - b["score"])
                for mine, other in pairs
                if (mine, other) not in different
                for a, b in zip(mine, other, strict=True)
            ),
            default=0.0,
        )
        print(
            f"{name}: {len(pairs) - len(different)} of {len(pairs)} the same, "
            f"scores within {largest:.1e}"
        )
        for mine, other in different[:5]:
            print("  ours:  ", mine, "\n  theirs:", other)


def same(mine: list[Answer], other: list[Answer]) -> bool:
    """Whether two results are the same answers in the same order, whatever their scores."""
    return [(a["answer"], a["start"], a["end"]) for a in mine] == [
        (a["answer"], a["start"], a["end"]) for a in other
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    writing = commands.add_parser("write")
    writing.add_argument("--checkpoint", type=Path, action="append", required=True)
    writing.add_argument("--data", type=Path, required=True)
    writing.add_argument("--output", type=Path, required=True)
    comparing = commands.add_parser("compare")
    comparing.add_argument("--checkpoint", type=Path, required=True)
    comparing.add_argument("--bundle", required=True)
    comparing.add_argument("--data", type=Path, required=True)
    comparing.add_argument("--theirs", type=Path, required=True)
    for command in (writing, comparing):
        command.add_argument("--questions", type=int, default=QUESTIONS)
    given = parser.parse_args()
    if given.command == "write":
        write(given.checkpoint, given.data, given.questions, given.output)
    else:
        compare(given.checkpoint, given.bundle, given.data, given.questions, given.theirs)


if __name__ == "__main__":
    main()
