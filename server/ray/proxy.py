"""What runs in Ray's gRPC proxies: `grpc_servicer_functions` for its configuration.

Around Ray's own handling of a call: messages go on as they came, unparsed, the deadline goes with
them, an error comes back with its details, and what Ray itself says of a call that it could not
bring to its end becomes a status that clients know what to do with.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, NoReturn

import grpc

from ..errors import OverloadedError
from ..front.handlers import error_details
from ..front.service import SERVICE as QUESTIONS
from ..open_inference.service import SERVICE as INFERENCE
from .messages import Call, EndedError, read_reply
from .methods import Method, methods_of

HEALTH = "grpc.health.v1.Health"
# When to try again where every replica has as many calls as it may have, in seconds.
BUSY_DELAY_S = 0.5

BUSY = "all replicas are busy (max_ongoing_requests, max_queued_requests); try again later"
GONE = "the replica that had this call is gone, or could not take it; ask again"
NO_APPLICATION = (
    "no application takes calls here yet, or there are several, and the call names none in its "
    "metadata (application)"
)


def add_question_answering(_: object, server: Any) -> None:
    _add(server, QUESTIONS)


def add_inference_protocol(_: object, server: Any) -> None:
    _add(server, INFERENCE)


def add_health(_: object, server: Any) -> None:
    _add(server, HEALTH)


def _add(server: Any, service: str) -> None:
    server.add_generic_rpc_handlers((_Handlers(methods_of(service)),))


class _Handlers(grpc.GenericRpcHandler):
    """Ray puts functions of its own into `_method_handlers`; those are what is called here."""

    def __init__(self, methods: list[Method]) -> None:
        self._method_handlers: dict[str, Any] = {m.path: _unhandled(m) for m in methods}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        handler = self._method_handlers.get(handler_call_details.method)
        if handler is None:
            return None
        return handler._replace(
            unary_unary=_one_for_one(handler.unary_unary),
            unary_stream=_many_for_one(handler.unary_stream),
            stream_unary=_one_for_many(handler.stream_unary),
            stream_stream=_many_for_many(handler.stream_stream),
        )


def _unhandled(method: Method) -> Any:
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[method.reads, method.writes]
    return make(_never)


def _never(*_: object) -> NoReturn:
    raise AssertionError("Ray did not put its own in this place")


def _one_for_one(by_ray: Any) -> Any:
    async def handle(raw: bytes, context: Any) -> bytes:
        frame = await by_ray(Call(raw, context.time_remaining()), context)
        return await _message(frame, context)

    return handle


def _one_for_many(by_ray: Any) -> Any:
    async def handle(raws: AsyncIterator[bytes], context: Any) -> bytes:
        return await _message(await by_ray(_calls(raws, context), context), context)

    return handle


def _many_for_one(by_ray: Any) -> Any:
    async def handle(raw: bytes, context: Any) -> AsyncGenerator[bytes]:
        frames = by_ray(Call(raw, context.time_remaining()), context)
        async with aclosing(_messages(frames, context)) as messages:
            async for message in messages:
                yield message

    return handle


def _many_for_many(by_ray: Any) -> Any:
    async def handle(raws: AsyncIterator[bytes], context: Any) -> AsyncGenerator[bytes]:
        frames = by_ray(_calls(raws, context), context)
        async with aclosing(_messages(frames, context)) as messages:
            async for message in messages:
                yield message

    return handle


async def _calls(raws: AsyncIterator[bytes], context: Any) -> AsyncIterator[Call | bytes]:
    yield Call(b"", context.time_remaining())
    async for raw in raws:
        yield raw


async def _messages(frames: AsyncGenerator[bytes], context: Any) -> AsyncGenerator[bytes]:
    async with aclosing(frames):
        async for frame in frames:
            yield await _message(frame, context)
    if _code(context) is not grpc.StatusCode.OK:
        await _abort(_by_ray(context), context)


async def _message(frame: bytes, context: Any) -> bytes:
    """Aborts the call where it ended with an error."""
    if not frame:  # a replica says a byte at the least
        await _abort(_by_ray(context), context)
    try:
        return read_reply(frame)
    except EndedError as error:
        await _abort(error, context)


async def _abort(error: EndedError, context: Any) -> NoReturn:
    await context.abort(error.code, str(error), error.trailing)
    raise AssertionError("abort does not return")


def _code(context: Any) -> grpc.StatusCode:
    """gRPC has it as a number, as what it was set to, or not at all."""
    set_to = context.code() or 0
    return next(code for code in grpc.StatusCode if set_to in (code, code.value[0]))


def _by_ray(context: Any) -> EndedError:
    """Why no replica answered. Ray's texts have paths and stacks in them, and stay in its log."""
    code = _code(context)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED:
        busy = OverloadedError(BUSY, retry_delay_s=BUSY_DELAY_S)
        return EndedError(code, BUSY, error_details(busy))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return EndedError(code, "the answer took longer than Ray's request_timeout_s")
    if code is grpc.StatusCode.NOT_FOUND:
        if any(name == "application" for name, _ in context.invocation_metadata()):
            return EndedError(code, "no application of this name takes calls here")
        return EndedError(grpc.StatusCode.UNAVAILABLE, NO_APPLICATION)
    if code is grpc.StatusCode.CANCELLED:
        return EndedError(code, "the call was cancelled")
    return EndedError(grpc.StatusCode.UNAVAILABLE, GONE)
