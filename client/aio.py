"""The asyncio client, with the surface of the blocking one."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Generic, NoReturn, Self, TypeVar, Unpack

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from electra_qa.credentials import Credentials, Tls
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from .channel import (
    CHECK_S,
    LONGEST_WATCH_S,
    LOOK_UP_AGAIN_S,
    channel_options,
    check_channels,
    name_not_found,
)
from .cutting import Room, asked_again, calls, halves, is_too_large
from .documents import (
    Document,
    DocumentsQuestion,
    DocumentsResult,
    check_documents,
    documents_result,
)
from .errors import (
    ClosedError,
    DeadlineExceededError,
    ElectraQAError,
    UnavailableError,
    from_rpc,
    wait_before_retry,
)
from .messages import (
    Options,
    Outcome,
    Question,
    Result,
    StreamMessages,
    batch_message,
    check_sizes,
    options_message,
    outcome,
    question_of,
    request_message,
    result,
)
from .stream_end import StreamEnd
from .timeouts import DEFAULT_TIMEOUT_S, grpc_timeout, seconds_of
from .took import Took
from .tracing import with_trace

Message = TypeVar("Message")
BatchCall = grpc.aio.UnaryUnaryCall[pb.AnswerBatchRequest, pb.AnswerBatchResponse]


@dataclass(frozen=True, slots=True)
class _Call:
    """An AnswerBatch under way."""

    questions: Sequence[Question]
    request: pb.AnswerBatchRequest
    took: Took
    future: BatchCall


class AsyncClient:
    """`Client` for asyncio: the same methods, awaited. Make it inside a running event loop, and use
    it in that one only.

    Cancelling a call takes its question out of the server's queue.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout: float | None = DEFAULT_TIMEOUT_S,
        tls: Tls | None = None,
        token: str | None = None,
        insecure: bool = False,
        channels: int = 1,
    ) -> None:
        seconds_of(timeout)
        check_channels(channels)
        self.address = address
        self.timeout = timeout
        self._loop = _running_loop()
        self._pid = os.getpid()
        self._closed = False
        # What `answer_many` cuts its calls by, once it has asked.
        self._limits: pb.GetInfoResponse | None = None
        self._credentials = Credentials(tls, token, insecure)
        self._metadata = self._credentials.metadata
        self._number = channels
        self._connect()

    def _connect(self) -> None:
        self._channels = [
            self._credentials.open_async_channel(self.address, channel_options())
            for _ in range(self._number)
        ]
        self._stubs = cycle([QuestionAnsweringStub(channel) for channel in self._channels])
        self._health = HealthStub(self._channels[0])
        self._made = self._loop.time()

    def _look_up_again(self) -> None:
        """See `Client._look_up_again`."""
        if self._loop.time() - self._made > LOOK_UP_AGAIN_S:
            self._connect()

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "an AsyncClient is a connection and can't be pickled: make one in each process"
        )

    async def close(self) -> None:
        """Calls that are under way raise ClosedError."""
        if self._pid != os.getpid():
            self._closed = True  # a forked child: the connection is its parent's
        if not self._closed:
            self._check()
            self._closed = True
            for channel in self._channels:
                await channel.close()

    def _check(self) -> None:
        """Raises ElectraQAError where it can't be used, and ClosedError."""
        if self._closed:
            raise _closed()
        if self._pid != os.getpid():
            raise ElectraQAError("this AsyncClient is of the parent process: make one in each")
        if self._loop is not _running_loop():
            raise ElectraQAError(
                "this AsyncClient was made in another event loop: make one in each"
            )

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What gRPC raises, as errors of ours."""
        try:
            yield
        except grpc.RpcError as error:
            failure = _closed() if self._closed else from_rpc(error)
            if name_not_found(failure):
                self._look_up_again()
            raise failure from None
        except (asyncio.CancelledError, grpc.aio.UsageError):
            # Closing cancels the calls, not those who wait for them.
            task = asyncio.current_task()
            if self._closed and not (task and task.cancelling()):
                raise _closed() from None
            raise

    def _seconds(self, timeout: float | None) -> float:
        return seconds_of(timeout, self.timeout)

    async def wait_until_ready(self, timeout: float | None = None) -> None:
        """See `Client.wait_until_ready`."""
        give_up = self._loop.time() + self._seconds(timeout)
        while True:
            left = give_up - self._loop.time()
            try:
                if await self._becomes_healthy(min(left, LONGEST_WATCH_S)):
                    return
            except DeadlineExceededError:
                if left <= LONGEST_WATCH_S:
                    raise
                # Unlike the watch it says why, and where it is the name that is looked up again.
                with suppress(ElectraQAError), self._failures():
                    await self._health.Check(health_pb2.HealthCheckRequest(), timeout=CHECK_S)
            else:
                raise UnavailableError("the server ended its health watch")

    async def _becomes_healthy(self, seconds: float) -> bool:
        self._check()
        watch = self._health.Watch(
            health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=grpc_timeout(seconds)
        )
        try:
            with self._failures():
                async for response in watch:
                    if response.status == health_pb2.HealthCheckResponse.SERVING:
                        return True
        finally:
            watch.cancel()
        return False

    async def info(self, *, timeout: float | None = None) -> pb.GetInfoResponse:
        """See `Client.info`."""
        self._check()
        seconds = grpc_timeout(self._seconds(timeout))
        with self._failures():
            return await next(self._stubs).GetInfo(
                pb.GetInfoRequest(), timeout=seconds, metadata=self._metadata
            )

    async def answer(
        self,
        question: str,
        context: str,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Result:
        """See `Client.answer`."""
        self._check()
        request = request_message(question, context, options)
        seconds = grpc_timeout(self._seconds(timeout))
        with self._failures():
            response = await next(self._stubs).Answer(
                request, timeout=seconds, metadata=with_trace(self._metadata)
            )
        return result(response)

    async def answer_batch(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> list[Outcome]:
        """See `Client.answer_batch`."""
        request = batch_message(map(question_of, questions), options)
        with self._failures():
            response = await self._call(request, self._seconds(timeout))
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
        options_message(options)
        seconds = self._seconds(timeout)
        if self._limits is None:
            self._limits = await self.info(timeout=timeout)
        room = Room.of(self._limits, options, batch_size)
        pending: deque[_Call] = deque()
        try:
            for batch in calls(questions, room):
                if len(pending) == concurrency:
                    for one in await self._outcomes(pending.popleft(), options, seconds):
                        yield one
                pending.append(self._begin(batch, batch_message(batch, options), seconds))
            while pending:
                for one in await self._outcomes(pending.popleft(), options, seconds):
                    yield one
        finally:
            for call in pending:
                call.future.cancel()

    def _begin(
        self, batch: Sequence[Question], request: pb.AnswerBatchRequest, seconds: float
    ) -> _Call:
        call = self._call(request, seconds)
        return _Call(batch, request, Took(call, self._loop.time), call)

    def _call(self, request: pb.AnswerBatchRequest, seconds: float) -> BatchCall:
        self._check()
        with self._failures():
            return next(self._stubs).AnswerBatch(
                request, timeout=grpc_timeout(seconds), metadata=with_trace(self._metadata)
            )

    async def _outcomes(self, call: _Call, options: Options, seconds: float) -> list[Outcome]:
        """See `Client._outcomes`."""
        clock = self._loop.time
        give_up = clock() + seconds
        while True:
            try:
                with self._failures():
                    outcomes = [outcome(message) for message in (await call.future).results]
                again = asked_again(outcomes)
                break
            except ElectraQAError as failure:
                if is_too_large(failure, call.took.seconds(), seconds):
                    outcomes = [failure] * len(call.questions)
                    again = halves(range(len(outcomes)))
                    break
                await asyncio.sleep(wait_before_retry(failure, give_up - clock()))
            call = self._begin(call.questions, call.request, seconds)
        if again:
            self._limits = None  # they may be others by now
        for places in again:
            smaller = [call.questions[place] for place in places]
            begun = self._begin(smaller, batch_message(smaller, options), seconds)
            answered = await self._outcomes(begun, options, seconds)
            for place, one in zip(places, answered, strict=True):
                outcomes[place] = one
        return outcomes

    async def answer_documents(
        self,
        question: str,
        documents: Iterable[str | Document] | AsyncIterable[str | Document],
        *,
        answers_per_document: int = 1,
        no_answer: bool = False,
        read_top: int | None = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> DocumentsResult:
        """See `Client.answer_documents`; the documents may come from an asynchronous iterable."""
        check_documents(documents)
        asked = DocumentsQuestion(question, options, answers_per_document, no_answer, read_top)
        seconds = seconds_of(timeout)
        give_up = self._loop.time() + seconds
        while True:
            self._check()
            source = _Source(
                asked.messages_async(documents)
                if isinstance(documents, AsyncIterable)
                else asked.messages(documents)
            )
            try:
                with self._failures():
                    call = next(self._stubs).AnswerDocuments(
                        source.messages(),
                        timeout=grpc_timeout(give_up - self._loop.time()),
                        metadata=with_trace(self._metadata),
                    )
                    return documents_result(await StreamEnd(call).told(call))
            except (ElectraQAError, asyncio.CancelledError) as failure:
                if source.error is not None:
                    raise source.error from None
                if not isinstance(failure, ElectraQAError) or not isinstance(documents, Sequence):
                    raise
                await asyncio.sleep(wait_before_retry(failure, give_up - self._loop.time()))

    async def answer_stream(
        self,
        questions: AsyncIterable[tuple[str, tuple[str, str]]],
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncIterator[tuple[str, Outcome]]:
        """See `Client.answer_stream`; the questions come from an asynchronous iterable."""
        options_message(options)
        self._check()
        seconds = grpc_timeout(seconds_of(timeout))

        async def requests() -> AsyncIterator[pb.AnswerStreamRequest]:
            messages = StreamMessages(options)
            async for id_, given in questions:
                yield messages.of(id_, given)

        source = _Source(requests())
        call = next(self._stubs).AnswerStream(
            source.messages(), timeout=seconds, metadata=with_trace(self._metadata)
        )
        end = StreamEnd(call)
        responses = aiter(call)
        try:
            while True:
                try:
                    with self._failures():
                        response = await end.told(anext(responses))
                except StopAsyncIteration:
                    return
                except (ElectraQAError, asyncio.CancelledError):
                    if source.error is not None:
                        raise source.error from None
                    raise
                yield response.id, outcome(response.result)
        finally:
            call.cancel()


class _Source(Generic[Message]):
    """Requests for gRPC, which drops what they raise."""

    def __init__(self, messages: Iterator[Message] | AsyncIterator[Message]) -> None:
        self._messages = messages
        self.error: BaseException | None = None

    async def messages(self) -> AsyncIterator[Message]:
        try:
            if isinstance(self._messages, AsyncIterator):
                async for message in self._messages:
                    yield message
            else:
                for message in self._messages:
                    yield message
        except (asyncio.CancelledError, GeneratorExit):  # the call ended
            raise
        except BaseException as error:
            self.error = error
            raise


def _closed() -> ClosedError:
    return ClosedError("the client is closed")


def _running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise ElectraQAError(
            "an AsyncClient is made and used inside a running event loop"
        ) from None
