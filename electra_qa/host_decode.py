"""The best spans of a window on the host, from its logits: for a request that wants more spans, or
longer ones, than the graph decodes.

Exact, and with the graph's order of ties; `spans.decode` is the reference of both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from .spans import DecodedWindow, DecodeOptions
from .windows import Window


def needs_host(options: DecodeOptions, n_best_size: int, max_answer_length_limit: int) -> bool:
    """Whether a request goes past what the graph decodes of a window, see `Manifest`."""
    return (
        options.spans_of_a_window > n_best_size
        or options.max_answer_length > max_answer_length_limit
    )


def decode_on_host(
    windows: Sequence[Window],
    decoded: Sequence[DecodedWindow],
    options: DecodeOptions,
    n_best_size: int,
    check: Callable[[], None] = lambda: None,
) -> list[DecodedWindow]:
    """The windows with the best spans that the options allow in place of the graph's: as many as
    the options look at, and at least `n_best_size`, as the graph has.

    check: called for every window; what it raises ends the work.
    """
    n = max(n_best_size, options.spans_of_a_window)
    widened = []
    for window, one in zip(windows, decoded, strict=True):
        check()
        widened.append(_decode(window, one, options.max_answer_length, n))
    return widened


def _decode(
    window: Window, decoded: DecodedWindow, max_answer_length: int, n: int
) -> DecodedWindow:
    spans, span_logits = best_spans(decoded.logits, window.bounds(max_answer_length), n)
    return dataclasses.replace(decoded, spans=spans, span_logits=span_logits)


def best_spans(
    logits: npt.NDArray[np.float32], bounds: Sequence[int], n: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """The n best spans that are allowed, or all where there are fewer: positions int32 [spans, 2]
    and logits float32 [spans, 2], best first.

    logits: float32 [length, 2]. bounds: a row in the order of `windows.BOUNDS`.
    """
    table = span_table(logits, bounds)
    if table is None:
        return np.empty((0, 2), np.int32), np.empty((0, 2), np.float32)
    order = _best(table.scores().ravel(), n)
    start = order // table.longest
    last = start + order % table.longest
    spans = np.stack((start, last), axis=-1).astype(np.int32) + np.int32(table.first)
    return spans, np.stack((table.starts[start], table.ends[last]), axis=-1)


@dataclass(frozen=True, slots=True)
class SpanTable:
    """The spans of a window that are allowed.

    first: the first position that may start one.
    starts: float32 [starts], the start logits from there on.
    ends: float32 [starts + longest span − 1], the end logits; −inf where a span may not end.
    """

    first: int
    starts: npt.NDArray[np.float32]
    ends: npt.NDArray[np.float32]

    @property
    def longest(self) -> int:
        return len(self.ends) - len(self.starts) + 1

    def scores(self) -> npt.NDArray[np.float32]:
        """float32 [starts, longest], by start and distance; what is no span is never chosen."""
        return self.starts[:, None] + sliding_window_view(self.ends, self.longest)


def span_table(logits: npt.NDArray[np.float32], bounds: Sequence[int]) -> SpanTable | None:
    """See `best_spans`. None where there is no span."""
    context_start, context_end, start_first, start_end, longest = bounds
    first, stop = max(start_first, 0), min(start_end, len(logits))
    last_stop = min(context_end, len(logits))
    longest = min(longest, last_stop - first)
    if first >= stop or longest < 1:
        return None
    ends = np.full(stop - first + longest - 1, -np.inf, np.float32)
    lowest = max(context_start - first, 0)
    highest = min(last_stop - first, len(ends))
    ends[lowest:highest] = logits[first + lowest : first + highest, 1]
    return SpanTable(first, logits[first:stop, 0], ends)


def _best(scores: npt.NDArray[np.float32], n: int) -> npt.NDArray[np.intp]:
    """Indices of the n highest scores over −inf, best first, of equal ones the smaller index."""
    least = np.float32(-np.inf)
    if n < len(scores):
        least = np.partition(scores, len(scores) - n)[len(scores) - n]
    above = np.flatnonzero(scores > least)
    if np.isfinite(least):
        equal = np.flatnonzero(scores == least)[: n - len(above)]
        above = np.sort(np.concatenate((above, equal)))
    return above[np.argsort(-scores[above], kind="stable")]
