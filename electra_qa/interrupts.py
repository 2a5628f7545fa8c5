"""gRPC's blocking calls and Ctrl-C.

A KeyboardInterrupt, or what else a handler of a signal raises, comes in the main thread between any
two instructions. Where it comes while gRPC takes a call up, gRPC has a call that nobody looks
after; where it comes while gRPC takes a lock, nobody gives it back. Closing the channel would then
wait for ever.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

import grpc

Call = TypeVar("Call")

# After an interrupt. Closing takes milliseconds, and what is left ends with the process.
CLOSE_TIMEOUT_S = 1.0


def begun(begin: Callable[[], Call]) -> Call:
    """What `begin` makes: a future, or a stream, begun where no signal comes. Raises what it
    raises."""
    if threading.current_thread() is not threading.main_thread():
        return begin()
    made: SimpleQueue[tuple[Call] | BaseException] = SimpleQueue()
    context = contextvars.copy_context()  # of traces

    def run() -> None:
        try:
            made.put((context.run(begin),))
        except BaseException as error:
            made.put(error)

    threading.Thread(target=run, name="begin", daemon=True).start()
    outcome = made.get()
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome[0]


def close(channel: grpc.Channel) -> None:
    """Close it, and wait for its calls to end: after an interrupt not for ever."""
    _, handled, _ = sys.exc_info()
    if handled is None or isinstance(handled, Exception):
        channel.close()
        return
    closing = threading.Thread(target=channel.close, name="close", daemon=True)
    closing.start()
    closing.join(CLOSE_TIMEOUT_S)


@contextmanager
def closed_after(channel: grpc.Channel) -> Iterator[grpc.Channel]:
    try:
        yield channel
    finally:
        close(channel)
