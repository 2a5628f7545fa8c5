"""Answers that were given are kept, where the operator asks for it: an LRU, bounded in bytes."""

from __future__ import annotations

import dataclasses
import threading
from dataclasses import dataclass
from sys import getsizeof

from cachetools import LRUCache

from ..observe.metrics import Metrics
from .merging import Answered
from .options import QuestionOptions

# What Python holds of a question beside its texts: the key, the options and the prediction, and
# their places in the cache; and of each answer. Measured, and rounded up.
QUESTION_OVERHEAD = 900
ANSWER_OVERHEAD = 260

# By content: a question about another text or with other options is never taken for this one.
_Key = tuple[str, str, QuestionOptions]


@dataclass(frozen=True, slots=True)
class _Kept:
    """nbytes: the memory that it holds with its key."""

    answered: Answered
    nbytes: int


class AnswerCache:
    """Safe to call from several threads. With a `max_bytes` of 0 it keeps and counts nothing.

    It belongs to one model, whose answers they are. It has no errors: most are of the call, not of
    the question, and none took the engine's time.
    """

    def __init__(self, max_bytes: int, metrics: Metrics) -> None:
        self._is_on = max_bytes > 0
        self._metrics = metrics
        self._lock = threading.Lock()
        self._cache: LRUCache[_Key, _Kept] = LRUCache(max_bytes, getsizeof=lambda kept: kept.nbytes)

    @property
    def is_on(self) -> bool:
        return self._is_on

    def find(self, question: str, context: str, options: QuestionOptions) -> Answered | None:
        """What was kept; it spent nothing in the queue and in the engine."""
        if not self._is_on:
            return None
        with self._lock:
            found = self._cache.get((question, context, options))
        if found is None:
            self._metrics.answer_misses.inc()
            return None
        self._metrics.answer_hits.inc()
        return found.answered

    def keep(
        self, question: str, context: str, options: QuestionOptions, answered: Answered
    ) -> None:
        if not self._is_on:
            return
        kept = _Kept(
            dataclasses.replace(answered, queue_s=0.0, engine_s=0.0),
            getsizeof(question) + getsizeof(context) + _nbytes(answered),
        )
        with self._lock:
            if kept.nbytes <= self._cache.maxsize:
                before = self._cache.currsize
                self._cache[question, context, options] = kept
                self._metrics.answer_bytes.inc(self._cache.currsize - before)

    def clear(self) -> None:
        with self._lock:
            self._metrics.answer_bytes.dec(self._cache.currsize)
            self._cache.clear()


def _nbytes(answered: Answered) -> int:
    answers = answered.prediction.answers
    texts = sum(getsizeof(answer.text) for answer in answers)
    return QUESTION_OVERHEAD + len(answers) * ANSWER_OVERHEAD + texts
