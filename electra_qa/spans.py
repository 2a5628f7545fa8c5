"""Logits to spans, and what an answer is.

`decode` is the NumPy reference of what the exported graph does inside the engine: tests hold the
graph against it. `merge` makes answers of what comes out.

The search for the best spans is exact over all pairs of start and end, where `run_squad.py` looks
only at the 20 best starts and the 20 best ends.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# The logit of a position that may not start or end an answer. Finite, because a strongly typed
# engine need not propagate infinities; far below any real logit and exact in float32.
MASKED = -1e30
# Of `run_squad.py`, and the `answers_per_seq` of Haystack's reader.
N_BEST_SIZE = 20


@dataclass(frozen=True, slots=True)
class DecodedWindows:
    """What leaves an engine: the best spans of each window, best first, and its null score.

    spans: int32 [windows, n, 2], the first and the last position (inclusive) of a span.
    span_logits: float32 [windows, n, 2], their start and end logits. A window with fewer than n
        spans is filled up with ones that have a logit of `MASKED`.
    null_logits: float32 [windows, 2], start and end logit of [CLS].
    log_partition: float32 [windows, 2], log Σ exp over the context's tokens and [CLS], of the
        start and of the end logits: a span's start has the probability exp(logit − this).
    logits: float32 [windows, length, 2], the start and the end logit of every position, whatever
        it is: for what a request wants beyond the spans, see `host_decode`.
    """

    spans: npt.NDArray[np.int32]
    span_logits: npt.NDArray[np.float32]
    null_logits: npt.NDArray[np.float32]
    log_partition: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


# The names of a graph's outputs, in the order of the fields.
OUTPUTS = tuple(field.name for field in dataclasses.fields(DecodedWindows))


def decode(
    start_logits: npt.NDArray[np.float32],
    end_logits: npt.NDArray[np.float32],
    bounds: npt.NDArray[np.int32],
    n_best_size: int,
) -> DecodedWindows:
    """The n best spans of each window and its null score, by looking at every pair.

    start_logits, end_logits: float32 [windows, length].
    bounds: int32 [windows, 5], see `windows.BOUNDS`.

    A span (s, e) is allowed where start_first ≤ s < start_end, context_start ≤ e < context_end
    and s ≤ e < s + max_answer_length. Of spans with equal scores the one with the smaller start,
    then the smaller end comes first.
    """
    windows, length = start_logits.shape
    spans = np.zeros((windows, n_best_size, 2), dtype=np.int32)
    span_logits = np.full((windows, n_best_size, 2), MASKED, dtype=np.float32)
    log_partition = np.empty((windows, 2), dtype=np.float32)
    position = np.arange(length)
    for row in range(windows):
        start, end = start_logits[row], end_logits[row]
        context_start, context_end, start_first, start_end, max_answer_length = bounds[row]
        in_context = (position >= context_start) & (position < context_end)
        may_start = (position >= start_first) & (position < start_end)
        distance = position[None, :] - position[:, None]
        allowed = may_start[:, None] & in_context[None, :]
        allowed &= (distance >= 0) & (distance < max_answer_length)
        firsts, lasts = np.nonzero(allowed)
        scores = start[firsts] + end[lasts]
        best = np.argsort(-scores, kind="stable")[:n_best_size]
        found = len(best)
        spans[row, :found] = np.stack((firsts[best], lasts[best]), axis=-1)
        span_logits[row, :found] = np.stack((start[firsts[best]], end[lasts[best]]), axis=-1)
        in_softmax = in_context | (position == 0)
        log_partition[row] = [_log_sum_exp(start[in_softmax]), _log_sum_exp(end[in_softmax])]
    null_logits = np.stack((start_logits[:, 0], end_logits[:, 0]), axis=-1)
    logits = np.stack((start_logits, end_logits), axis=-1)
    return DecodedWindows(spans, span_logits, null_logits, log_partition, logits)


def _log_sum_exp(logits: npt.NDArray[np.float32]) -> float:
    highest = float(logits.max())
    return highest + math.log(float(np.exp(logits.astype(np.float64) - highest).sum()))


def sigmoid(x: float) -> float:
    """1 / (1 + exp(−x)), without overflow."""
    return 0.5 * (1 + math.tanh(0.5 * x))


class Rules(enum.Enum):
    """Whose rules make answers out of spans, see `merge`."""

    RUN_SQUAD = "run_squad"
    PIPELINE = "pipeline"
    READER = "reader"

    @property
    def max_context(self) -> bool:
        """Whether an answer starts only where its window gives it the most context."""
        return self is Rules.RUN_SQUAD


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What a caller may choose for a question. Names and defaults are `run_squad.py`'s.

    max_overlap: an answer is left out that shares more than this part of its characters, or of the
        other's, with a better one; None keeps all.
    every_place: answers with the same text are one for each place.
    n_best_size: by `Rules.READER`, how many spans of each window are looked at.
    """

    top_k: int = 1
    max_answer_length: int = 30
    null_score_diff_threshold: float = 0.0
    rules: Rules = Rules.RUN_SQUAD
    align_to_words: bool = False
    max_overlap: float | None = None
    every_place: bool = False
    n_best_size: int = N_BEST_SIZE

    @property
    def spans_of_a_window(self) -> int:
        """How many spans of a window must be known for the `top_k` best answers."""
        match self.rules:
            case Rules.PIPELINE:
                return pipeline_spans(self.top_k, self.align_to_words)
            case Rules.READER:
                return self.n_best_size
        return 1 if self.apart else self.top_k

    @property
    def apart(self) -> bool:
        """Whether answers are looked for where better ones leave room, see `apart`."""
        return self.max_overlap is not None and self.rules is Rules.RUN_SQUAD


