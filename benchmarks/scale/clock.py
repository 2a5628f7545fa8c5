"""The clock of a simulation, and what does one thing after the other."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


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

    busy_s: how long it has worked, and will for what it has.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._free_at = 0.0
        self.busy_s = 0.0

    def work(self, seconds: float, then: Callable[[], None]) -> None:
        """Take something that takes so long; `then` once it is done."""
        self._free_at = max(self._free_at, self._clock.now) + seconds
        self.busy_s += seconds
        self._clock.at(self._free_at, then)
