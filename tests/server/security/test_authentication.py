"""Bearer tokens, on a real server."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from electra_qa.bundle import Bundle
from electra_qa.client import (
    AsyncClient,
    ElectraQAError,
    ResourceExhaustedError,
    Result,
    UnauthenticatedError,
)
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.server.lifecycle import running
from electra_qa.server.observe.metrics import Metrics
from electra_qa.server.security import watched
from electra_qa.server.security.authentication import Authentication
from electra_qa.server.settings import ServerSettings

from ..conftest import GatedEngine

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
SEARCH = "the-token-of-search"
SUPPORT = "the-token-of-support"


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"search {SEARCH}\nsupport {SUPPORT} 2\n")
    return path


@pytest.fixture
def settings(tokens: Path) -> ServerSettings:
    return ServerSettings(
        address="127.0.0.1:0", auth_tokens=str(tokens), metrics_address="127.0.0.1:0"
    )


async def test_a_token_opens_every_method(
    bundle: Bundle, engine: GatedEngine, settings: ServerSettings
) -> None:
    async def questions():  # type: ignore[no-untyped-def]
        yield "a", ("who?", CONTEXT)

    async with running(bundle, engine, settings) as address:
        async with AsyncClient(address, token=SEARCH) as client:
            await client.wait_until_ready()
            await client.info()
            await client.answer("who?", CONTEXT)
            await client.answer_batch([("who?", CONTEXT)])
            assert [id_ async for id_, _ in client.answer_stream(questions())] == ["a"]
        async with AsyncClient(address, token=SUPPORT) as client:
            await client.answer("who?", CONTEXT)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("authorization", "Bearer not-the-token-of-anybody"),),
        (("authorization", f"Basic {SEARCH}"),),
        (("authorization", SEARCH),),
        (("authorization", "Bearer "),),
        (("authorization", f"Bearer {SEARCH} "),),
        (("authorization", f"Bearer {SEARCH[:-1]}"),),
        (("authorization", f"Bearer {SEARCH}"), ("authorization", f"Bearer {SEARCH}")),
        (("x-authorization", f"Bearer {SEARCH}"),),
    ],
)
async def test_without_a_token_nothing_but_health_is_open_and_all_refusals_are_one(
    bundle: Bundle,
    engine: GatedEngine,
    settings: ServerSettings,
    headers: tuple[tuple[str, str], ...],
) -> None:
    async with (
        running(bundle, engine, settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        engine.batches.clear()
        stub = QuestionAnsweringStub(channel)
        request = pb.AnswerRequest(question="who?", context=CONTEXT)

        async def never():  # type: ignore[no-untyped-def]
            await asyncio.sleep(60)
            yield pb.AnswerStreamRequest()

        reflection = channel.stream_stream(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
        )
        nothing = channel.unary_unary("/no.such.Service/Method")
        calls = [
            stub.Answer(request, metadata=headers, timeout=30),
            stub.AnswerBatch(pb.AnswerBatchRequest(), metadata=headers, timeout=30),
            stub.GetInfo(pb.GetInfoRequest(), metadata=headers, timeout=30),
            stub.AnswerStream(never(), metadata=headers, timeout=30),
            reflection(never(), metadata=headers, timeout=30),
            nothing(b"", metadata=headers, timeout=30),
        ]
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert await call.details() == "a valid bearer token is needed"
        assert not engine.batches
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), metadata=headers)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_scheme_is_read_in_any_case(
    bundle: Bundle, engine: GatedEngine, settings: ServerSettings
) -> None:
    async with (
        running(bundle, engine, settings) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        metadata = (("authorization", f"bearer {SEARCH}"),)
        await QuestionAnsweringStub(channel).GetInfo(pb.GetInfoRequest(), metadata=metadata)


async def test_the_client_names_the_status(
    bundle: Bundle, engine: GatedEngine, settings: ServerSettings
) -> None:
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        with pytest.raises(UnauthenticatedError, match="a valid bearer token is needed") as caught:
            await client.answer("who?", CONTEXT)
        assert isinstance(caught.value, PermissionError)


async def test_each_token_has_its_own_limit_of_questions(
    bundle: Bundle, engine: GatedEngine, tokens: Path, settings: ServerSettings
) -> None:
    # So few that no test is slow enough to earn one.
    tokens.write_text(f"search {SEARCH}\nsupport {SUPPORT} 0.001\n")

    async def questions():  # type: ignore[no-untyped-def]
        yield "a", ("who?", CONTEXT)

    async with (
        running(bundle, engine, settings) as address,
        AsyncClient(address, token=SUPPORT) as support,
        AsyncClient(address, token=SEARCH) as search,
    ):
        outcomes = await support.answer_batch([("who?", CONTEXT), ("when?", CONTEXT)])
        assert all(isinstance(outcome, Result) for outcome in outcomes)
        for call in (
            support.answer("who?", CONTEXT),
            support.answer_batch([("who?", CONTEXT), ("when?", CONTEXT)]),
        ):
            with pytest.raises(ResourceExhaustedError, match=r"support may ask 0\.001") as caught:
                await call
            assert caught.value.retry_after_s == 10
        ((_, outcome),) = [pair async for pair in support.answer_stream(questions())]
        assert isinstance(outcome, ResourceExhaustedError)
        assert outcome.retry_after_s == 10
        for _ in range(20):
            await search.answer("who?", CONTEXT)
        await support.info()


async def test_who_is_over_the_limit_gets_there_by_waiting_as_told(
    bundle: Bundle, engine: GatedEngine, tokens: Path, settings: ServerSettings
) -> None:
    tokens.write_text(f"support {SUPPORT} 20\n")
    async with (
        running(bundle, engine, settings) as address,
        AsyncClient(address, token=SUPPORT) as client,
    ):
        pairs = [(f"who {n}?", CONTEXT) for n in range(40)]
        outcomes = [o async for o in client.answer_many(pairs, batch_size=1, concurrency=8)]
    assert len(outcomes) == 40
    assert not [outcome for outcome in outcomes if isinstance(outcome, ElectraQAError)]


async def test_a_changed_file_is_in_force_and_a_bad_one_is_not(
    bundle: Bundle,
    engine: GatedEngine,
    tokens: Path,
    settings: ServerSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watched, "INTERVAL_S", 0.02)
    caplog.set_level(logging.INFO, "electra_qa.server")

    async def logged(text: str) -> None:
        async with asyncio.timeout(30):
            while not any(text in record.getMessage() for record in caplog.records):
                await asyncio.sleep(0.01)

    async with (
        running(bundle, engine, settings) as address,
        AsyncClient(address, token=SEARCH) as old,
        AsyncClient(address, token="a-token-that-is-new") as new,
    ):
        await old.info()
        tokens.write_text("search too-short\n")
        await logged("line 1: a token has 16 characters at least")
        await old.info()
        tokens.unlink()
        await logged("can't be read: No such file or directory")
        await old.info()
        with pytest.raises(UnauthenticatedError):
            await new.info()
        tokens.write_text("search a-token-that-is-new\n")
        await logged("the token file changed, and the new one is in force")
        await new.info()
        with pytest.raises(UnauthenticatedError):
            await old.info()
    for secret in (SEARCH, SUPPORT, "a-token-that-is-new", "too-short"):
        assert secret not in caplog.text


def test_a_limit_is_not_forgotten_where_another_line_changes(tokens: Path) -> None:
    tokens.write_text(f"support {SUPPORT} 1\n")
    authentication = Authentication(str(tokens), Metrics())
    authentication.load()
    (before,) = authentication._limits.values()
    tokens.write_text(f"search {SEARCH}\nsupport {SUPPORT} 1\n")
    authentication.load()
    assert list(authentication._limits.values()) == [None, before]
