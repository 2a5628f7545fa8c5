"""Stride windows: how a question and a context of any length become inputs of a fixed length.

The rules are those of `run_squad.py` (google-research/bert and
transformers/examples/legacy/question-answering). A window is

    [CLS] question [SEP] part of the context [SEP]

with one more [SEP] between the two for a model that was trained so (RoBERTa). The next window
starts `doc_stride` context tokens further on. Mind that the fast tokenizers and `run_qa.py` call
`stride` how much two windows *share*: `doc_stride_from_overlap` converts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

SPECIAL_TOKENS = 3  # [CLS] question [SEP] context [SEP]
BOUNDS = ("context_start", "context_end", "start_first", "start_end", "max_answer_length")


@dataclass(frozen=True, slots=True)
class WindowSettings:
    """How windows are cut, in tokens. Names and defaults are `run_squad.py`'s.

    special_tokens: how many a window has: 3, or 4 with two of them between question and context.

    Raises ValueError where no context token would fit beside the longest question.
    """

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64
    special_tokens: int = SPECIAL_TOKENS

    def __post_init__(self) -> None:
        for name in ("max_seq_length", "doc_stride", "max_query_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.special_tokens < SPECIAL_TOKENS:
            raise ValueError(
                f"special_tokens must be at least {SPECIAL_TOKENS}, got {self.special_tokens}"
            )
        smallest = self.max_query_length + self.special_tokens + 1
        if self.max_seq_length < smallest:
            raise ValueError(
                f"max_seq_length must be at least {smallest} for a max_query_length of "
                f"{self.max_query_length}, got {self.max_seq_length}"
            )

    def capacity(self, question_tokens: int) -> int:
        """Context tokens that fit in a window beside a question of that many tokens."""
        question_tokens = min(question_tokens, self.max_query_length)
        return self.max_seq_length - question_tokens - self.special_tokens


def doc_stride_from_overlap(overlap: int, capacity: int) -> int:
    """The `doc_stride` whose windows share `overlap` context tokens.

    Raises ValueError if a window of `capacity` context tokens can't move forward then.
    """
    if overlap >= capacity:
        raise ValueError(
            f"window_overlap must be under {capacity}, the context tokens in a window, "
            f"got {overlap}"
        )
    return capacity - overlap


# Not frozen, as what is made for every window: to make one would take thrice as long.
@dataclass(eq=False, slots=True)
class Window:
    """One input of the model, not padded.

    input_ids: int32 [length].
    context_start, context_end: positions [start, end) of the context's tokens in it.
    start_first, start_end: positions [first, end) where an answer may start.
    offset: the index, in the context's tokens, of the token at `context_start`.
    """

    input_ids: npt.NDArray[np.int32]
    context_start: int
    context_end: int
    start_first: int
    start_end: int
    offset: int

    @property
    def length(self) -> int:
        return len(self.input_ids)

    @property
    def context_tokens(self) -> tuple[int, int]:
        """Which of the context's tokens are in it: [start, end)."""
        return self.offset, self.offset + self.context_end - self.context_start

    def bounds(self, max_answer_length: int) -> tuple[int, int, int, int, int]:
        """The row of the graph's `bounds` input, in the order of `BOUNDS`."""
        return (
            self.context_start,
            self.context_end,
            self.start_first,
            self.start_end,
            max_answer_length,
        )


def make_windows(
    question_ids: npt.NDArray[np.int32],
    context_ids: npt.NDArray[np.int32],
    *,
    settings: WindowSettings,
    cls_id: int,
    sep_id: int,
    max_context: bool = True,
) -> list[Window]:
    """Cut a question and a context (int32 [tokens] each) into windows, in the context's order.

    A question over `max_query_length` loses its end, as in the reference. With `max_context` an
    answer may start only at a token that has more context in this window than in any other
    (`token_is_max_context`); without it, at any context token.
    """
    question = question_ids[: settings.max_query_length]
    parts, starts = _cut(
        len(context_ids), settings.capacity(len(question)), settings.doc_stride, max_context
    )
    context_start = len(question) + settings.special_tokens - 1
    windows = []
    for (offset, length), (first, end) in zip(parts, starts, strict=True):
        context_end = context_start + length
        input_ids = np.empty(context_end + 1, dtype=np.int32)
        input_ids[0] = cls_id
        input_ids[1 : len(question) + 1] = question
        input_ids[len(question) + 1 : context_start] = input_ids[context_end] = sep_id
        input_ids[context_start:context_end] = context_ids[offset : offset + length]
        windows.append(
            Window(
                input_ids,
                context_start,
                context_end,
                context_start + first,
                context_start + end,
                offset,
            )
        )
    return windows


