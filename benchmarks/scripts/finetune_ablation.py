"""What each kind of made question, real ones and a teacher bring, in short runs.

A model learns to find answers first, from answerable questions alone. From there each run goes on
with something else added, for as many steps (one for three times as many), and is scored on real
pairs of an answerable and an unanswerable question that none of them saw: at the threshold that
they give for each, and F1 at 0 too. Stopped, the same command does what is still to be done.

pip install 'electra-qa[finetune]'
python benchmarks/scripts/finetune_ablation.py --model minilm/ --pairs unansq.json \
    --question-edits question-edits.tsv --teacher electra-mini-squad2/ --output ablation/ \
    squad11-other-articles.json squadshifts-new-wiki.json
"""

from __future__ import annotations

import json
import re
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


def take(source: Path, target: Path, *, every: int, first: int = 0) -> Path:
    """Write a SQuAD file with every `every`-th paragraph of another one, from `first` on."""
    paragraphs = [
        {"title": article["title"], "paragraphs": [paragraph]}
        for article in json.loads(source.read_text(encoding="utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    content = {"version": "v2.0", "data": paragraphs[first::every]}
    target.write_text(json.dumps(content), encoding="utf-8")
    return target


def finetune(model: Path, files: list[Path], output: Path, *options: str) -> dict[str, Any]:
    """Run `electra-qa finetune`, unless it has been with the same options; its training.json."""
    command = [sys.executable, "-m", "electra_qa", "finetune", *SETTINGS, *options]
    command += ["--model_name_or_path", str(model), "--output_dir", str(output)]
    command += [part for file in files for part in ("--train_file", str(file))]
    done = output / "command.json"
    if not done.is_file() or json.loads(done.read_text(encoding="utf-8")) != command:
        subprocess.run([*command, "--overwrite_output_dir"], check=True, stdout=sys.stderr)
        done.write_text(json.dumps(command), encoding="utf-8")
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
    yield "+ real pairs", [], [real]
    yield "+ all kinds, real pairs", made, [real]
    yield (
        "+ all kinds, real pairs, three times the steps",
        [*made, "--max_steps", str(3 * steps)],
        [real],
    )
    yield "+ all kinds, real pairs, a teacher", [*made, "--teacher", teacher], [real]


def _folder(name: str) -> str:
    return "-".join(re.findall(r"\w+", name))


@click.command(context_settings={"show_default": True})
@click.argument("train_files", nargs=-1, required=True, type=FILE)
@click.option("--model", required=True, type=FOLDER)
@click.option("--pairs", required=True, type=FILE, help="Real pairs: half of them are asked.")
@click.option("--question-edits", required=True, type=FILE)
@click.option("--teacher", required=True)
@click.option("--output", required=True, type=FOLDER)
@click.option("--first-steps", default=1200)
@click.option("--steps", default=300)
@click.option("--every", default=4, help="A run takes every so many-th answerable paragraph.")
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
    every: int,
    autocast: str,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    asked = take(pairs, output / "asked.json", every=2)
    real = take(pairs, output / "real.json", every=2, first=1)
    few = [take(file, output / f"few-{file.name}", every=every) for file in train_files]
    start = output / "start"
    options = ["--autocast", autocast, "--held_out", "0"]
    options += ["--learning_rate", "1.2e-4", "--max_steps", str(first_steps)]
    finetune(model, list(train_files), start, *options)
    print("| trained on | made | EM | F1 | HasAns F1 | NoAns F1 | threshold | F1 at 0 | minutes |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, more, files in variants(question_edits, teacher, real, steps):
        options = ["--autocast", autocast, "--predict_file", str(asked), "--learning_rate", "1e-4"]
        # Scored once, at the end.
        options += ["--eval_steps", str(3 * steps), "--max_steps", str(steps), *more]
        result = finetune(start, [*few, *files], output / _folder(name), *options)
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
