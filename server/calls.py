"""What the services of a server share: its open calls, and errors that become statuses."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from . import logs
from .errors import SHUTTING_DOWN, InvalidRequestError, RequestError, ShuttingDownError
from .metrics import Metrics

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, Message]
Request = TypeVar("Request", bound=Message)

END = object()
INTERNAL_ERROR = "internal error; the server's log has the reason"


class Calls:
    """The calls of a server that are open, over all of its services."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._draining = asyncio.Event()
        self._open_calls = 0
        self._idle = asyncio.Event()
        metrics.open_calls.set_function(lambda: self._open_calls)

    @property
    def draining(self) -> bool:
        return self._draining.is_set()

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait for what was accepted. False if it took over `timeout_s`."""
        self._draining.set()
        if not self._open_calls:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    @contextmanager
    def counted(self, method: str) -> Iterator[None]:
        """Writes down how a call ended and how long it took."""
        started = time.perf_counter()
        code = "OK"
        logs.request_began()
        try:
            yield
        except RequestError as error:
            code = error.code.name
            raise
        except (asyncio.CancelledError, GeneratorExit):
            code = "CANCELLED"
            raise
        except Exception:
            code = "INTERNAL"
            raise
        finally:
            seconds = time.perf_counter() - started
            self._metrics.call_ended(method, code, seconds)
            logs.request_ended(method, code, seconds)

    @contextmanager
    def open(self) -> Iterator[None]:
        """Counts a call as open. Raises ShuttingDownError once the server drains."""
        if self._draining.is_set():
            raise ShuttingDownError(SHUTTING_DOWN)
        self._open_calls += 1
        try:
            yield
        finally:
            self._open_calls -= 1
            if self._draining.is_set() and not self._open_calls:
                self._idle.set()

    def guarded(
        self, name: str, method: Callable[[bytes, Context], Awaitable[Message]]
    ) -> Callable[[bytes, Context], Awaitable[Message]]:
        """Errors become statuses; of one that nobody foresaw, nothing goes over the wire."""

        async def guarded(raw: bytes, context: Context) -> Message:
            try:
                with self.counted(name):
                    return await method(raw, context)
            except RequestError as error:
                await abort(context, error)
            except Exception:
                log.exception("a call failed")
                await abort(context, RequestError(INTERNAL_ERROR))

        return guarded

    async def next_message(self, raws: AsyncIterator[bytes]) -> bytes | object | None:
        """The next message of a stream; END at its end, None when the server is to stop."""
        following = asyncio.ensure_future(anext(raws, END))
        draining = asyncio.create_task(self._draining.wait())
        try:
            await asyncio.wait((following, draining), return_when=asyncio.FIRST_COMPLETED)
            return following.result() if following.done() else None
        finally:
            following.cancel()
            draining.cancel()


async def abort(context: Context, error: RequestError) -> NoReturn:
    await context.abort(error.code, str(error), _details(error))
    raise AssertionError("abort does not return")


def _details(error: RequestError) -> tuple[tuple[str, str | bytes], ...]:
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


def parse(kind: type[Request], raw: bytes) -> Request:
    """Raises InvalidRequestError."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidRequestError(
            f"the message is not a {kind.DESCRIPTOR.full_name}, or a text in it is not UTF-8"
        ) from error


def serialize(message: Message) -> bytes:
    return message.SerializeToString()


def deadline(context: Context) -> float | None:
    """When the call has to be done, by the event loop's clock, in seconds."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining
