"""The asyncio client, with the surface of the blocking one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import Self, Unpack

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from electra_qa.credentials import Credentials, Tls
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from .channel import DEFAULT_TIMEOUT_S, OPTIONS
from .errors import ResourceExhaustedError, UnavailableError, from_rpc, wait_before_retry
from .messages import (
    Options,
    Outcome,
    Result,
    batch_message,
    batches,
    check_sizes,
    options_message,
    outcome,
    request_message,
    result,
    stream_messages,
)
from .tracing import with_trace


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. Make it inside a running event loop.

    Cancelling a call takes its question out of the server's queue.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        tls: Tls | None = None,
        token: str | None = None,
        insecure: bool = False,
    ) -> None:
        credentials = Credentials(tls, token, insecure)
        self.address = address
        self.timeout = timeout
        self._channel = credentials.open_async_channel(address, OPTIONS)
        self._metadata = credentials.metadata
        self._stub = QuestionAnsweringStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._channel.close()

    def _timeout(self, timeout: float | None) -> float:
        return self.timeout if timeout is None else timeout

    async def wait_until_ready(self, timeout: float | None = None) -> None:
        """See `Client.wait_until_ready`."""
        watch = health_pb2_grpc.HealthStub(self._channel).Watch(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=self._timeout(timeout)
        )
        try:
            async for response in watch:
                if response.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            raise UnavailableError("the server ended its health watch")
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        finally:
            watch.cancel()

    async def info(self, *, timeout: float | None = None) -> pb.GetInfoResponse:
        """See `Client.info`."""
        try:
            return await self._stub.GetInfo(
                pb.GetInfoRequest(), timeout=self._timeout(timeout), metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def answer(
        self,
        question: str,
        context: str,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """See `Client.answer`."""
        request = request_message(question, context, options)
        try:
            return result(
                await self._stub.Answer(
                    request, timeout=self._timeout(timeout), metadata=with_trace(self._metadata)
                )
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None

    async def answer_batch(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[Outcome]:
        """See `Client.answer_batch`."""
        request = batch_message(questions, options)
        try:
            response = await self._stub.AnswerBatch(
                request, timeout=self._timeout(timeout), metadata=with_trace(self._metadata)
            )
        except grpc.RpcError as error:
            raise from_rpc(error) from None
        return [outcome(message) for message in response.results]

    async def answer_many(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        batch_size: int = 64,
        concurrency: int = 4,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[Outcome]:
        """See `Client.answer_many`."""
        check_sizes(batch_size, concurrency)
        pending: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            for batch in batches(questions, batch_size):
                if len(pending) == concurrency:
                    for one in await pending.popleft():
                        yield one
                pending.append(asyncio.create_task(self._answer_patiently(batch, timeout, options)))
            while pending:
                for one in await pending.popleft():
                    yield one
        finally:
            for task in pending:
                task.cancel()

    async def _answer_patiently(
        self, batch: Sequence[tuple[str, str]], timeout: float | None, options: Options
    ) -> list[Outcome]:
        clock = asyncio.get_running_loop().time
        give_up = clock() + self._timeout(timeout)
        while True:
            try:
                return await self.answer_batch(batch, timeout=timeout, **options)
            except ResourceExhaustedError as failure:
                await asyncio.sleep(wait_before_retry(failure, give_up - clock()))

    async def answer_stream(
        self,
        questions: AsyncIterable[tuple[str, tuple[str, str]]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[tuple[str, Outcome]]:
        """See `Client.answer_stream`; the questions come from an asynchronous iterable."""
        options_message(options)
        errors: list[Exception] = []

        async def requests() -> AsyncIterator[pb.AnswerStreamRequest]:
            try:
                async for question in questions:
                    for message in stream_messages([question], options):
                        yield message
            except Exception as error:
                errors.append(error)
                raise

        call = self._stub.AnswerStream(
            requests(), timeout=timeout, metadata=with_trace(self._metadata)
        )
        try:
            async for response in call:
                yield response.id, outcome(response.result)
        except (grpc.RpcError, asyncio.CancelledError) as error:
            if errors:
                raise errors[0] from None
            if isinstance(error, grpc.RpcError):
                raise from_rpc(error) from None
            raise
        finally:
            call.cancel()
