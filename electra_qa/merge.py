"""Spans to answers: the windows of a question put together. What the server runs.

Whose rules they are is the caller's choice, see `spans.Rules`: `run_squad.py`'s with
`version_2_with_negative`; those of the question-answering pipeline that Transformers had up to 5.2;
or those of Haystack's `ExtractiveReader`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from .apart import best_apart, overlaps
from .candidates import Candidate, candidates
from .spans import Answer, DecodedWindow, DecodeOptions, Prediction, Rules
from .tokenization import TokenizedContext
from .windows import Window


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
    text only the best counts, if not `every_place`. By `Rules.PIPELINE` they are ordered by
    probability, the probabilities of answers whose texts differ at most in case are added up, and
    an answer that is aligned to words stays within its window. By `Rules.READER` they are ordered
    by start + end logit, every place counts, and no more than `n_best_size` spans of a window.

    max_text_bytes: in UTF-8, of all texts that differ. Raises TooMuchTextError before it would hold
        more of them.
    check: called for every span that is looked at; what it raises ends the work.
    """
    if not decoded:
        return Prediction((), True, 0.0, math.inf, 1.0)
    nulls = [_null(one) for one in decoded]
    null_score = min(nulls)[0]
    null_probability = min([probability for _, probability in nulls])
    texts = _Texts(context.text, max_text_bytes)
    spans = [candidates(w, d) for w, d in zip(windows, decoded, strict=True)]
    match options.rules:
        case Rules.PIPELINE:
            answers = _answers_pipeline(context, windows, spans, options, texts, check)
        case Rules.READER:
            answers = _answers_reader(context, spans, options, texts, check)
        case Rules.RUN_SQUAD if options.max_overlap is not None:
            apart = best_apart(context, windows, decoded, options, options.max_overlap)
            answers = _answers_run_squad(context, apart, options, texts, check)
        case Rules.RUN_SQUAD:
            answers = _answers_run_squad(context, _in_order(spans), options, texts, check)
    best = answers[0].start_logit + answers[0].end_logit if answers else -math.inf
    null_score_diff = null_score - best
    return Prediction(
        answers=tuple(answers),
        is_impossible=null_score_diff > options.null_score_diff_threshold or not answers,
        null_score=null_score,
        null_score_diff=null_score_diff,
        null_probability=null_probability,
    )


def _null(decoded: DecodedWindow) -> tuple[float, float]:
    """The null score of a window, and its probability."""
    start, end = decoded.null_logits.tolist()
    start_partition, end_partition = decoded.log_partition.tolist()
    score = start + end
    return score, math.exp(score - (start_partition + end_partition))


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


def _in_order(spans: Sequence[Iterator[Candidate]]) -> Iterable[Candidate]:
    if len(spans) == 1:
        return spans[0]
    return heapq.merge(*spans, key=lambda c: (-c.score, c.first, c.last))


def _answers_run_squad(
    context: TokenizedContext,
    in_order: Iterable[Candidate],
    options: DecodeOptions,
    texts: _Texts,
    check: Callable[[], None],
) -> list[Answer]:
    answers: dict[object, Answer] = {}
    for candidate in in_order:
        check()
        start, end = _characters(context, candidate, options)
        # A sentencepiece begins with the space before a word; `run_squad.py` answers in words.
        text = texts.cut(start, end).lstrip()
        start = end - len(text)
        key = (start, end) if options.every_place else text
        if not text or key in answers:
            continue
        if options.max_overlap is not None:
            # Widened to words, some share more than their spans do.
            taken = ((answer.start, answer.end) for answer in answers.values())
            if not _is_free((start, end), taken, options.max_overlap):
                continue
        texts.keep(text)
        answers[key] = candidate.answer(text, start, end, candidate.probability)
        if len(answers) == options.top_k:
            break
    return list(answers.values())


def _answers_reader(
    context: TokenizedContext,
    spans: Sequence[Iterator[Candidate]],
    options: DecodeOptions,
    texts: _Texts,
    check: Callable[[], None],
) -> list[Answer]:
    answers: list[Answer] = []
    places: list[tuple[int, int]] = []
    looked_at = (islice(of_window, options.n_best_size) for of_window in spans)
    for candidate in heapq.merge(*looked_at, key=lambda c: -c.score):
        check()
        place = _characters(context, candidate, options)
        if _is_free(place, places, options.max_overlap):
            text = texts.cut(*place)
            texts.keep(text)
            places.append(place)
            answers.append(candidate.answer(text, *place, candidate.probability))
            if len(answers) == options.top_k:
                break
    return answers


def _is_free(
    place: tuple[int, int], taken: Iterable[tuple[int, int]], max_overlap: float | None
) -> bool:
    return max_overlap is None or not any(overlaps(place, one, max_overlap) for one in taken)


@dataclass(eq=False, slots=True)
class _Same:
    """Spans with the same text: the first of them, and the sum of their probabilities."""

    candidate: Candidate
    start: int
    end: int
    score: float = 0.0


def _answers_pipeline(
    context: TokenizedContext,
    windows: Sequence[Window],
    candidates: Sequence[Iterator[Candidate]],
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
    best: list[_Same] = []
    for same in sorted(by_text.values(), key=lambda same: -same.score):
        taken = ((one.start, one.end) for one in best)
        if _is_free((same.start, same.end), taken, options.max_overlap):
            best.append(same)
            if len(best) == options.top_k:
                break
    return [
        same.candidate.answer(context.text[same.start : same.end], same.start, same.end, same.score)
        for same in best
    ]


def _characters(
    context: TokenizedContext,
    candidate: Candidate,
    options: DecodeOptions,
    within: tuple[int, int] | None = None,
) -> tuple[int, int]:
    return context.characters(
        candidate.first, candidate.last, align_to_words=options.align_to_words, within=within
    )
