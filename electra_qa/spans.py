"""Logits to answers.

`decode` is the NumPy reference of what the exported graph does inside the engine: tests hold the
graph against it. `merge` puts the windows of a question together and is what the server runs.

The rules are those of `run_squad.py` with `version_2_with_negative`, with one difference: the
search for the best spans is exact over all pairs of start and end, where the reference looks only
at the 20 best starts and the 20 best ends. `Rules.PIPELINE` has those of the question-answering
pipeline that Transformers had up to 5.2.
"""

from __future__ import annotations

import dataclasses
import enum
import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from .tokenization import TokenizedContext
from .windows import Window

# The logit of a position that may not start or end an answer. Finite, because a strongly typed
# engine need not propagate infinities; far below any real logit and exact in float32.
MASKED = -1e30


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


class Rules(enum.Enum):
    """Whose rules make answers out of spans."""

    RUN_SQUAD = "run_squad"
    PIPELINE = "pipeline"


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What a caller may choose for a question. Names and defaults are `run_squad.py`'s."""

    top_k: int = 1
    max_answer_length: int = 30
    null_score_diff_threshold: float = 0.0
    rules: Rules = Rules.RUN_SQUAD
    align_to_words: bool = False

    @property
    def spans_of_a_window(self) -> int:
        """How many spans of a window must be known for the `top_k` best answers."""
        if self.rules is Rules.PIPELINE:
            return pipeline_spans(self.top_k, self.align_to_words)
        return self.top_k


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


@dataclass(frozen=True, slots=True)
class DecodedWindow:
    """The rows of one window in `DecodedWindows`, on the host."""

    spans: npt.NDArray[np.int32]
    span_logits: npt.NDArray[np.float32]
    null_logits: npt.NDArray[np.float32]
    log_partition: npt.NDArray[np.float32]
    logits: npt.NDArray[np.float32]


def row(decoded: DecodedWindows, index: int) -> DecodedWindow:
    return DecodedWindow(
        decoded.spans[index],
        decoded.span_logits[index],
        decoded.null_logits[index],
        decoded.log_partition[index],
        decoded.logits[index],
    )


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A span in the context's own tokens."""

    first: int
    last: int
    start_logit: float
    end_logit: float
    probability: float

    @property
    def score(self) -> float:
        return self.start_logit + self.end_logit

    def answer(self, text: str, start: int, end: int, score: float) -> Answer:
        return Answer(text, start, end, score, self.start_logit, self.end_logit)


class TooMuchTextError(Exception):
    """The answers' texts would be longer than the caller of `merge` takes."""


def _go_on() -> None:
    pass


def merge(
    context: TokenizedContext,
    windows: Sequence[Window],
    decoded: Sequence[DecodedWindow],
    options: DecodeOptions,
    *,
    max_text_bytes: float = math.inf,
    check: Callable[[], None] = _go_on,
) -> Prediction:
    """Put the decoded windows of one question together.

    `windows` and `decoded` belong together pair by pair. Without any (a context that has no token)
    there is no answer.

    By `Rules.RUN_SQUAD` answers are ordered by start + end logit, and of answers with the same
    text only the best counts. By `Rules.PIPELINE` they are ordered by probability, the
    probabilities of answers whose texts differ at most in case are added up, and an answer that is
    aligned to words stays within its window.

    max_text_bytes: in UTF-8, of all texts that differ. Raises TooMuchTextError before it would hold
        more of them.
    check: called for every span that is looked at; what it raises ends the work.
    """
    if not decoded:
        return Prediction((), True, 0.0, math.inf, 1.0)
    null_scores = [sum(d.null_logits.tolist()) for d in decoded]
    null_score = min(null_scores)
    null_probability = min(
        math.exp(score - sum(d.log_partition.tolist()))
        for score, d in zip(null_scores, decoded, strict=True)
    )
    candidates = [_candidates(w, d) for w, d in zip(windows, decoded, strict=True)]
    texts = _Texts(context.text, max_text_bytes)
    if options.rules is Rules.PIPELINE:
        answers = _answers_pipeline(context, windows, candidates, options, texts, check)
    else:
        answers = _answers_run_squad(context, candidates, options, texts, check)
    best = answers[0].start_logit + answers[0].end_logit if answers else -math.inf
    null_score_diff = null_score - best
    return Prediction(
        answers=tuple(answers),
        is_impossible=null_score_diff > options.null_score_diff_threshold or not answers,
        null_score=null_score,
        null_score_diff=null_score_diff,
        null_probability=null_probability,
    )


