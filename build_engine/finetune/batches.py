"""Which windows make a batch, and the tensors of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from .data import Feature

LENGTH_STEP = 32
# Windows are sorted by length among this many batches' worth of them, drawn at random.
SORTED_BATCHES = 50


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of a model, padded.

    input_ids, token_type_ids, attention_mask: int64 [windows, length].
    starts, ends: int64 [windows].
    """

    input_ids: torch.Tensor
    token_type_ids: torch.Tensor
    attention_mask: torch.Tensor
    starts: torch.Tensor
    ends: torch.Tensor

    @property
    def tokens(self) -> int:
        """Padding left out."""
        return int(self.attention_mask.sum())

    def to(self, device: torch.device) -> Batch:
        return Batch(*(getattr(self, field.name).to(device) for field in fields(self)))


def epoch_batches(
    lengths: Sequence[int], batch_size: int, *, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of the windows of each batch of an epoch: every window once, like lengths together.

    The same for the same seed and epoch.
    """
    rng = np.random.default_rng([seed, epoch])
    shuffled = rng.permutation(len(lengths))
    pool = batch_size * SORTED_BATCHES
    batches = []
    for first in range(0, len(shuffled), pool):
        ordered = sorted(shuffled[first : first + pool].tolist(), key=lambda i: lengths[i])
        batches += [ordered[at : at + batch_size] for at in range(0, len(ordered), batch_size)]
    return [batches[index] for index in rng.permutation(len(batches))]


def collate(features: Sequence[Feature], pad_id: int, max_length: int) -> Batch:
    """Pad windows to the length of the longest, rounded up to a multiple of LENGTH_STEP.

    Every new length costs a CPU a kernel, so that fewer lengths are faster than less padding.
    """
    longest = max(feature.length for feature in features)
    length = min(-(-longest // LENGTH_STEP) * LENGTH_STEP, max_length)
    input_ids = np.full((len(features), length), pad_id, dtype=np.int64)
    token_type_ids = np.zeros_like(input_ids)
    attention_mask = np.zeros_like(input_ids)
    for index, feature in enumerate(features):
        input_ids[index, : feature.length] = feature.input_ids
        token_type_ids[index, feature.context_start : feature.length] = 1
        attention_mask[index, : feature.length] = 1
    return Batch(
        torch.from_numpy(input_ids),
        torch.from_numpy(token_type_ids),
        torch.from_numpy(attention_mask),
        torch.tensor([feature.start for feature in features]),
        torch.tensor([feature.end for feature in features]),
    )
