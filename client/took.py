"""How long a call took, whenever somebody looks at what it gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Took:
    """Of a `grpc.Future` or a call of grpc.aio that has just begun. clock: in seconds."""

    def __init__(self, call: Any, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._began = clock()
        self._ended: float | None = None
        call.add_done_callback(self.end)

    def end(self, _: object) -> None:
        """The call's done callback."""
        self._ended = self._clock()

    def seconds(self) -> float:
        """Until it ended; until now where nobody has said yet that it has."""
        return (self._clock() if self._ended is None else self._ended) - self._began
