r"""The table of docs/quantization.md: what int8 loses by what it is calibrated on.

    pip install 'electra-qa[build]'
    python benchmarks/scripts/calibration_cost.py --questions 1500 \
        --checkpoint models/electra-minilm-squad2 \
        --calibration squadshifts-amazon.json,squadshifts-reddit.json \
        --calibration squad2-train-12articles.json \
        --data squad11-other-articles.json --data squad2-train-800paragraphs.json

Each checkpoint is built in float32, in int8 on the built-in calibration set, and in int8 on the
files of each `--calibration`. All of them answer the same questions at the checkpoint's threshold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from electra_qa.build_engine.accuracy import predict
from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle
from electra_qa.bundle import Bundle
from electra_qa.engines import load_engine
from electra_qa.spans import Prediction
from electra_qa.squad import SquadQuestion, read_squad, squad_metrics

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def text(prediction: Prediction) -> str:
    return "" if prediction.is_impossible else prediction.answers[0].text


def best_span(prediction: Prediction) -> tuple[int, int] | None:
    if not prediction.answers:
        return None
    return prediction.answers[0].start, prediction.answers[0].end


def answer(bundle: Bundle, asked: list[SquadQuestion], console: Console) -> dict[str, Prediction]:
    with closing(load_engine(bundle)) as engine:
        console.print(engine.device)
        return predict(bundle, engine, asked, console)


def row(
    asked: list[SquadQuestion],
    expected: Mapping[str, Prediction],
    got: Mapping[str, Prediction],
) -> str:
    pairs = [(got[question.id], expected[question.id]) for question in asked]
    same = np.mean([text(a) == text(b) for a, b in pairs])
    spans = np.mean([best_span(a) == best_span(b) for a, b in pairs])
    moved = np.array([a.null_score_diff - b.null_score_diff for a, b in pairs])
    f1 = squad_metrics(asked, {id_: text(p) for id_, p in got.items()})["f1"]
    error = np.sqrt(np.mean(moved**2))
    return f"{100 * same:.2f} % | {100 * spans:.2f} % | {error:.3f} | {f1:.2f}"


@click.command()
@click.option("--checkpoint", "checkpoints", multiple=True, required=True)
@click.option("--calibration", "sets", multiple=True, help="SQuAD files, apart by commas.")
@click.option("--data", "files", type=FILE, multiple=True, required=True)
@click.option("--questions", type=int, default=1500, show_default=True)
def main(
    checkpoints: tuple[str, ...], sets: tuple[str, ...], files: tuple[Path, ...], questions: int
) -> None:
    """Build the same checkpoints on different calibration data and print a Markdown table."""
    console = Console(stderr=True)
    asked = [question for file in files for question in read_squad(file)]
    places = np.linspace(0, len(asked) - 1, min(questions, len(asked))).astype(int)
    asked = [asked[place] for place in places]
    calibrations = [(), *(tuple(Path(name) for name in names.split(",")) for names in sets)]
    print(
        "| checkpoint | calibrated on | same answers | same best span "
        "| error of null_score_diff | F1 |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    for checkpoint in checkpoints:
        name = Path(checkpoint).name
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder)
            float32 = build_bundle(checkpoint, output, BuildSettings(), BuildData(), console)
            expected = answer(float32, asked, console)
        f1 = squad_metrics(asked, {id_: text(p) for id_, p in expected.items()})["f1"]
        print(f"| {name} | float32 | | | | {f1:.2f} |", flush=True)
        for calibration in calibrations:
            with tempfile.TemporaryDirectory() as folder:
                output, data = Path(folder), BuildData(calibration=calibration)
                settings = BuildSettings(precision="int8")
                int8 = build_bundle(checkpoint, output, settings, data, console)
                figures = row(asked, expected, answer(int8, asked, console))
            print(f"| {name} | {int8.manifest.calibration} | {figures} |", flush=True)


if __name__ == "__main__":
    main()
