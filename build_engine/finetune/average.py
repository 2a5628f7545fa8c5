"""Several checkpoints to one: the mean of their weights.

Runs that begin from the same encoder mostly end in one basin, and the mean of where they end is as
fast as one of them and often better than each (Wortsman et al., "Model soups: averaging weights of
multiple fine-tuned models improves accuracy without increasing inference time", ICML 2022).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from electra_qa.tokenization import Tokenizer

from ..errors import BuildError
from .device import find_device
from .evaluation import evaluate
from .examples import read_examples
from .model import QaModel, load_model, save_checkpoint, vocabulary
from .report import REPORT, source_name, write_report
from .settings import CheckpointSettings, FinetuneData


def average(
    data: FinetuneData,
    others: Sequence[str],
    settings: CheckpointSettings,
    output: Path,
    console: Console,
) -> None:
    """Write the mean of `data.model` and the checkpoints `others` into the folder `output`.

    Its threshold is chosen anew, on what is held out of `data`: with the files, `held_out` and
    `seed` of the runs this is what none of them was trained on. Raises BuildError where the
    checkpoints are not of one shape and vocabulary, or `output` has files, and SquadError.
    """
    started = time.monotonic()
    device = find_device(settings)
    if output.is_dir() and any(output.iterdir()):
        raise BuildError(f"{output} is not empty")
    checkpoints = [data.model, *others]
    model, tokenizer = _mean(checkpoints, settings)
    examples = read_examples(data, settings)
    torch.nn.Module.to(model, device)
    evaluation = None
    if examples.held_out:
        evaluation = evaluate(
            model,
            Tokenizer(tokenizer),
            examples.held_out,
            examples.threshold_questions,
            settings,
        )
        console.print(
            f"held out: EM {evaluation.exact:.2f}, F1 {evaluation.f1:.2f}, "
            f"null_score_diff_threshold {evaluation.threshold:.2f}",
            highlight=False,
        )
    save_checkpoint(
        model,
        tokenizer,
        output,
        null_score_diff_threshold=evaluation.threshold if evaluation else 0.0,
        do_lower_case=settings.do_lower_case,
        half=settings.half_weights,
    )
    write_report(
        output,
        {"average_of": [_described(checkpoint) for checkpoint in checkpoints]},
        data,
        settings,
        examples,
        evaluation,
        seconds=time.monotonic() - started,
        device=device,
    )


def _mean(checkpoints: Sequence[str], settings: CheckpointSettings) -> tuple[QaModel, str]:
    """A model with the mean weights, and the first one's tokenizer."""
    first, tokenizer = load_model(checkpoints[0], do_lower_case=settings.do_lower_case)
    total = first.state_dict()
    for checkpoint in checkpoints[1:]:
        model, its_tokenizer = load_model(checkpoint, do_lower_case=settings.do_lower_case)
        weights = model.state_dict()
        if {name: w.shape for name, w in weights.items()} != {
            name: w.shape for name, w in total.items()
        }:
            raise BuildError(f"{checkpoint} has another shape than {checkpoints[0]}")
        if vocabulary(its_tokenizer) != vocabulary(tokenizer):
            raise BuildError(f"{checkpoint} has another vocabulary than {checkpoints[0]}")
        total = {name: total[name] + weight for name, weight in weights.items()}
    first.load_state_dict({name: weight / len(checkpoints) for name, weight in total.items()})
    return first, tokenizer


def _described(checkpoint: str) -> dict[str, Any]:
    """The name of a checkpoint, and what its own report says."""
    report = Path(checkpoint) / REPORT
    own = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    return {"checkpoint": source_name(checkpoint)} | own
