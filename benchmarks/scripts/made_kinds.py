"""How many unanswerable questions of each kind a checkpoint of `finetune` sees through.

Made from the articles that the run held out: give its files, --held_out and --seed. Beside them
the real ones of a file that has both, and how right the answers to the answerable ones are. Each
checkpoint has its own null_score_diff_threshold.

pip install 'electra-qa[finetune]'
python benchmarks/scripts/made_kinds.py --train_file squad11-other-articles.json \
    --pairs unansq.json --question_edits question-edits.tsv --held_out 0.1 checkpoint/ …
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from electra_qa.build_engine.accuracy import predict_with
from electra_qa.build_engine.finetune.evaluation import TorchEngine
from electra_qa.build_engine.finetune.examples import read_examples
from electra_qa.build_engine.finetune.model import load_model
from electra_qa.build_engine.finetune.settings import KINDS, CheckpointSettings, FinetuneData
from electra_qa.build_engine.finetune.threshold import answer_f1
from electra_qa.spans import DecodeOptions, Prediction
from electra_qa.squad import SquadQuestion
from electra_qa.tokenization import Tokenizer

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def held_out_questions(
    files: tuple[Path, ...], pairs: Path, edits: Path, settings: CheckpointSettings
) -> dict[str, list[SquadQuestion]]:
    """Those without an answer by their kind, "real" for those of `pairs`, and "answerable"."""
    found: dict[str, list[SquadQuestion]] = {}
    for kind in KINDS:
        of_kind = dataclasses.replace(settings, negative_kinds=kind)
        held = read_examples(FinetuneData("", files, None, edits), of_kind).held_out
        found[kind] = [question for question in held if not question.answers]
        found["answerable"] = [question for question in held if question.answers]
    real = read_examples(FinetuneData("", (pairs,)), settings).held_out
    found["real"] = [question for question in real if not question.answers]
    return found


def score(
    questions: Sequence[SquadQuestion], predictions: dict[str, Prediction], threshold: float
) -> float:
    """In percent: the share refused, of questions without an answer; else the mean F1 of the
    answers, whatever the threshold."""
    return 100 * float(
        np.mean(
            [
                answer_f1(question, predictions[question.id])
                if question.answers
                else predictions[question.id].null_score_diff > threshold
                for question in questions
                if predictions[question.id].answers
            ]
        )
    )


@click.command(context_settings={"show_default": True})
@click.argument("checkpoints", nargs=-1, required=True, type=FOLDER)
@click.option("--train_file", "files", multiple=True, required=True, type=FILE)
@click.option("--pairs", required=True, type=FILE)
@click.option("--question_edits", "edits", required=True, type=FILE)
@click.option("--held_out", default=0.05)
@click.option("--seed", default=42)
@click.option("--autocast", default="no", type=click.Choice(["no", "bf16"]))
def main(
    checkpoints: tuple[Path, ...],
    files: tuple[Path, ...],
    pairs: Path,
    edits: Path,
    **settings: Any,
) -> None:
    read = CheckpointSettings(make_negatives=True, negatives_per_question=1.0, **settings)
    asked = held_out_questions(files, pairs, edits, read)
    columns = []
    for checkpoint in checkpoints:
        model, serialized = load_model(str(checkpoint))
        predictions = predict_with(
            Tokenizer(serialized),
            TorchEngine(model, read),
            [question for questions in asked.values() for question in questions],
            read.windows,
            DecodeOptions(max_answer_length=read.max_answer_length),
            Console(stderr=True),
        )
        config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
        threshold = config.get("null_score_diff_threshold", 0.0)
        columns.append([score(part, predictions, threshold) for part in asked.values()])
    print("| questions | how many | " + " | ".join(c.name for c in checkpoints) + " |")
    print("| --- | --- |" + " --- |" * len(checkpoints))
    for (kind, questions), *scores in zip(asked.items(), *columns, strict=True):
        print(f"| {kind} | {len(questions):,} | " + " | ".join(f"{s:.1f}" for s in scores) + " |")


if __name__ == "__main__":
    main()
