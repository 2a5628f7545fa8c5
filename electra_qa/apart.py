"""The best spans of a context that leave each other room: of two that overlap only the better one.

Exact over every span of every window, however deep the next one lies: behind a window's best span
come dozens that differ from it by a word. Each span that is taken strikes out those that share too
much with it; a window whose spans are all worse than what is taken is never looked into.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from .candidates import Candidate, candidate, candidates
from .host_decode import span_table
from .spans import DecodedWindow, DecodeOptions
from .tokenization import TokenizedContext
from .windows import Window

Place = tuple[int, int]


def overlaps(one: Place, other: Place, max_overlap: float) -> bool:
    """Whether two places, characters [start, end), share more than `max_overlap` of either."""
    shared = min(one[1], other[1]) - max(one[0], other[0])
    return shared > max_overlap * min(one[1] - one[0], other[1] - other[0]) and shared > 0


class _Field:
    """Every span of a window: by start, and by distance to the end."""

    def __init__(
        self,
        context: TokenizedContext,
        window: Window,
        decoded: DecodedWindow,
        max_answer_length: int,
    ) -> None:
        table = span_table(decoded.logits, window.bounds(max_answer_length))
        assert table is not None  # the window has a best span
        self._first, self._starts, self._ends = table
        self._window = window
        self._log_partition = sum(decoded.log_partition.tolist())
        self._longest = len(self._ends) - len(self._starts) + 1
        self._scores = self._starts[:, None] + sliding_window_view(self._ends, self._longest)
        first = self._first + window.offset - window.context_start
        offsets = context.offsets[first : first + len(self._ends)]
        self._start = offsets[: len(self._starts), 0, None]
        ends = np.zeros(len(self._ends), np.int32)
        ends[: len(offsets)] = offsets[:, 1]
        self._end = sliding_window_view(ends, self._longest)

    def best(self) -> Candidate | None:
        """Of those that are left; None where none is."""
        start, distance = divmod(int(self._scores.argmax()), self._longest)
        if self._scores[start, distance] == -np.inf:
            return None
        last = start + distance
        return candidate(
            self._window,
            self._first + start,
            self._first + last,
            float(self._starts[start]),
            float(self._ends[last]),
            self._log_partition,
        )

    def strike_out(self, place: Place, max_overlap: float) -> None:
        """Those that share too much with a place, and those that are just there."""
        shared = np.minimum(place[1], self._end) - np.maximum(place[0], self._start)
        shorter = np.minimum(place[1] - place[0], self._end - self._start)
        too_much = (shared > max_overlap * shorter) & (shared > 0)
        same = (self._start == place[0]) & (self._end == place[1])
        self._scores[too_much | same] = -np.inf


def best_apart(
    context: TokenizedContext,
    windows: Sequence[Window],
    decoded: Sequence[DecodedWindow],
    options: DecodeOptions,
    max_overlap: float,
) -> Iterator[Candidate]:
    """Best first; of equal ones that of the earlier window. Made as they are wanted.

    max_overlap: the part of its characters, or of the other's, that a span may share with a better
        one.
    """
    fields: dict[int, _Field] = {}
    order = count()
    heap: list[tuple[float, int, int, Candidate]] = []

    def push(index: int, best: Candidate | None) -> None:
        if best is not None:
            heapq.heappush(heap, (-best.score, index, next(order), best))

    def field(index: int) -> _Field:
        if index not in fields:
            fields[index] = _Field(
                context, windows[index], decoded[index], options.max_answer_length
            )
        return fields[index]

    for index, (window, one) in enumerate(zip(windows, decoded, strict=True)):
        push(index, next(candidates(window, one), None))
    firsts = np.array([window.context_tokens[0] for window in windows])
    stops = np.array([window.context_tokens[1] for window in windows])
    while heap:
        _, index, _, best = heapq.heappop(heap)
        if index in fields:
            left = fields[index].best()
            if left != best:  # it was struck out
                push(index, left)
                continue
        yield best
        place = context.characters(best.first, best.last, align_to_words=options.align_to_words)
        for near in np.flatnonzero((firsts <= best.last) & (stops > best.first)).tolist():
            if next(candidates(windows[near], decoded[near]), None) is not None:
                field(near).strike_out(place, max_overlap)
        push(index, fields[index].best())
