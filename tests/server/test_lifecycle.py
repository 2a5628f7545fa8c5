"""Start and stop, with real processes and real signals."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, Client, ElectraQAError, UnavailableError
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.server.errors import StartError
from electra_qa.server.front.calls import END, Calls
from electra_qa.server.front.service import SERVICE
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from .conftest import PATIENCE_S, Counted, GatedEngine, Starting, until

WITH_FRONT_ENDS = True

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


@contextmanager
def server_process(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "electra_qa", "serve", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def test_health_follows_the_server(
    bundle: Bundle, engine: GatedEngine, starting: Starting
) -> None:
    settings = ServerSettings(address="127.0.0.1:0")
    seen = []
    async with starting(bundle, engine, settings) as (address, _):
        channel = grpc.aio.insecure_channel(address)
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", SERVICE):
            request = health_pb2.HealthCheckRequest(service=service)
            assert (await health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))

        async def follow() -> None:
            async for response in watch:
                seen.append(response.status)

        following = asyncio.create_task(follow())
        await until(lambda: seen)
    with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
        await following
    await channel.close()
    assert seen == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]


async def draining(address: str) -> None:
    """Return once the server says that it is."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(PATIENCE_S):
        health = health_pb2_grpc.HealthStub(channel)
        async for response in health.Watch(health_pb2.HealthCheckRequest()):
            if response.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


async def test_draining_finishes_what_was_accepted_and_refuses_what_comes(
    bundle: Bundle, engine: GatedEngine, counted: Counted, starting: Starting
) -> None:
    server = starting(bundle, engine, ServerSettings(address="127.0.0.1:0"))
    address, _ = await server.__aenter__()
    engine.batches.clear()
    async with AsyncClient(address) as client:
        engine.open.clear()
        accepted = [asyncio.create_task(client.answer("who?", CONTEXT)) for _ in range(3)]
        await until(lambda: counted.value("open_calls") == len(accepted))
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await draining(address)
        with pytest.raises(UnavailableError):
            await client.answer("late?", CONTEXT)
        engine.open.set()
        results = await asyncio.gather(*accepted)
        await leaving
    assert len({result.answers[0].text for result in results}) == 1


async def test_draining_ends_a_stream_after_its_answers(
    bundle: Bundle, engine: GatedEngine, counted: Counted, starting: Starting
) -> None:
    server = starting(bundle, engine, ServerSettings(address="127.0.0.1:0"))
    address, _ = await server.__aenter__()
    engine.batches.clear()
    engine.open.clear()

    async def questions():  # type: ignore[no-untyped-def]
        yield "a", ("who?", CONTEXT)
        yield "b", ("when?", CONTEXT)
        await asyncio.sleep(60)

    got = []

    async def ask(client: AsyncClient) -> None:
        async for id_, outcome in client.answer_stream(questions()):
            assert not isinstance(outcome, ElectraQAError)
            got.append(id_)

    async with AsyncClient(address) as client:
        asking = asyncio.create_task(ask(client))
        await engine.taken()
        await counted.queued()
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await draining(address)
        engine.open.set()
        with pytest.raises(UnavailableError, match="shutting down"):
            await asking
        await leaving
    assert sorted(got) == ["a", "b"]


async def test_draining_ends_an_idle_stream_of_one_question_at_a_time(
    bundle: Bundle, engine: GatedEngine, starting: Starting
) -> None:
    settings = ServerSettings(address="127.0.0.1:0", max_stream_questions=1)
    server = starting(bundle, engine, settings)
    address, _ = await server.__aenter__()

    async def questions():  # type: ignore[no-untyped-def]
        yield "a", ("who?", CONTEXT)
        await asyncio.sleep(60)

    async with AsyncClient(address) as client:
        stream = client.answer_stream(questions())
        assert (await anext(stream))[0] == "a"
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        with pytest.raises(UnavailableError, match="shutting down"):
            async with asyncio.timeout(settings.drain_timeout_s / 2):
                await anext(stream)
        await leaving


