"""The `Send`s of the three ways to ask over gRPC: a call for each question, batches, one stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from electra_qa.credentials import Metadata
from electra_qa.rpc import electra_qa_pb2 as pb

from .load import OK
from .workload import Mode

SERVICE = pb.DESCRIPTOR.services_by_name["QuestionAnswering"].full_name
_STATUS_NAMES = {status.value[0]: status.name for status in grpc.StatusCode}

# Every failure is to count, so gRPC must not try again by itself.
CHANNEL_OPTIONS = [
    ("grpc.enable_retries", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]


class UnaryCalls:
    """A call for each request; request number i is `requests[i % len(requests)]`, serialized.

    finished: how many requests have ended so far.
    windows: how many windows the server has cut the contexts of the answered questions into.
    failures: {request: statuses of its questions that failed}, of calls that are OK as a whole.
    """

    METHOD = "Answer"

    def __init__(
        self,
        channel: grpc.aio.Channel,
        requests: Sequence[bytes],
        deadline_s: float,
        metadata: Metadata | None = None,
    ) -> None:
        self.finished = 0
        self.windows = 0
        self.failures: dict[int, list[str]] = {}
        self._requests = requests
        self._deadline_s = deadline_s
        self._metadata = metadata
        # Bytes in, bytes out: what can be done before the first request is sent was done there.
        self._method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            f"/{SERVICE}/{self.METHOD}"
        )

    async def send(self, request: int) -> str:
        """A `load.Send`."""
        message = self._requests[request % len(self._requests)]
        try:
            response = await self._method(
                message, timeout=self._deadline_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            return error.code().name
        finally:
            self.finished += 1
        self._count(request, response)
        return OK

    def _count(self, _: int, response: bytes) -> None:
        self.windows += pb.AnswerResponse.FromString(response).windows


class BatchCalls(UnaryCalls):
    """The same with AnswerBatch, where a question can fail by itself."""

    METHOD = "AnswerBatch"

    def _count(self, request: int, response: bytes) -> None:
        failed = []
        for result in pb.AnswerBatchResponse.FromString(response).results:
            if result.HasField("failure"):
                failed.append(_status_name(result.failure.code))
            else:
                self.windows += result.response.windows
        if failed:
            self.failures[request] = failed


class StreamCalls:
    """All requests over one AnswerStream.

    A request that gets no answer within the deadline counts as DEADLINE_EXCEEDED; the server does
    not know of it, as a gRPC deadline would be the whole stream's. Once the stream has failed,
    every request has its status.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        requests: Sequence[bytes],
        deadline_s: float,
        metadata: Metadata | None = None,
    ) -> None:
        self.finished = 0
        self.windows = 0
        self.failures: dict[int, list[str]] = {}
        self._requests = requests
        self._deadline_s = deadline_s
        self._to_send: asyncio.Queue[bytes] = asyncio.Queue()
        self._waiting: dict[str, asyncio.Future[str]] = {}
        self._failed_with: str | None = None
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
            f"/{SERVICE}/AnswerStream"
        )
        self._call = method(self._messages(), metadata=metadata)

    async def send(self, request: int) -> str:
        """A `load.Send`."""
        id_ = str(request)
        answered = self._waiting[id_] = asyncio.get_running_loop().create_future()
        # Serialized messages that follow each other are one message with the fields of both.
        id_field = pb.AnswerStreamRequest(id=id_).SerializeToString()
        self._to_send.put_nowait(id_field + self._requests[request % len(self._requests)])
        try:
            async with asyncio.timeout(self._deadline_s):
                return self._failed_with or await answered
        except TimeoutError:
            return grpc.StatusCode.DEADLINE_EXCEEDED.name
        finally:
            self.finished += 1
            self._waiting.pop(id_, None)

    async def _messages(self) -> AsyncIterator[bytes]:
        while True:
            yield await self._to_send.get()

    async def read(self) -> None:
        """Hand out the answers as they come, until the stream ends."""
        status = grpc.StatusCode.OK
        try:
            async for raw in self._call:
                self._hand_out(pb.AnswerStreamResponse.FromString(raw))
        except grpc.aio.AioRpcError as error:
            status = error.code()
        # A stream that ends well with questions open has not answered them all the same.
        self._failed_with = "UNKNOWN" if status is grpc.StatusCode.OK else status.name
        for future in self._waiting.values():
            if not future.done():
                future.set_result(self._failed_with)

    def _hand_out(self, response: pb.AnswerStreamResponse) -> None:
        future = self._waiting.get(response.id)
        if future is None or future.done():
            return
        if response.result.HasField("failure"):
            future.set_result(_status_name(response.result.failure.code))
        else:
            self.windows += response.result.response.windows
            future.set_result(OK)


Calls = UnaryCalls | BatchCalls | StreamCalls


@asynccontextmanager
async def open_calls(
    mode: Mode,
    channel: grpc.aio.Channel,
    requests: Sequence[bytes],
    deadline_s: float,
    metadata: Metadata | None = None,
) -> AsyncIterator[Calls]:
    """The calls of one run.

    requests: as `workload.serialized_requests` makes them for the mode.
    deadline_s: of a call, or of a question of a stream, in seconds.
    metadata: sent with every call.
    """
    if mode != "stream":
        kind = BatchCalls if mode == "batch" else UnaryCalls
        yield kind(channel, requests, deadline_s, metadata)
        return
    calls = StreamCalls(channel, requests, deadline_s, metadata)
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(calls.read())
        try:
            yield calls
        finally:
            # Every request has ended. Answers that are too late anyhow are not waited for.
            reader.cancel()


def _status_name(code: int) -> str:
    return _STATUS_NAMES.get(code, grpc.StatusCode.UNKNOWN.name)
