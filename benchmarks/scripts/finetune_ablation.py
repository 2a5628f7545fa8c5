"""What each kind of made question, real ones and a teacher bring, in short runs.

A model learns to find answers first, from answerable questions alone. From there each run goes on
with something else added, for as many steps (one for three times as many), and is scored on real
pairs of an answerable and an unanswerable question that none of them saw: at the threshold that is
best for each there, and F1 at 0 too.

pip install 'electra-qa[finetune]'
python benchmarks/scripts/finetune_ablation.py --model minilm/ --pairs unansq.json \
    --question-edits question-edits.tsv --teacher electra-mini-squad2/ --output ablation/ \
    squad11-other-articles.json squadshifts-new-wiki.json
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from electra_qa.build_engine.finetune.settings import KINDS

FOLDER = click.Path(file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
SETTINGS = ("--hidden_dropout_prob", "0", "--attention_probs_dropout_prob", "0")


def take(source: Path, target: Path, count: int, *, every: int = 1, first: int = 0) -> Path:
    """Write a SQuAD file with `count` questions or some more: whole paragraphs, from `first` on
    every `every`-th."""
    paragraphs = [
        (article["title"], paragraph)
        for article in json.loads(source.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    taken: list[dict[str, Any]] = []
    for title, paragraph in paragraphs[first::every]:
        if count <= 0:
            break
        count -= len(paragraph["qas"])
        taken.append({"title": title, "paragraphs": [paragraph]})
    target.write_text(json.dumps({"version": "v2.0", "data": taken}), encoding="utf-8")
    return target


def finetune(model: Path, files: list[Path], output: Path, *options: str) -> dict[str, Any]:
    """Run `electra-qa finetune`; its training.json."""
    command = [sys.executable, "-m", "electra_qa", "finetune", *SETTINGS, *options]
    command += ["--model_name_or_path", str(model), "--output_dir", str(output)]
    command += [part for file in files for part in ("--train_file", str(file))]
    subprocess.run([*command, "--overwrite_output_dir"], check=True, stdout=sys.stderr)
    content: dict[str, Any] = json.loads((output / "training.json").read_text(encoding="utf-8"))
    return content


def variants(
    edits: Path, teacher: str, real: Path, steps: int
) -> Iterator[tuple[str, list[str], list[Path]]]:
    """(name, options, more training files); of an option given twice the later one counts."""
    made = ["--make_negatives", "--negatives_per_question", "0.6", "--question_edits", str(edits)]
    yield "answerable questions alone", [], []
    for kind in KINDS:
        yield f"+ `{kind}`", [*made, "--negative_kinds", kind], []
    yield "+ all kinds", made, []
    yield "+ all kinds, real pairs", made, [real]
    yield (
        "+ all kinds, real pairs, three times the steps",
        [*made, "--max_steps", str(3 * steps)],
        [real],
    )
    yield "+ all kinds, real pairs, a teacher", [*made, "--teacher", teacher], [real]


@click.command(context_settings={"show_default": True})
@click.argument("train_files", nargs=-1, required=True, type=FILE)
@click.option("--model", required=True, type=FOLDER)
@click.option("--pairs", required=True, type=FILE, help="Real pairs: half of them are asked.")
@click.option("--question-edits", required=True, type=FILE)
@click.option("--teacher", required=True)
@click.option("--output", required=True, type=FOLDER)
@click.option("--first-steps", default=1500)
@click.option("--steps", default=400)
@click.option("--questions", default=600, help="Of --pairs to ask, and of answerable ones a run.")
@click.option("--autocast", default="no", help="As for finetune.")
def main(
    train_files: tuple[Path, ...],
    model: Path,
    pairs: Path,
    question_edits: Path,
    teacher: str,
    output: Path,
    first_steps: int,
    steps: int,
    questions: int,
    autocast: str,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    asked = take(pairs, output / "asked.json", questions, every=2)
    real = take(pairs, output / "real.json", questions // 2, every=2, first=1)
    share = questions // len(train_files)
    few = [take(file, output / f"few-{file.name}", share, every=7) for file in train_files]
    start = output / "start"
    options = ["--autocast", autocast, "--held_out", "0"]
    options += ["--learning_rate", "1.2e-4", "--max_steps", str(first_steps)]
    finetune(model, list(train_files), start, *options)
    print("| trained on | made | EM | F1 | HasAns F1 | NoAns F1 | threshold | F1 at 0 | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for index, (name, more, files) in enumerate(variants(question_edits, teacher, real, steps)):
        options = ["--autocast", autocast, "--predict_file", str(asked)]
        options += ["--learning_rate", "6e-5", "--max_steps", str(steps), *more]
        result = finetune(start, [*few, *files], output / str(index), *options)
        scores = result["held_out"]
        cells = [
            name,
            f"{sum(result['made_negatives'].values()):,}",
            *(
                f"{scores[key]:.1f}"
                for key in ("exact_at_threshold", "f1_at_threshold", "HasAns_f1", "NoAns_f1")
            ),
            f"{scores['null_score_diff_threshold']:.1f}",
            f"{scores['f1_at_0']:.1f}",
            f"{result['seconds'] / 60:.1f}",
        ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
