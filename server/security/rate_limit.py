"""How many questions a second a caller may ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

from ..errors import RateLimitError


class RateLimit:
    """A token bucket that holds what comes in a second, and at least one question.

    A call is let in while the bucket holds one question, and takes out all that it asks, into debt:
    a batch larger than the bucket passes too, and those after it wait until it is paid for.
    """

    def __init__(self, name: str, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._rate = rate
        self._clock = clock
        self._size = max(1.0, rate)
        self._level = self._size
        self._filled = clock()

    def take(self, questions: int) -> None:
        """Raises RateLimitError, and takes nothing."""
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._filled) * self._rate)
        self._filled = now
        if self._level < 1:
            raise RateLimitError(
                f"{self._name} may ask {self._rate:g} questions a second",
                retry_delay_s=(1 - self._level) / self._rate,
            )
        self._level -= questions


# Of the call under way. Set where its token is seen, and looked at where its questions are counted:
# gRPC runs both in one task, and the tasks of a stream's questions inherit it.
current_limit: ContextVar[RateLimit | None] = ContextVar("current_limit", default=None)
