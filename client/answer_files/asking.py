"""Rows through a server, in their order, whatever becomes of the server meanwhile."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, Unpack

from electra_qa.rpc import electra_qa_pb2 as pb

from ..errors import (
    DeadlineExceededError,
    ElectraQAError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from ..messages import Options, Outcome
from .rows import Row

# Rows that were read and are not written yet, at most: many bad ones may stand behind one that
# the server works on.
MOST_READ = 4096
# As in `evaluate`: nobody waits for one answer.
TIMEOUT_S = math.inf
# What another try may find otherwise.
PASSING = (UnavailableError, DeadlineExceededError, ResourceExhaustedError, InternalError)
SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 10.0


class Asked(Protocol):
    """What rows are asked of: a `Client`, or a cluster."""

    def info(self) -> pb.GetInfoResponse: ...

    def answer_many(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Outcome]: ...


def answered(
    client: Asked,
    rows: Iterable[Row],
    options: Options,
    retry_for: float,
    on_pause: Callable[[ElectraQAError], None],
) -> Iterator[tuple[Row, Outcome | None]]:
    """Each row with what the server says, or with None where it is bad, in their order.

    Where a whole call fails, what it asked is asked again, for `retry_for` seconds after the first
    failure without an answer in between; then its ElectraQAError is raised. on_pause: is told of
    each failure before the next try.
    """
    reading = _Reading(rows)
    failing_since: float | None = None
    pause = SHORTEST_PAUSE_S
    while True:
        try:
            for outcome in client.answer_many(reading.pairs(), timeout=TIMEOUT_S, **options):
                yield from reading.bad()
                yield reading.waiting.popleft(), outcome
                failing_since, pause = None, SHORTEST_PAUSE_S
        except PASSING as failure:
            now = time.monotonic()
            failing_since = failing_since or now
            if now + pause > failing_since + retry_for:
                raise
            on_pause(failure)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            continue
        yield from reading.bad()
        if reading.ended:
            return


class _Reading:
    """waiting: the rows that were read and have no answer yet."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows = iter(rows)
        self.waiting: deque[Row] = deque()
        self.ended = False

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Those that wait, and further ones."""
        for row in tuple(self.waiting):
            if row.error is None:
                yield row.question, row.context
        while len(self.waiting) < MOST_READ:
            following = next(self._rows, None)
            if following is None:
                self.ended = True
                return
            self.waiting.append(following)
            if following.error is None:
                yield following.question, following.context

    def bad(self) -> Iterator[tuple[Row, None]]:
        """The bad ones up to the next that was asked."""
        while self.waiting and self.waiting[0].error is not None:
            yield self.waiting.popleft(), None