def pipeline_spans(top_k: int, align_to_words: bool) -> int:
    """How many spans of a window the pipeline looks at: some fall together when aligned."""
    return top_k * 2 + 10 if align_to_words else top_k


@dataclass(frozen=True, slots=True)
class Answer:
    """A span of the caller's context.

    start, end: its characters [start, end), in code points.
    score: P(start) × P(end), each a softmax over the window's context tokens and [CLS], as
        Transformers' question-answering pipeline has it.
    start_logit, end_logit: the model's own.
    """

    text: str
    start: int
    end: int
    score: float
    start_logit: float
    end_logit: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answers to a question, best first, and how they compare to there being none.

    is_impossible: null_score_diff > null_score_diff_threshold, or no span at all.
    null_score: the smallest start + end logit of [CLS] among the windows.
    null_score_diff: null_score − (start + end logit of the best answer); inf without an answer.
    null_probability: the smallest P(start = [CLS]) × P(end = [CLS]) among the windows.
    """

    answers: tuple[Answer, ...]
    is_impossible: bool
    null_score: float
    null_score_diff: float
    null_probability: float


# Not frozen: to make one, as for every window, would take thrice as long.
@dataclass(eq=False, slots=True)
class DecodedWindow:
    """The rows of one window in `DecodedWindows`, on the host."""

    spans: npt.NDArray[np.int32]
    span_logits: npt.NDArray[np.float32]
    null_logits: npt.NDArray[np.float32]
    log_partition: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


def rows(decoded: DecodedWindows) -> Iterator[DecodedWindow]:
    """Of each window; as many of them as there are spans."""
    return map(
        DecodedWindow,
        decoded.spans,
        decoded.span_logits,
        decoded.null_logits,
        decoded.log_partition,
        decoded.logits,
    )


def row(decoded: DecodedWindows, index: int) -> DecodedWindow:
    return DecodedWindow(
        decoded.spans[index],
        decoded.span_logits[index],
        decoded.null_logits[index],
        decoded.log_partition[index],
        decoded.logits[index],
    )
