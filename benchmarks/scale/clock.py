"""The clock of a simulation, and what does one thing after the other."""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from functools import partial


class Clock:
    """now: in seconds from the start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, time: float, do: Callable[[], None]) -> None:
        """What is due at the same time is done in the order in which it was asked for."""
        heapq.heappush(self._due, (time, next(self._count), do))

    def run(self) -> None:
        """Until nothing is due any more."""
        while self._due:
            self.now, _, do = heapq.heappop(self._due)
            do()


class Station:
    """An event loop, or a device: one thing at a time, in the order in which it comes.

    busy_s: how long it has worked.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[tuple[float, Callable[[], None]]] = deque()
        self._works = False
        self._waiting_s = self._free_at = 0.0
        self.busy_s = 0.0

    @property
    def backlog_s(self) -> float:
        """Of what it works on, and all that waits."""
        own_s = self._free_at - self._clock.now if self._works else 0.0
        return max(0.0, self._waiting_s + own_s)

    def work(self, seconds: float, then: Callable[[], None], *, is_next: bool = False) -> None:
        """Take something that takes so long; `then` once it is done.

        is_next: before all that waits.
        """
        if is_next:
            self._waiting.appendleft((seconds, then))
        else:
            self._waiting.append((seconds, then))
        self._waiting_s += seconds
        if not self._works:
            self._begin()

    def _begin(self) -> None:
        seconds, then = self._waiting.popleft()
        self._works = True
        self._waiting_s -= seconds
        self.busy_s += seconds
        self._free_at = self._clock.now + seconds
        self._clock.at(self._free_at, partial(self._end, then))

    def _end(self, then: Callable[[], None]) -> None:
        self._works = False
        if self._waiting:
            self._begin()
        then()