def _candidates(window: Window, decoded: DecodedWindow) -> Iterator[_Candidate]:
    """The spans of a window, best first, made as they are wanted: most of them never are."""
    to_context = window.offset - window.context_start
    log_partition = sum(decoded.log_partition.tolist())
    spans, span_logits = decoded.spans, decoded.span_logits
    for index in range(len(spans)):
        first, last = spans[index].tolist()
        start_logit, end_logit = span_logits[index].tolist()
        if start_logit <= MASKED / 2:
            return
        yield _Candidate(
            first=first + to_context,
            last=last + to_context,
            start_logit=start_logit,
            end_logit=end_logit,
            probability=math.exp(start_logit + end_logit - log_partition),
        )


class _Texts:
    """Cuts the texts of answers, as long as there is room for them."""

    def __init__(self, context: str, max_bytes: float) -> None:
        self._context = context
        self._room = max_bytes

    def cut(self, start: int, end: int) -> str:
        """Raises TooMuchTextError; a character has at least one byte."""
        if end - start > self._room:
            raise TooMuchTextError
        return self._context[start:end]

    def keep(self, text: str) -> None:
        """Raises TooMuchTextError."""
        self._room -= utf8_bytes(text)
        if self._room < 0:
            raise TooMuchTextError


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _answers_run_squad(
    context: TokenizedContext,
    candidates: Sequence[Iterator[_Candidate]],
    options: DecodeOptions,
    texts: _Texts,
    check: Callable[[], None],
) -> list[Answer]:
    answers: dict[str, Answer] = {}
    in_order: Iterable[_Candidate] = candidates[0]
    if len(candidates) > 1:
        in_order = heapq.merge(*candidates, key=lambda c: (-c.score, c.first, c.last))
    for candidate in in_order:
        check()
        start, end = _characters(context, candidate, options)
        # A sentencepiece begins with the space before a word; `run_squad.py` answers in words.
        text = texts.cut(start, end).lstrip()
        start = end - len(text)
        if text and text not in answers:
            texts.keep(text)
            answers[text] = candidate.answer(text, start, end, candidate.probability)
            if len(answers) == options.top_k:
                break
    return list(answers.values())


@dataclass(eq=False, slots=True)
class _Same:
    """Spans with the same text: the first of them, and the sum of their probabilities."""

    candidate: _Candidate
    start: int
    end: int
    score: float = 0.0


def _answers_pipeline(
    context: TokenizedContext,
    windows: Sequence[Window],
    candidates: Sequence[Iterator[_Candidate]],
    options: DecodeOptions,
    texts: _Texts,
    check: Callable[[], None],
) -> list[Answer]:
    by_text: dict[str, _Same] = {}
    by_place: dict[tuple[int, int], _Same] = {}
    for window, spans in zip(windows, candidates, strict=True):
        for candidate in islice(spans, options.spans_of_a_window):
            check()
            # Of a word that the window cuts the pipeline sees what is in the window.
            place = _characters(context, candidate, options, window.context_tokens)
            same = by_place.get(place)
            if same is None:
                key = texts.cut(*place).lower()
                same = by_text.get(key)
                if same is None:
                    texts.keep(key)
                    same = by_text[key] = _Same(candidate, *place)
                by_place[place] = same
            same.score += candidate.probability
    best = sorted(by_text.values(), key=lambda same: -same.score)[: options.top_k]
    return [
        same.candidate.answer(context.text[same.start : same.end], same.start, same.end, same.score)
        for same in best
    ]


def pipeline_spans(top_k: int, align_to_words: bool) -> int:
    """How many spans of a window the pipeline looks at: some fall together when aligned."""
    return top_k * 2 + 10 if align_to_words else top_k


def _characters(
    context: TokenizedContext,
    candidate: _Candidate,
    options: DecodeOptions,
    within: tuple[int, int] | None = None,
) -> tuple[int, int]:
    return context.characters(
        candidate.first, candidate.last, align_to_words=options.align_to_words, within=within
    )
