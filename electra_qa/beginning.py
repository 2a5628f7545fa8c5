"""Where a call of gRPC's begins: out of the reach of Ctrl-C."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

Call = TypeVar("Call")


def begun(begin: Callable[[], Call]) -> Call:
    """What `begin` makes: a future, or a stream. Raises what it raises.

    A KeyboardInterrupt, or what else a handler of a signal raises, comes in the main thread between
    any two instructions. Where it comes while gRPC takes a call up, gRPC has a call that nobody
    looks after, and closing the channel waits for its end for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        return begin()
    made: SimpleQueue[tuple[Call] | BaseException] = SimpleQueue()
    context = contextvars.copy_context()  # of traces

    def run() -> None:
        try:
            made.put((context.run(begin),))
        except BaseException as error:
            made.put(error)

    threading.Thread(target=run, name="begin").start()
    outcome = made.get()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]