# Questions about one text are cut alike, where they are of the same length.
@lru_cache(maxsize=32)
def _cut(
    tokens: int, capacity: int, doc_stride: int, max_context: bool
) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
    """(offset, length) of each window's part, and [first, end) in it where an answer may start."""
    parts = _parts(tokens, capacity, doc_stride)
    starts = _max_context_ranges(parts) if max_context else [(0, length) for _, length in parts]
    return parts, starts


def count_windows(context_tokens: int, capacity: int, doc_stride: int) -> int:
    """How many windows `make_windows` makes, without making them."""
    if context_tokens <= capacity:
        return min(context_tokens, 1)
    step = min(capacity, doc_stride)
    return 1 + -(-(context_tokens - capacity) // step)


def _parts(tokens: int, capacity: int, doc_stride: int) -> list[tuple[int, int]]:
    """(offset, length) of each window's part of the context."""
    parts = []
    offset = 0
    while offset < tokens:
        length = min(tokens - offset, capacity)
        parts.append((offset, length))
        if offset + length == tokens:
            break
        offset += min(length, doc_stride)
    return parts


def _max_context_ranges(parts: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """For each part, the range [first, end) of its own tokens for which it is the best window.

    A token's score in a window is min(tokens to its left, tokens to its right) + 0.01 × length,
    and the first window with the highest score has it. As functions of the token these scores are
    tents of the same slope, so that the best window only ever moves on to the next one: it is
    enough to find where each window hands over to its neighbour.
    """
    if len(parts) == 1:
        return [(0, parts[0][1])]
    handovers = [
        _handover(offset, length, next_length)
        for offset, length, next_length in (
            (parts[i + 1][0] - parts[i][0], parts[i][1], parts[i + 1][1])
            for i in range(len(parts) - 1)
        )
    ]
    firsts = [0] + [
        parts[i][0] + handover - parts[i + 1][0] for i, handover in enumerate(handovers)
    ]
    ends = [*handovers, parts[-1][1]] if parts else []
    return list(zip(firsts[: len(parts)], ends, strict=True))


@lru_cache(maxsize=4096)
def _handover(step: int, length: int, next_length: int) -> int:
    """The first token of a part that scores higher in the next part, `step` tokens further on."""
    for token in range(step, length):
        here = min(token, length - 1 - token) + 0.01 * length
        there = min(token - step, next_length - 1 - (token - step)) + 0.01 * next_length
        if there > here:
            return token
    return length


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """The inputs of the graph: windows padded to one length.

    input_ids: int32 [windows, length].
    bounds: int32 [windows, 5], the columns of `BOUNDS`.
    """

    input_ids: npt.NDArray[np.int32]
    bounds: npt.NDArray[np.int32]

    @classmethod
    def pad(
        cls,
        windows: Sequence[Window],
        max_answer_lengths: Sequence[int],
        *,
        length: int,
        pad_id: int,
    ) -> WindowBatch:
        """Pad windows with `pad_id` to `length`, which must be at least that of the longest."""
        input_ids = np.full((len(windows), length), pad_id, dtype=np.int32)
        for row, window in zip(input_ids, windows, strict=True):
            row[: window.length] = window.input_ids
        bounds = np.array(
            [w.bounds(n) for w, n in zip(windows, max_answer_lengths, strict=True)],
            dtype=np.int32,
        )
        return cls(input_ids, bounds)
