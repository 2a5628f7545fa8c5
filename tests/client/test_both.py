"""What both clients do, by one suite: the blocking one is asked on a thread."""

from __future__ import annotations

import asyncio
import copy
import math
import pickle
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from itertools import count
from typing import Any

import grpc
import pytest
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from electra_qa.client import (
    AsyncClient,
    Client,
    ClosedError,
    DeadlineExceededError,
    ElectraQAError,
    InvalidArgumentError,
    PrivateServer,
    QuestionAnsweringPipeline,
    UnavailableError,
    pipeline,
)
from electra_qa.private import ServerProcess
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import electra_qa_pb2_grpc as pb_grpc

from .conftest import Blocking, Make, served

FOUNDED = ("Who founded Rome?", "Rome was founded by Romulus.")


def source_of(make_questions: Callable[[], Iterator[Any]], client: Any) -> Any:
    """The questions of a stream, as this client takes them."""
    if isinstance(client, Blocking):
        return make_questions()

    async def questions() -> AsyncIterator[Any]:
        for one in make_questions():
            yield one

    return questions()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server that answers at once."""
    arguments = ["--engine", "null", "--warm-up-lengths", "none"]
    with ServerProcess(arguments=arguments) as server:
        yield server.address


class OneAtATime(pb_grpc.QuestionAnsweringServicer):
    """Has no queue: who comes while it works is refused, and told when to come again."""

    def __init__(self, work_s: float) -> None:
        self._work_s = work_s
        self._free = threading.Lock()

    def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        return pb.GetInfoResponse()

    def AnswerBatch(self, request: Any, context: Any) -> Any:  # noqa: N802
        if not self._free.acquire(blocking=False):
            detail = any_pb2.Any()
            delay = Duration(nanos=50_000_000)
            detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, details=[detail])
            context.abort_with_status(rpc_status.to_status(status))
        try:
            time.sleep(self._work_s)
        finally:
            self._free.release()
        result = pb.Result(response=pb.AnswerResponse(windows=1))
        return pb.AnswerBatchResponse(results=[result] * len(request.questions))


async def test_many_go_on_longer_than_the_timeout_of_one_batch(make: Make) -> None:
    with served(OneAtATime(0.4)) as address:
        async with make(address) as client:
            asked = client.answer_many([FOUNDED] * 32, batch_size=4, concurrency=8, timeout=2)
            assert [one.windows async for one in asked] == [1] * 32


class Absent(pb_grpc.QuestionAnsweringServicer):
    """Says that it is not there, and counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def Answer(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self.asked.append("Answer")
        context.abort(grpc.StatusCode.UNAVAILABLE, "not here")

    def AnswerStream(self, requests: Any, context: Any) -> Any:  # noqa: N802
        self.asked.append("AnswerStream")
        next(requests)
        context.abort(grpc.StatusCode.UNAVAILABLE, "not here")
        yield


class Stopping(pb_grpc.QuestionAnsweringServicer):
    """As gRPC's server does while it stops, for so many calls."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def Answer(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
        self._left -= 1
        if self._left >= 0:
            context.abort(grpc.StatusCode.CANCELLED, "")
        return pb.AnswerResponse(windows=1)


async def test_what_a_server_cancels_is_tried_again(make: Make) -> None:
    with served(Stopping(2)) as address:
        async with make(address) as client:
            assert (await client.answer(*FOUNDED)).windows == 1
    with served(Stopping(100)) as address:
        async with make(address) as client:
            with pytest.raises(UnavailableError):
                await client.answer(*FOUNDED)


async def test_calls_are_tried_again_and_streams_are_not(make: Make) -> None:
    """gRPC would now and then never end one that it may try again, where the server dies."""
    servicer = Absent()
    with served(servicer) as address:
        async with make(address) as client:
            with pytest.raises(UnavailableError):
                await client.answer(*FOUNDED)
            source = source_of(lambda: iter([("1", FOUNDED)]), client)
            with pytest.raises(UnavailableError):
                [one async for one in client.answer_stream(source)]
    assert servicer.asked.count("Answer") == 4
    assert servicer.asked.count("AnswerStream") == 1


@pytest.mark.parametrize("length", [1, 1_000, 100_000])
async def test_a_stream_that_ends_while_it_is_written_to_says_how(make: Make, length: int) -> None:
    """grpc.aio makes one in four of them INTERNAL."""

    def endless() -> Iterator[Any]:
        return ((str(n), ("who?", "a " * length)) for n in count())

    ends = []
    with served(Absent()) as address:
        async with make(address) as client, asyncio.timeout(60):
            for _ in range(25):
                with pytest.raises(ElectraQAError) as caught:
                    [one async for one in client.answer_stream(source_of(endless, client))]
                ends.append((type(caught.value), str(caught.value)))
    assert set(ends) == {(UnavailableError, "not here")}


async def every_call(client: Any, **options: Any) -> list[Any]:
    """How each call ended: what it gave or raised."""
    source = source_of(lambda: iter([("1", FOUNDED)]), client)

    async def all_of(answers: AsyncIterator[Any]) -> list[Any]:
        return [one async for one in answers]

    calls = (
        client.wait_until_ready(**options),
        client.info(**options),
        client.answer(*FOUNDED, **options),
        client.answer_batch([FOUNDED], **options),
        all_of(client.answer_many([FOUNDED], **options)),
        all_of(client.answer_stream(source, **options)),
    )
    ends: list[Any] = []
    for call in calls:
        async with asyncio.timeout(60):
            try:
                ends.append(await call)
            except Exception as error:
                ends.append(error)
    return ends


@pytest.mark.parametrize("timeout", [None, 10, math.inf, 1e300, 1e10])
async def test_a_timeout_may_be_as_long_as_it_likes(
    make: Make, address: str, timeout: float | None
) -> None:
    async with make(address, timeout=timeout) as client:
        for ends in (await every_call(client), await every_call(client, timeout=timeout)):
            assert [end for end in ends if isinstance(end, Exception)] == []


@pytest.mark.parametrize("timeout", [0, -1, -math.inf, -1e300])
async def test_a_deadline_that_is_past_is_said(make: Make, address: str, timeout: float) -> None:
    async with make(address) as client:
        ends = await every_call(client, timeout=timeout)
        assert [type(end) for end in ends] == [DeadlineExceededError] * 6


@pytest.mark.parametrize("timeout", [math.nan, "5"])
async def test_what_is_no_time_is_refused(make: Make, address: str, timeout: Any) -> None:
    async with make(address) as client:
        ends = await every_call(client, timeout=timeout)
        assert [type(end) for end in ends] == [InvalidArgumentError] * 6
        assert "timeout must be a number of seconds" in str(ends[0])
    with pytest.raises(InvalidArgumentError, match="timeout must be"):
        async with make(address, timeout=timeout):
            pass


async def test_every_call_on_a_closed_client_says_so(make: Make, address: str) -> None:
    async with make(address) as client:
        await client.answer(*FOUNDED)
        await client.close()
        ends = await every_call(client)
        assert [type(end) for end in ends] == [ClosedError] * 6
        await client.close()
    again = client.client.__enter__ if isinstance(client, Blocking) else client.__aenter__
    with pytest.raises(ClosedError, match="the client is closed"):
        await asyncio.to_thread(again) if isinstance(client, Blocking) else await again()


async def test_calls_under_way_say_that_the_client_was_closed(make: Make) -> None:
    closed = threading.Event()

    class Slow(pb_grpc.QuestionAnsweringServicer):
        def GetInfo(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
            return pb.GetInfoResponse()

        def Answer(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802
            closed.wait(60)

        AnswerBatch = Answer

        def AnswerStream(self, requests: Any, context: Any) -> Any:  # noqa: ARG002, N802
            closed.wait(60)
            yield from ()

    with served(Slow()) as address:
        async with make(address) as client:

            async def of(answers: Any) -> None:
                [one async for one in answers]

            source = source_of(lambda: iter([("1", FOUNDED)]), client)
            calls = [
                asyncio.ensure_future(client.answer(*FOUNDED)),
                asyncio.ensure_future(client.answer_batch([FOUNDED])),
                asyncio.ensure_future(of(client.answer_many([FOUNDED]))),
                asyncio.ensure_future(of(client.answer_stream(source))),
                asyncio.ensure_future(client.wait_until_ready()),
            ]
            await asyncio.sleep(0.5)
            await client.close()
            ends = await asyncio.gather(*calls, return_exceptions=True)
            closed.set()
    assert [type(end) for end in ends[:4]] == [ClosedError] * 4
    assert isinstance(ends[4], ElectraQAError)


@pytest.mark.parametrize("error", [KeyError("mine"), KeyboardInterrupt(), SystemExit(3)])
async def test_what_the_source_of_a_stream_raises_comes_through(
    make: Make, address: str, error: BaseException
) -> None:
    def questions() -> Iterator[Any]:
        yield "1", FOUNDED
        raise error

    async with make(address) as client:
        try:
            async with asyncio.timeout(60):
                if isinstance(client, Blocking):
                    # A task lets a KeyboardInterrupt out of its loop.
                    caught = await asyncio.to_thread(ended_with, client.client, questions)
                    assert caught is error
                else:
                    async for _ in client.answer_stream(source_of(questions, client)):
                        pass
        except (KeyError, KeyboardInterrupt, SystemExit) as raised:
            assert raised is error  # noqa: PT017  pytest.raises does not see all of them
            return
        assert isinstance(client, Blocking)


def ended_with(client: Client, questions: Callable[[], Iterable[Any]]) -> BaseException | None:
    try:
        list(client.answer_stream(questions()))
    except BaseException as error:
        return error
    return None


async def test_an_async_client_is_of_one_loop(address: str) -> None:
    client = AsyncClient(address)
    await client.answer(*FOUNDED)

    async def elsewhere() -> list[Any]:
        with pytest.raises(ElectraQAError, match="another event loop"):
            await client.close()
        return await every_call(client)

    ends = await asyncio.to_thread(asyncio.run, elsewhere())
    assert all("another event loop" in str(end) for end in ends), ends
    await client.answer(*FOUNDED)
    await client.close()


def test_an_async_client_needs_a_loop(address: str) -> None:
    with pytest.raises(ElectraQAError, match="running event loop"):
        AsyncClient(address)


async def test_no_client_can_be_pickled_and_all_say_so(address: str) -> None:
    aclient = AsyncClient(address)
    with Client(address) as client, pipeline(address=address) as qa:
        for one in (client, aclient, qa):
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="can't be pickled"):
                    attempt(one)
    with PrivateServer() as server, pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(server)
    for closed in (lambda: server.address, server.__enter__):
        with pytest.raises(ClosedError, match="the private server is closed"):
            closed()
    server.close()
    await aclient.close()
    used_after_close(qa)


def used_after_close(qa: QuestionAnsweringPipeline) -> None:
    for use in (
        qa.__enter__,
        lambda: qa(*FOUNDED),
        lambda: qa([{"question": "who?", "context": "Rome"}] * 3),
        lambda: next(qa(one for one in [{"question": "who?", "context": "Rome"}])),
    ):
        with pytest.raises(ClosedError, match="the client is closed"):
            use()
    qa.close()
