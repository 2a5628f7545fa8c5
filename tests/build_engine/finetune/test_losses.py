from __future__ import annotations

import numpy as np
import pytest
import torch

from electra_qa.build_engine.finetune.batches import Batch, collate
from electra_qa.build_engine.finetune.data import Feature
from electra_qa.build_engine.finetune.losses import distillation_loss, span_loss

LENGTHS = (40, 25)


@pytest.fixture
def batch() -> Batch:
    features = [
        Feature(np.ones(length, dtype=np.int32), 4, start, start + 2)
        for length, start in zip(LENGTHS, (0, 7), strict=True)
    ]
    return collate(features, pad_id=0, max_length=384)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(2, 64, 2, generator=torch.Generator().manual_seed(seed)) * 3


def log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max()
    return shifted - np.log(np.exp(shifted).sum())


def test_the_span_loss_is_the_mean_of_both_cross_entropies(batch: Batch) -> None:
    found = logits(0)
    expected = [
        -log_softmax(found[row, :length, side].double().numpy())[places[row]]
        for row, length in enumerate(LENGTHS)
        for side, places in enumerate((batch.starts, batch.ends))
    ]
    assert span_loss(found, batch).item() == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_a_softened_divergence(batch: Batch, temperature: float) -> None:
    student, teacher = logits(0), logits(1)
    expected = []
    for row, length in enumerate(LENGTHS):
        for side in (0, 1):
            p, q = (
                log_softmax(x[row, :length, side].double().numpy() / temperature)
                for x in (teacher, student)
            )
            expected.append((np.exp(p) * (p - q)).sum() * temperature**2)
    found = distillation_loss(student, teacher, batch, temperature)
    assert found.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_a_student_that_agrees_has_nothing_to_learn(batch: Batch) -> None:
    student = logits(0).requires_grad_()
    loss = distillation_loss(student, logits(0) + 5, batch, 2.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-5)
    assert student.grad is not None
    assert student.grad.abs().max().item() < 1e-5


def test_padding_has_no_part_in_either_loss(batch: Batch) -> None:
    student, teacher = logits(0), logits(1)
    noise = torch.where(batch.attention_mask[..., None] == 0, 1e4, 0.0)
    assert span_loss(student + noise, batch) == span_loss(student, batch)
    assert distillation_loss(student + noise, teacher - noise, batch, 2.0).item() == pytest.approx(
        distillation_loss(student, teacher, batch, 2.0).item()
    )
