from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from electra_qa.build_engine.finetune.batches import collate
from electra_qa.build_engine.finetune.data import Feature
from electra_qa.build_engine.finetune.model import load_model, span_logits
from electra_qa.build_engine.finetune.teacher import teacher_logits

MAX_LENGTH = 64


@pytest.fixture(scope="module")
def teacher(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint("bert", vocab_size=30522)


@pytest.fixture(scope="module")
def features() -> list[Feature]:
    rng = np.random.default_rng(0)
    return [
        Feature(rng.integers(1000, 2000, length, dtype=np.int32), 3, 0, 0)
        for length in (9, 64, 33, 20, 64, 7)
    ]


def ask(teacher: Path, features: list[Feature], output: Path) -> list[torch.Tensor]:
    return teacher_logits(
        str(teacher),
        load_model(str(teacher))[1],
        features,
        pad_id=0,
        max_length=MAX_LENGTH,
        autocast="no",
        device=torch.device("cpu"),
        output=output,
        console=Console(file=io.StringIO()),
    )


def test_each_window_has_the_logits_that_it_has_alone(
    teacher: Path, features: list[Feature], tmp_path: Path
) -> None:
    found = ask(teacher, features, tmp_path)
    model = load_model(str(teacher))[0].eval()
    for feature, logits in zip(features, found, strict=True):
        alone = collate([feature], 0, MAX_LENGTH)
        with torch.inference_mode():
            wanted = span_logits(
                model, alone.input_ids, alone.attention_mask, alone.token_type_ids, "no"
            )
        torch.testing.assert_close(logits, wanted[0, : feature.length].half(), rtol=2e-3, atol=2e-3)
    for kept, logits in zip(ask(teacher, features, tmp_path), found, strict=True):
        assert torch.equal(kept, logits)


def test_the_logits_of_all_windows_are_one_block_of_memory(
    teacher: Path, features: list[Feature], tmp_path: Path
) -> None:
    """Small blocks among those of the batches had the process grow to 24 GB on 55,801 windows."""
    found = ask(teacher, features, tmp_path)
    assert len({logits.untyped_storage().data_ptr() for logits in found}) == 1
