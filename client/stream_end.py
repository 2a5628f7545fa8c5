"""How a stream ended, where grpc.aio forgets it.

Where a call ends while a message is sent, grpc.aio makes that an INTERNAL error of its own, before
the call's status has come or in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar

import grpc

# grpc.aio's words for it.
NOT_SENT = "Internal error from Core"
# The call has ended: its status is here, or on its way through gRPC. In seconds.
LONGEST_WAIT_S = 5.0

Value = TypeVar("Value")


class StreamEnd:
    """Of one call, made as soon as the call is."""

    def __init__(self, call: grpc.aio.Call) -> None:
        self._ended: asyncio.Future[grpc.aio.AioRpcError] = asyncio.Future()
        # Called for each status that the call gets.
        call.add_done_callback(self._note)

    def _note(self, call: Any) -> None:
        details = _at_once(call.details())
        if details == NOT_SENT or self._ended.done():
            return
        code, trailing = _at_once(call.code()), _at_once(call.trailing_metadata())
        self._ended.set_result(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details))

    async def told(self, awaited: Awaitable[Value]) -> Value:
        """What the call gives. Raises grpc.aio.AioRpcError with the status of the call, and
        StopAsyncIteration where that is OK and nothing was given."""
        try:
            return await awaited
        except grpc.aio.AioRpcError as error:
            if error.details() != NOT_SENT:
                raise
        await asyncio.wait((self._ended,), timeout=LONGEST_WAIT_S)
        if not self._ended.done():
            nothing = grpc.aio.Metadata()
            raise grpc.aio.AioRpcError(
                grpc.StatusCode.UNAVAILABLE,
                nothing,
                nothing,
                "the stream ended while a message was sent",
            )
        ended = self._ended.result()
        if ended.code() is grpc.StatusCode.OK:
            raise StopAsyncIteration
        raise ended


def _at_once(coroutine: Coroutine[Any, Any, Value]) -> Value:
    """Its value. Those of a call that has ended wait for nothing, and a moment later they may say
    something else."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        value: Value = done.value
        return value
    raise AssertionError("the call has not ended")
