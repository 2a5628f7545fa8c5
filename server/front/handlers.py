"""A service's methods as gRPC handlers: messages as bytes in, errors to statuses.

Requests are parsed by the methods, so that a message that can't be parsed has a status of its own
instead of gRPC's own way of failing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from ..errors import InvalidRequestError, RequestError, ShuttingDownError
from . import slices
from .calls import Calls

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, Message]
Request = TypeVar("Request", bound=Message)
Read = TypeVar("Read")
# A method may give its response in bytes: a large one is serialized off the event loop.
Unary = Callable[[bytes, Context], Awaitable[Message | bytes]]
Stream = Callable[[AsyncIterator[bytes], Context], AsyncGenerator[Message]]
# Many messages in, one out.
Collect = Callable[[AsyncIterator[bytes], Context], Awaitable[Message]]

# A message that takes some milliseconds to parse, in bytes.
LONG = 1_000_000

INTERNAL_ERROR = "internal error; the server's log has the reason"


def generic_handler(
    service: str,
    calls: Calls,
    unary: Mapping[str, Unary],
    streams: Mapping[str, Stream],
    collecting: Mapping[str, Collect] | None = None,
) -> grpc.GenericRpcHandler:
    """Of the service's methods, by name. A stream is an open call from its first message on."""
    kinds: tuple[tuple[Mapping[str, Any], Any, Any], ...] = (
        (unary, _guarded, grpc.unary_unary_rpc_method_handler),
        (streams, _guarded_stream, grpc.stream_stream_rpc_method_handler),
        (collecting or {}, _guarded_collect, grpc.stream_unary_rpc_method_handler),
    )
    handlers = {
        name: make(guard(name, method, calls), response_serializer=_serialize)
        for methods, guard, make in kinds
        for name, method in methods.items()
    }
    return grpc.method_handlers_generic_handler(service, handlers)


def _guarded(name: str, method: Unary, calls: Calls) -> Unary:
    async def guarded(raw: bytes, context: Context) -> Message | bytes:
        try:
            with calls.counted(name), calls.holding(raw):
                return await method(raw, context)
        except Exception as error:
            await _abort(context, error, calls)

    return guarded


def _guarded_stream(name: str, method: Stream, calls: Calls) -> Stream:
    async def guarded(raws: AsyncIterator[bytes], context: Context) -> AsyncGenerator[Message]:
        try:
            with calls.counted(name), calls.open():
                async with aclosing(method(raws, context)) as responses:
                    async for response in responses:
                        yield response
        except Exception as error:
            await _abort(context, error, calls)

    return guarded


def _guarded_collect(name: str, method: Collect, calls: Calls) -> Collect:
    async def guarded(raws: AsyncIterator[bytes], context: Context) -> Message:
        try:
            with calls.counted(name), calls.open():
                return await method(raws, context)
        except Exception as error:
            await _abort(context, error, calls)

    return guarded


async def _abort(context: Context, error: Exception, calls: Calls) -> NoReturn:
    """Errors become statuses; of one that nobody foresaw, nothing goes over the wire."""
    if not isinstance(error, RequestError):
        log.error("a call failed", exc_info=error)
        error = RequestError(INTERNAL_ERROR)
    if isinstance(error, ShuttingDownError):
        await calls.late()
    await context.abort(error.code, str(error), error_details(error))
    raise AssertionError("abort does not return")


def error_details(error: RequestError) -> tuple[tuple[str, str | bytes], ...]:
    """The error as trailing metadata, in google.rpc's form, where it says when to try again."""
    if error.retry_delay_s is None:
        return ()
    status = Status(code=error.code.value[0], message=str(error))
    status.details.add().Pack(RetryInfo(retry_delay=duration(error.retry_delay_s)))
    metadata: tuple[tuple[str, str | bytes], ...] = rpc_status.to_status(status).trailing_metadata
    return metadata


def duration(seconds: float) -> Duration:
    converted = Duration()
    converted.FromMilliseconds(round(seconds * 1e3))
    return converted


async def parsed(read: Callable[[bytes], Read], raw: bytes) -> Read:
    """What `read` makes of a message, on a thread where it is long: the event loop has its turns
    between two. Raises what `read` raises."""
    if len(raw) <= LONG:
        return read(raw)
    return await asyncio.get_running_loop().run_in_executor(slices.thread, read, raw)


def parse(kind: type[Request], raw: bytes) -> Request:
    """Raises InvalidRequestError."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the message is not a {kind.DESCRIPTOR.full_name}, or a text in it is not UTF-8"
        ) from error


def _serialize(response: Message | bytes) -> bytes:
    return response if isinstance(response, bytes) else response.SerializeToString()


def deadline(context: Context) -> float | None:
    """When the call has to be done, by the event loop's clock, in seconds."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining
