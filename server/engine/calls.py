"""A call's questions, and what became of them so far."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from electra_qa.spans import DecodedWindow

from ..errors import DeadlineError, RequestError


# Not frozen: to make one, as for every question, would take thrice as long.
@dataclass(eq=False, slots=True)
class WindowResult:
    """The decoded windows of one question, in their order, and what they spent, in seconds.

    batches: how many batches its call had taken part in when it was done.
    """

    decoded: list[DecodedWindow]
    queue_s: float
    engine_s: float
    batches: int = 1


Outcome = WindowResult | RequestError


class Call:
    """Lists by window, in the order of the questions, and lists by question: objects for each
    would cost more than all that is done with them.

    future: of the outcomes.
    rows: by window, what the engine is told of it, see `rows`.
    waits: by window, 1 while it waits.
    batches: how many it has taken part in.
    """

    __slots__ = (
        "_deadline",
        "_decoded",
        "_firsts",
        "_missing",
        "_open",
        "_outcomes",
        "_question",
        "_started_at",
        "batches",
        "future",
        "queued_at",
        "rows",
        "waits",
    )

    def __init__(
        self,
        questions: Sequence[Sequence[bytes]],
        deadline: float | None,
        future: asyncio.Future[list[Outcome]],
        now: float,
    ) -> None:
        """questions: the rows of each. deadline, now: by the event loop's clock, in seconds."""
        self.future = future
        self.rows = [row for rows in questions for row in rows]
        self.waits = bytearray(len(self.rows))
        self.batches = 0
        self.queued_at = now
        self._deadline = deadline
        windows = [len(rows) for rows in questions]
        # By window its question, and by question its first window, with the end behind the last.
        self._question: Sequence[int]
        self._firsts: Sequence[int]
        if len(self.rows) == len(questions) and all(windows):  # most calls: a window each
            self._question, self._firsts = range(len(questions)), range(len(questions) + 1)
        else:
            self._question = [n for n, count in enumerate(windows) for _ in range(count)]
            self._firsts = list(accumulate(windows, initial=0))
        self._decoded: list[DecodedWindow | None] = [None] * len(self.rows)
        self._missing = windows
        self._started_at: list[float | None] = [None] * len(questions)
        self._outcomes: list[Outcome | None] = [None] * len(questions)
        self._open = len(questions)
        if not self._open:
            future.set_result([])
        elif not all(windows):
            for question, count in enumerate(windows):
                if not count:
                    self._end(question, WindowResult([], 0.0, 0.0, 0))

    def wants(self, window: int, now: float) -> bool:
        """Whether a window that waits is still to be computed. Past its deadline a call fails."""
        if self.future.done():
            return False
        if self._deadline is not None and now >= self._deadline:
            late = DeadlineError("the deadline came while the question waited")
            self.future.set_exception(late)
            return False
        return self._outcomes[self._question[window]] is None

    def starts(self, window: int, now: float) -> bool:
        """Whether a window that is taken is the first one of its question."""
        question = self._question[window]
        if self._started_at[question] is not None:
            return False
        self._started_at[question] = now
        return True

    def computed(self, window: int, decoded: DecodedWindow, now: float) -> None:
        question = self._question[window]
        self._decoded[window] = decoded
        self._missing[question] -= 1
        if not self._missing[question]:
            first, stop = self._firsts[question], self._firsts[question + 1]
            whole = [one for one in self._decoded[first:stop] if one is not None]
            started_at = self._started_at[question] or now
            queue_s = started_at - self.queued_at
            self._end(question, WindowResult(whole, queue_s, now - started_at, self.batches))

    def failed(self, window: int, error: RequestError) -> None:
        """And its question with it."""
        self._end(self._question[window], error)

    def _end(self, question: int, outcome: Outcome) -> None:
        """The first outcome of a question counts; a call ends with the last of its questions."""
        if self.future.done() or self._outcomes[question] is not None:
            return
        self._outcomes[question] = outcome
        self._open -= 1
        if not self._open:
            self.future.set_result([one for one in self._outcomes if one is not None])
