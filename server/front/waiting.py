"""Whether anybody still waits for what a thread works on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import DeadlineError


class CallerGoneError(Exception):
    """The call was cancelled: whoever sees this is a thread whose result nobody reads."""


class Waiting:
    """Of one call. The event loop says that the caller is gone, threads ask.

    deadline: by the event loop's clock, which is `time.monotonic`, in seconds; None for none.
    """

    def __init__(self, deadline: float | None) -> None:
        self._deadline = deadline
        self._gone = False

    @contextmanager
    def waited_for(self) -> Iterator[None]:
        """Leaving the block, however it ends, ends the work for it."""
        try:
            yield
        finally:
            self._gone = True

    def check(self) -> None:
        """Raises CallerGoneError or DeadlineError where the work is for nobody."""
        if self._gone:
            raise CallerGoneError
        if self._deadline is not None and time.monotonic() >= self._deadline:
            raise DeadlineError("the deadline came while the question was worked on")
