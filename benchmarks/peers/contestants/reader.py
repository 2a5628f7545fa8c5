"""Questions to batches and logits to answers, the same for every peer that has no way of its own.

A peer gives the model: a function from batches to logits. Windows and answers follow
`run_squad.py`'s rules, as electra-qa's do. Of an n-best list only the best is wanted here, so that
the search is a maximum over all start/end pairs and takes a small part of the model's time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from electra_qa.spans import MASKED
from electra_qa.tokenization import TokenizedContext, Tokenizer
from electra_qa.windows import Window, WindowSettings, make_windows

SETTINGS = WindowSettings(max_seq_length=384, doc_stride=128, max_query_length=64)
MAX_ANSWER_LENGTH = 30
# A context that is asked about again is not tokenized again, here as in electra-qa.
CACHED_CONTEXTS = 1024

Question = tuple[str, str]
# The text of the best span, and the null score − its score: whoever asked decides by a threshold
# whether that is an answer.
Answer = tuple[str, float]
Floats = npt.NDArray[np.float32]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Batch:
    """What the model takes, padded to the longest window, int64 [windows, length] each."""

    input_ids: Integers
    attention_mask: Integers
    token_type_ids: Integers


# One pair of start and end logits, float32 [windows, length], for each batch, in their order.
Model = Callable[[Sequence[Batch]], Iterable[tuple[Floats, Floats]]]


@dataclass(frozen=True, slots=True)
class _Piece:
    """A window and the number of the question that it belongs to."""

    question: int
    window: Window


@dataclass(slots=True)
class _Best:
    """The best span so far of a question, in its context's tokens, and its null score."""

    score: float = MASKED
    first: int = 0
    last: int = 0
    null: float = -MASKED


class Reader:
    """Answers questions with a model, in batches of windows of like length."""

    def __init__(
        self, checkpoint: Path, model: Model, *, batch_size: int, pad_to_multiple_of: int = 1
    ) -> None:
        tokenizer = Tokenizer((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
        self._tokenizer = tokenizer
        self._context = functools.lru_cache(CACHED_CONTEXTS)(tokenizer.context)
        self._model = model
        self._batch_size = batch_size
        self._step = pad_to_multiple_of

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """In the questions' order."""
        contexts = [self._context(context) for _, context in questions]
        pieces = [
            _Piece(number, window)
            for number, (question, _) in enumerate(questions)
            for window in self._windows(question, contexts[number])
        ]
        pieces.sort(key=lambda piece: piece.window.length)
        batches = [
            pieces[i : i + self._batch_size] for i in range(0, len(pieces), self._batch_size)
        ]
        best = [_Best() for _ in questions]
        logits = self._model([self._pad([p.window for p in batch]) for batch in batches])
        for batch, (start, end) in zip(batches, logits, strict=True):
            _update(best, batch, start, end)
        return [_answer(context, found) for context, found in zip(contexts, best, strict=True)]

    def _windows(self, question: str, context: TokenizedContext) -> list[Window]:
        return make_windows(
            self._tokenizer.question(question),
            context.ids,
            settings=SETTINGS,
            cls_id=self._tokenizer.cls_id,
            sep_id=self._tokenizer.sep_id,
        )

    def _pad(self, windows: Sequence[Window]) -> Batch:
        longest = max(window.length for window in windows)
        shape = len(windows), -(-longest // self._step) * self._step
        input_ids = np.full(shape, self._tokenizer.pad_id, dtype=np.int64)
        attention_mask = np.zeros(shape, dtype=np.int64)
        token_type_ids = np.zeros(shape, dtype=np.int64)
        for row, window in enumerate(windows):
            input_ids[row, : window.length] = window.input_ids
            attention_mask[row, : window.length] = 1
            token_type_ids[row, window.context_start : window.length] = 1
        return Batch(input_ids, attention_mask, token_type_ids)


def _update(best: list[_Best], batch: Sequence[_Piece], start: Floats, end: Floats) -> None:
    scores, firsts, lasts = best_spans([piece.window for piece in batch], start, end)
    nulls = start[:, 0] + end[:, 0]
    for row, piece in enumerate(batch):
        found = best[piece.question]
        found.null = min(found.null, float(nulls[row]))
        if scores[row] > found.score:
            to_context = piece.window.offset - piece.window.context_start
            found.score = float(scores[row])
            found.first = int(firsts[row]) + to_context
            found.last = int(lasts[row]) + to_context


def best_spans(
    windows: Sequence[Window], start: Floats, end: Floats
) -> tuple[Floats, npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """The score, the first and the last position of each window's best span, [windows] each.

    start, end: logits, float32 [windows, length]. Looks at every allowed pair.
    """
    length = start.shape[1]
    position = np.arange(length)
    bounds = np.array(
        [(w.start_first, w.start_end, w.context_start, w.context_end) for w in windows]
    )[:, :, None]
    may_start = (position >= bounds[:, 0]) & (position < bounds[:, 1])
    may_end = (position >= bounds[:, 2]) & (position < bounds[:, 3])
    starts = np.where(may_start, start, -np.inf)
    ends = np.pad(
        np.where(may_end, end, -np.inf),
        ((0, 0), (0, MAX_ANSWER_LENGTH - 1)),
        constant_values=-np.inf,
    )
    # [windows, length, MAX_ANSWER_LENGTH]: the ends that a span from each start may have.
    reachable = np.lib.stride_tricks.sliding_window_view(ends, MAX_ANSWER_LENGTH, axis=1)
    scores = starts + reachable.max(axis=-1)
    firsts = scores.argmax(axis=1)
    rows = np.arange(len(windows))
    lasts = firsts + reachable[rows, firsts].argmax(axis=-1)
    return scores[rows, firsts].astype(np.float32), firsts, lasts


def _answer(context: TokenizedContext, best: _Best) -> Answer:
    null_score_diff = best.null - best.score
    if best.score == MASKED:  # no window has a span
        return "", null_score_diff
    start, end = context.characters(best.first, best.last)
    return context.text[start:end], null_score_diff
