"""Which shapes the GPU runs: length buckets, and numbers of windows for each."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...windows import BOUNDS
from .. import EngineError

# An optimization profile or two each, and kernels chosen for them.
LENGTHS = (64, 128, 192, 256, 320, 384, 512)

# Up to so many windows have a profile of their own, where a full batch has more: kernels for a full
# batch keep little of the GPU busy with one window.
FEW = 8

# Stands for the length of a batch in a shape.
LENGTH = -1

# TensorRT takes no other address, in bytes.
ALIGNMENT = 256

INPUTS = ("input_ids", "bounds")
OUTPUTS = ("spans", "span_logits", "null_logits", "log_partition", "logits")


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of the graph: its type, and its shape without the first axis, windows."""

    name: str
    dtype: npt.DTypeLike
    row: tuple[int, ...]

    def shape(self, windows: int, length: int) -> tuple[int, ...]:
        return (windows, *(length if size == LENGTH else size for size in self.row))


def graph_tensors(n_best_size: int) -> dict[str, Tensor]:
    """The graph's inputs and outputs, see `build_engine/graph.py`."""
    tensors = (
        Tensor("input_ids", np.int32, (LENGTH,)),
        Tensor("bounds", np.int32, (len(BOUNDS),)),
        Tensor("spans", np.int32, (n_best_size, 2)),
        Tensor("span_logits", np.float32, (n_best_size, 2)),
        Tensor("null_logits", np.float32, (2,)),
        Tensor("log_partition", np.float32, (2,)),
        Tensor("logits", np.float32, (LENGTH, 2)),
    )
    return {tensor.name: tensor for tensor in tensors}


@dataclass(frozen=True, slots=True)
class Shape:
    """A shape that the GPU runs. profile: an index in `Profiles.all`."""

    profile: int
    windows: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor of a shape lies in the memory that it shares with others, in bytes."""

    offset: int
    size: int
    dtype: npt.DTypeLike
    shape: tuple[int, ...]

    def view(self, block: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
        """The tensor, without a copy. block: uint8 [bytes]."""
        return block[self.offset : self.offset + self.size].view(self.dtype).reshape(self.shape)


def places(tensors: Iterable[Tensor], shape: Shape) -> tuple[dict[str, Place], int]:
    """The tensors one after another, so that one copy moves all of them; and their bytes."""
    found = {}
    size = 0
    for tensor in tensors:
        full = tensor.shape(shape.windows, shape.length)
        offset = -(-size // ALIGNMENT) * ALIGNMENT
        size = offset + math.prod(full) * np.dtype(tensor.dtype).itemsize
        found[tensor.name] = Place(offset, size - offset, tensor.dtype, full)
    return found, size


@dataclass(frozen=True, slots=True)
class Profile:
    """From `fewest` to `most` windows of a length; kernels are chosen for `tuned` of them."""

    length: int
    fewest: int
    tuned: int
    most: int


@dataclass(frozen=True, slots=True)
class Profiles:
    """lengths: the buckets, rising. max_batch_tokens: the budget of one run, padding included."""

    lengths: tuple[int, ...]
    max_batch_tokens: int

    @classmethod
    def up_to(cls, max_seq_length_limit: int, max_batch_tokens: int) -> Profiles:
        shorter = tuple(length for length in LENGTHS if length < max_seq_length_limit)
        return cls((*shorter, max_seq_length_limit), max_batch_tokens)

    def max_windows(self, length: int) -> int:
        return max(1, self.max_batch_tokens // length)

    @property
    def all(self) -> tuple[Profile, ...]:
        return tuple(profile for length in self.lengths for profile in self._of(length))

    def _of(self, length: int) -> tuple[Profile, ...]:
        most = self.max_windows(length)
        # Full batches are the rule under load, and without load time is there.
        if most <= FEW:
            return (Profile(length, 1, most, most),)
        return (Profile(length, 1, FEW // 2, FEW), Profile(length, FEW + 1, most, most))

    def shapes(self) -> tuple[Shape, ...]:
        """All that `fit` gives."""
        return tuple(
            dict.fromkeys(
                self.fit(windows, length)
                for length in self.lengths
                for windows in range(1, self.max_windows(length) + 1)
            )
        )

    def fit(self, windows: int, length: int) -> Shape:
        """The smallest shape that holds a batch. Its windows are 1, 2, 4, a multiple of 8, or the
        most: powers of two all the way would fill up large batches by a quarter on average.

        Raises EngineError where none does.
        """
        index = bisect_left(self.lengths, length)
        if index == len(self.lengths):
            raise EngineError(
                f"a window of {length} tokens is longer than the engine's {self.lengths[-1]}"
            )
        bucket = self.lengths[index]
        most = self.max_windows(bucket)
        if not 1 <= windows <= most:
            raise EngineError(
                f"a batch of {windows} windows of {bucket} tokens: the engine takes 1 to {most} "
                f"(max_batch_tokens is {self.max_batch_tokens})"
            )
        filled = 1 << (windows - 1).bit_length() if windows < FEW else -(-windows // FEW) * FEW
        filled = min(most, filled)
        profile = next(
            number
            for number, one in enumerate(self.all)
            if one.length == bucket and one.fewest <= filled <= one.most
        )
        return Shape(profile, filled, bucket)
