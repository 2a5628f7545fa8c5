"""What a CPU engine computes its batches with, handed out to one call at a time."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from . import EngineError

T = TypeVar("T")


class Pool(Generic[T]):
    """After `close` whoever waits, or comes later, gets an EngineError."""

    def __init__(self, members: Iterable[T]) -> None:
        # None stands for a pool that is closed: each who gets it puts it back for the next.
        self._free: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._closed = False
        for member in members:
            self._free.put(member)

    @contextmanager
    def one(self) -> Iterator[T]:
        """Waits until one is free. Raises EngineError."""
        member = self._free.get()
        try:
            if member is None:
                raise EngineError("the engine is closed")
            yield member
        finally:
            self._free.put(None if self._closed else member)

    def close(self) -> None:
        """Let go of all of them, of those in use when they are given back."""
        self._closed = True
        while not self._free.empty():
            self._free.get()
        self._free.put(None)
