"""training.json: what was run on what, and what came of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from .evaluation import Evaluation
from .examples import Examples
from .settings import CheckpointSettings, FinetuneData

REPORT = "training.json"


def write_report(
    output: Path,
    made_from: Mapping[str, Any],
    data: FinetuneData,
    settings: CheckpointSettings,
    examples: Examples,
    evaluation: Evaluation | None,
    *,
    seconds: float,
    device: torch.device,
) -> None:
    """Write it into the folder of a checkpoint, `made_from` first. Of files the names alone."""
    content = {
        **made_from,
        "train_file": [path.name for path in data.train_files],
        "question_edits": data.question_edits and data.question_edits.name,
        "settings": dataclasses.asdict(settings),
        "questions": len(examples.train),
        "made_negatives": dict(examples.made),
        "held_out_questions": len(examples.held_out),
        "threshold_questions": len(examples.threshold_questions),
        "held_out": evaluation and _scores(evaluation),
        "seconds": round(seconds),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    (output / REPORT).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def source_name(checkpoint: str) -> str:
    """The name of a folder, or a hub id as it is."""
    return Path(checkpoint).name if Path(checkpoint).is_dir() else checkpoint


def _scores(evaluation: Evaluation) -> dict[str, float]:
    return dict(evaluation.metrics) | {
        "null_score_diff_threshold": evaluation.threshold,
        "exact_at_threshold": evaluation.exact,
        "f1_at_threshold": evaluation.f1,
        "f1_at_0": evaluation.f1_at_0,
    }
