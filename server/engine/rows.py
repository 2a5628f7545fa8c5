"""What an engine is told of a window, as bytes: its bounds, then its token ids.

int32 in the machine's order of bytes, the bounds in the order of `windows.BOUNDS`. Windows whose
rows are equal are the same to an engine. As bytes they are compared by one hash, the garbage
collector has nothing to look at while they wait, and a batch is put together by one copy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np

from electra_qa.windows import BOUNDS, Window, WindowBatch

INT_BYTES = 4
BOUNDS_BYTES = len(BOUNDS) * INT_BYTES
_pack_bounds = struct.Struct(f"={len(BOUNDS)}i").pack


@dataclass(frozen=True, slots=True)
class WindowRequest:
    """The windows of one question. with_logits: whether `DecodedWindow.logits` is looked at."""

    windows: Sequence[Window]
    max_answer_length: int
    with_logits: bool = False

    @property
    def rows(self) -> list[bytes]:
        return [
            _pack_bounds(*window.bounds(self.max_answer_length)) + window.input_ids.tobytes()
            for window in self.windows
        ]


@dataclass(frozen=True, slots=True)
class RowRequest:
    """The windows of one question as rows, for whoever has them from another process."""

    rows: list[bytes]


def split_rows(joined: bytes, tokens: Sequence[int]) -> list[bytes]:
    """Rows that were joined, by how many tokens each has."""
    ends = accumulate((BOUNDS_BYTES + INT_BYTES * n for n in tokens), initial=0)
    return [joined[start:end] for start, end in pairwise(ends)]


def row_tokens(row: bytes) -> int:
    """How many tokens the window has."""
    return (len(row) - BOUNDS_BYTES) // INT_BYTES


def pad_rows(rows: Sequence[bytes], *, length: int, pad_id: int) -> WindowBatch:
    """A batch of them, padded with `pad_id` to `length`, at least that of the longest."""
    padding = np.full(length, pad_id, np.int32).tobytes()
    parts = []
    for row in rows:
        parts.append(row)
        parts.append(padding[len(row) - BOUNDS_BYTES :])
    table = np.frombuffer(b"".join(parts), np.int32).reshape(len(rows), -1)
    # Copies, which an engine may write to, and which have no gaps.
    return WindowBatch(table[:, len(BOUNDS) :].copy(), table[:, : len(BOUNDS)].copy())
