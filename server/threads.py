"""Work that may never end, on threads that the server does not wait for.

A file on a mount that hangs, an engine that hangs: the rest of the server goes on, and ends.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

Result = TypeVar("Result")

# How long a thread that computes in Python lets the event loop wait, which gets its turn several
# times in a call. Python's own is 5 ms.
SWITCH_INTERVAL_S = 0.001


class OwnThread(threading.Thread):
    """Of those here, to tell them from others."""


def work_is_left() -> bool:
    """Whether one of these threads has not ended."""
    return any(isinstance(thread, OwnThread) for thread in threading.enumerate())


async def on_own_thread(function: Callable[..., Result], *args: Any) -> Result:
    """`asyncio.to_thread`, but neither the event loop nor the process waits for the thread's end.

    Where the task that waits here is cancelled, the thread goes on and its result is dropped.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()

    def settle(result: Result | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        result, error = None, None
        try:
            result = function(*args)
        except BaseException as raised:  # tokenizers' panics are no Exceptions
            error = raised
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    OwnThread(target=work, daemon=True).start()
    return await future
