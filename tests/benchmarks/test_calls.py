"""The three ways to ask, against a real server on a loopback port."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest

from electra_qa.benchmarks.calls import CHANNEL_OPTIONS, SERVICE, open_calls
from electra_qa.benchmarks.load import OK, closed_loop, open_loop
from electra_qa.benchmarks.workload import Mode, Workload, serialized_requests
from electra_qa.rpc import electra_qa_pb2 as pb

from .conftest import GatedEngine, Serving

MODES: tuple[Mode, ...] = ("unary", "batch", "stream")
# 1, 1 and 6 windows of 384 tokens that move on by 128.
PAIRS = [("who ?", "rome " * 100), ("what ?", "flu " * 200), ("when ?", "year " * 1000)]


def requests_of(mode: Mode, pairs: list[tuple[str, str]], batch_size: int = 3) -> list[bytes]:
    size = batch_size if mode == "batch" else 1
    return serialized_requests(Workload(pairs, "", None), mode, size, np.random.default_rng(0))


@pytest.mark.parametrize("mode", MODES)
async def test_every_question_is_answered_and_its_windows_counted(
    mode: Mode, serving: Serving
) -> None:
    async with serving() as channel:
        async with open_calls(mode, channel, requests_of(mode, PAIRS), 30.0) as calls:
            count = 4 if mode == "batch" else 12
            recording = await closed_loop(calls.send, 5, requests=count)
        assert recording.statuses == [OK] * count
        assert calls.finished == count
        assert calls.windows == 4 * (1 + 1 + 6)
        assert calls.failures == {}


async def test_a_question_that_fails_in_a_batch_has_its_own_status(serving: Serving) -> None:
    pairs = [("who ?", "rome"), (" ", "rome"), ("what ?", ""), ("when ?", "rome")]
    async with serving() as channel:
        requests = requests_of("batch", pairs, 4)
        async with open_calls("batch", channel, requests, 30.0) as calls:
            assert await calls.send(6) == OK
        assert calls.failures == {6: ["INVALID_ARGUMENT"] * 2}
        assert calls.windows == 2


@pytest.mark.parametrize("mode", ["unary", "stream"])
async def test_a_question_that_fails_has_its_status(mode: Mode, serving: Serving) -> None:
    async with serving() as channel:
        async with open_calls(mode, channel, requests_of(mode, [("who ?", "")]), 30.0) as calls:
            assert await calls.send(0) == "INVALID_ARGUMENT"
        assert calls.windows == 0


@pytest.mark.parametrize("mode", MODES)
async def test_what_the_server_refuses_for_want_of_room_counts(
    mode: Mode, serving: Serving, engine: GatedEngine
) -> None:
    async with serving(max_queue_tokens=1) as channel:
        async with open_calls(mode, channel, requests_of(mode, PAIRS), 30.0) as calls:
            engine.open.clear()
            sent = asyncio.create_task(closed_loop(calls.send, 8, requests=8))
            while not calls.finished:
                await asyncio.sleep(0.01)
            engine.open.set()
            recording = await sent
        statuses = set(recording.question_statuses)
        assert statuses == {OK, "RESOURCE_EXHAUSTED"}
        assert recording.question_statuses[OK] >= 1


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_does_not_come_in_time_counts(
    mode: Mode, serving: Serving, engine: GatedEngine
) -> None:
    async with serving() as channel:
        engine.open.clear()
        async with open_calls(mode, channel, requests_of(mode, PAIRS), 0.3) as calls:
            recording = await open_loop(calls.send, [0.0, 0.01])
            engine.open.set()
        assert set(recording.statuses) <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        assert "DEADLINE_EXCEEDED" in recording.statuses
        assert (recording.finished >= 0.3).any()


@pytest.mark.parametrize("mode", MODES)
async def test_no_server_is_a_status_of_every_request(mode: Mode, tmp_path: Any) -> None:
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/none") as channel:
        async with open_calls(mode, channel, requests_of(mode, PAIRS), 30.0) as calls:
            recording = await closed_loop(calls.send, 2, requests=6)
        assert recording.statuses == ["UNAVAILABLE"] * 6
        assert calls.finished == 6


class OneAnswer(grpc.GenericRpcHandler):
    """A server whose streams end after one answer, well or with a failure; others never come."""

    def __init__(self, ends_well: bool) -> None:
        self._ends_well = ends_well

    def service(self, handler_call_details: Any) -> Any:
        assert handler_call_details.method == f"/{SERVICE}/AnswerStream"
        return grpc.stream_stream_rpc_method_handler(self._stream)

    async def _stream(
        self, requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        async for raw in requests:
            id_ = pb.AnswerStreamRequest.FromString(raw).id
            response = pb.AnswerStreamResponse(id=id_)
            response.result.response.windows = 3
            yield response.SerializeToString()
            # Nobody waits for these.
            yield response.SerializeToString()
            yield pb.AnswerStreamResponse(id="never asked").SerializeToString()
            if not self._ends_well:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            return


@pytest.mark.parametrize(("ends_well", "status"), [(True, "UNKNOWN"), (False, "UNAVAILABLE")])
async def test_once_a_stream_has_ended_its_requests_fail_with_its_status(
    ends_well: bool, status: str
) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((OneAnswer(ends_well),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    requests = requests_of("stream", PAIRS)
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            async with open_calls("stream", channel, requests, 30.0) as calls:
                recording = await closed_loop(calls.send, 3, requests=3)
                assert recording.statuses == [OK, status, status]
                assert await calls.send(3) == status  # the stream is known to be over
            assert calls.windows == 3
            assert calls.finished == 4
    finally:
        await server.stop(None)


async def test_a_failed_call_is_not_tried_again() -> None:
    """Not even where a service config asks for it, which may come from the name's resolver."""
    asked = 0

    class Refusing(grpc.GenericRpcHandler):
        def service(self, handler_call_details: Any) -> Any:  # noqa: ARG002
            async def refuse(_: bytes, context: Any) -> None:
                nonlocal asked
                asked += 1
                await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")

            return grpc.unary_unary_rpc_method_handler(refuse)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Refusing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        policy = (
            '{"methodConfig": [{"name": [{}], "retryPolicy": {"maxAttempts": 4, '
            '"initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1, '
            '"retryableStatusCodes": ["UNAVAILABLE"]}}]}'
        )
        options = [*CHANNEL_OPTIONS, ("grpc.service_config", policy)]
        async with (
            grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel,
            open_calls("unary", channel, requests_of("unary", PAIRS), 30.0) as calls,
        ):
            assert await calls.send(0) == "UNAVAILABLE"
    finally:
        await server.stop(None)
    assert asked == 1
