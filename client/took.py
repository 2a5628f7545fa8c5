"""How long a call took, whenever somebody looks at what it gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self


class Took:
    """Of one call, from when this is made."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: in seconds."""
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None

    @classmethod
    def of(cls, call: Any, clock: Callable[[], float]) -> Self:
        """Of a `grpc.Future` or a call of grpc.aio, which has just begun."""
        took = cls(clock)
        call.add_done_callback(took.end)
        return took

    def end(self, _: object = None) -> None:
        self._ended = self._clock()

    def seconds(self) -> float:
        """Until it ended; until now where nobody has said yet that it has."""
        return (self._clock() if self._ended is None else self._ended) - self._began
