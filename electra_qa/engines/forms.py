"""Two compiled forms of one graph on a CPU: for a batch that is alone, and for many that wait."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from . import EngineError

T = TypeVar("T")


class Forms(Generic[T]):
    """Hands out `latency`, which has all threads, to a call that is alone when it begins, and one
    of `throughput`, which share the threads, where more are there.

    Of both kinds none computes beside the other, so that there are never more threads than CPUs:
    calls that come while `latency` is in use wait for its end, and are then several. After `close`
    whoever waits, or comes later, gets an EngineError.
    """

    def __init__(self, latency: T, throughput: Iterable[T]) -> None:
        self._latency: T | None = latency
        self._latency_is_free = True
        self._free = list(throughput)
        self._calls = 0
        self._closed = False
        self._changed = threading.Condition()

    @contextmanager
    def one(self) -> Iterator[T]:
        """Waits until one is free. Raises EngineError."""
        member = self._take()
        try:
            yield member
        finally:
            self._give_back(member)

    def close(self) -> None:
        """Let go of all of them, of those in use when they are given back."""
        with self._changed:
            self._closed = True
            self._latency = None
            self._free.clear()
            self._changed.notify_all()

    def _take(self) -> T:
        with self._changed:
            self._calls += 1
            while not self._closed:
                if self._calls == 1 and self._latency is not None:
                    self._latency_is_free = False
                    return self._latency
                if self._latency_is_free and self._free:
                    return self._free.pop(0)
                self._changed.wait()
            raise EngineError("the engine is closed")

    def _give_back(self, member: T) -> None:
        with self._changed:
            self._calls -= 1
            if member is self._latency:
                self._latency_is_free = True
            elif not self._closed:
                self._free.append(member)
            self._changed.notify_all()