async def test_a_stream_that_was_asked_to_its_end_ends_well_while_draining(
    bundle: Bundle, engine: GatedEngine, starting: Starting, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    next_message = Calls.next_message

    async def noted(self: Calls, raws: AsyncIterator[bytes]) -> object:
        read.append(await next_message(self, raws))
        return read[-1]

    monkeypatch.setattr(Calls, "next_message", noted)
    server = starting(bundle, engine, ServerSettings(address="127.0.0.1:0"))
    address, _ = await server.__aenter__()
    engine.batches.clear()
    engine.open.clear()

    async def questions():  # type: ignore[no-untyped-def]
        yield "a", ("who?", CONTEXT)

    async with AsyncClient(address) as client:

        async def ask() -> list[str]:
            return [id_ async for id_, _ in client.answer_stream(questions())]

        asking = asyncio.create_task(ask())
        await engine.taken()
        await until(lambda: END in read)
        leaving = asyncio.create_task(server.__aexit__(None, None, None))
        await draining(address)
        engine.open.set()
        assert await asking == ["a"]
        await leaving


async def test_a_port_in_use_is_an_error(bundle: Bundle, engine: GatedEngine) -> None:
    async with running(bundle, engine, ServerSettings(address="127.0.0.1:0")) as address:
        with pytest.raises(StartError, match=address):
            async with running(bundle, engine, ServerSettings(address=address)):
                pass


@pytest.mark.parametrize("front_ends", ["0", "1"])
def test_sigterm_under_load_loses_nothing_and_exits_0(
    bundle: Bundle, tmp_path: Path, front_ends: str
) -> None:
    address = f"unix:{tmp_path}/socket"
    arguments = ["--bundle", str(bundle.path), "--address", address, "--front-ends", front_ends]
    with (
        server_process(*arguments) as process,
        Client(address) as client,
        grpc.insecure_channel(address) as channel,
    ):
        client.wait_until_ready(120)
        stub = QuestionAnsweringStub(channel)
        calls = [
            stub.Answer.future(_request(f"Who founded Rome in {n}?"), timeout=120)
            for n in range(40)
        ]
        assert calls[0].exception() is None
        process.send_signal(signal.SIGTERM)
        outcomes = [call.exception() for call in calls]
        assert process.wait(120) == 0
    answered = outcomes.count(None)
    assert answered > 0
    # Whatever was not answered was refused: no call was accepted and then dropped.
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert {outcome.code() for outcome in refused} <= {grpc.StatusCode.UNAVAILABLE}  # type: ignore[attr-defined]


def _request(question: str):  # type: ignore[no-untyped-def]
    from electra_qa.client.messages import request_message

    return request_message(question, CONTEXT * 5, {})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bundle", "/no/such/bundle"], "no bundle at /no/such/bundle: manifest.json"),
        (["--front-ends", "2", "--bundle", "/no/such/bundle"], "no bundle at /no/such/bundle"),
        (["--front-ends", "2", "--address", "256.0.0.1:1"], "can't listen on 256.0.0.1:1"),
        (["--front-ends", "1", "--tls-cert", "/no/such/cert"], "TLS needs both"),
        (["--address", "256.0.0.1:1", "--insecure"], "can't listen on 256.0.0.1:1"),
        (["--max-batch-tokens", "0"], "--max-batch-tokens"),
        (["--warm-up-lengths", "400"], "warm_up_lengths must be 1 to 384"),
        (["--metrics-address", "here"], "can't serve metrics at here"),
    ],
)
def test_a_server_that_can_not_start_says_why(
    bundle: Bundle, arguments: list[str], message: str
) -> None:
    if "--bundle" not in arguments:
        arguments = ["--bundle", str(bundle.path), *arguments]
    with server_process(*arguments) as process:
        _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert message in errors
    assert "Traceback" not in errors
