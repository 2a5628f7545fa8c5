"""The best spans of a context that leave each other room: of two that overlap only the better one.

Exact over every span of every window, however deep the next one lies: behind a window's best span
come dozens that differ from it by a word. Each span that is taken strikes out those that share too
much with it; a window whose spans are all worse than what is taken is never looked into.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

import numpy as np
from cachetools import LRUCache
from numpy.lib.stride_tricks import sliding_window_view

from .candidates import Candidate, candidate, candidates
from .host_decode import span_table
from .spans import DecodedWindow, DecodeOptions
from .tokenization import TokenizedContext
from .windows import Window

Place = tuple[int, int]

# What the tables of one question may hold: those of a window have a score for each start and
# length.
FIELD_BYTES = 32 * 2**20


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
        self._table = table
        self._window = window
        self._log_partition = sum(decoded.log_partition.tolist())
        self._scores = table.scores()
        first = table.first + window.offset - window.context_start
        offsets = context.offsets[first : first + len(table.ends)]
        self._start = offsets[: len(table.starts), 0, None]
        ends = np.zeros(len(table.ends), np.int32)
        ends[: len(offsets)] = offsets[:, 1]
        self._end = sliding_window_view(ends, table.longest)

    @property
    def nbytes(self) -> int:
        return self._scores.nbytes

    def best(self) -> Candidate | None:
        """Of those that are left; None where none is."""
        table = self._table
        start, distance = divmod(int(self._scores.argmax()), table.longest)
        if self._scores[start, distance] == -np.inf:
            return None
        last = start + distance
        return candidate(
            self._window,
            table.first + start,
            table.first + last,
            float(table.starts[start]),
            float(table.ends[last]),
            self._log_partition,
        )

    def strike_out(self, place: Place, max_overlap: float) -> None:
        """Those that share too much with a place, and those that are just there."""
        shared = np.minimum(place[1], self._end) - np.maximum(place[0], self._start)
        shorter = np.minimum(place[1] - place[0], self._end - self._start)
        too_much = (shared > max_overlap * shorter) & (shared > 0)
        same = (self._start == place[0]) & (self._end == place[1])
        self._scores[too_much | same] = -np.inf


class _Fields:
    """Of a question's windows, without what was taken. Those that were not looked at for long are
    forgotten, and made anew."""

    def __init__(
        self,
        context: TokenizedContext,
        windows: Sequence[Window],
        decoded: Sequence[DecodedWindow],
        options: DecodeOptions,
        max_overlap: float,
    ) -> None:
        self._context = context
        self._windows = windows
        self._decoded = decoded
        self._options = options
        self._max_overlap = max_overlap
        self._taken: list[tuple[Candidate, Place]] = []
        self._changed: set[int] = set()
        self._fields: LRUCache[int, _Field] = LRUCache(FIELD_BYTES, lambda field: field.nbytes)
        tokens = np.array([window.context_tokens for window in windows])
        self._firsts, self._stops = tokens[:, 0], tokens[:, 1]

    def best(self, index: int) -> Candidate | None:
        """Of a window, of what is left of it."""
        first_of_all = next(candidates(self._windows[index], self._decoded[index]), None)
        if first_of_all is None or index not in self._changed:
            return first_of_all
        field = self._fields.get(index)
        if field is None:
            field = _Field(
                self._context,
                self._windows[index],
                self._decoded[index],
                self._options.max_answer_length,
            )
            first, stop = self._firsts[index], self._stops[index]
            for taken, place in self._taken:
                if taken.first < stop and taken.last >= first:
                    field.strike_out(place, self._max_overlap)
            if field.nbytes <= FIELD_BYTES:
                self._fields[index] = field
        return field.best()

    def take(self, candidate: Candidate) -> None:
        place = self._context.characters(
            candidate.first, candidate.last, align_to_words=self._options.align_to_words
        )
        self._taken.append((candidate, place))
        near = (self._firsts <= candidate.last) & (self._stops > candidate.first)
        for index in np.flatnonzero(near).tolist():
            self._changed.add(index)
            if (field := self._fields.get(index)) is not None:
                field.strike_out(place, self._max_overlap)


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
    fields = _Fields(context, windows, decoded, options, max_overlap)
    heap: list[tuple[float, int, Candidate]] = []

    def push(index: int, best: Candidate | None) -> None:
        if best is not None:
            heapq.heappush(heap, (-best.score, index, best))

    for index in range(len(windows)):
        push(index, fields.best(index))
    while heap:
        _, index, best = heapq.heappop(heap)
        left = fields.best(index)
        if left == best:  # not struck out since
            yield best
            fields.take(best)
            left = fields.best(index)
        push(index, left)
