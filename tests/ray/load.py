"""Callers who ask the same questions all the time, and note what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import AsyncClient, ElectraQAError, Result, UnavailableError
from electra_qa.client.errors import from_rpc
from electra_qa.client.messages import request_message, result
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

Pair = tuple[str, str]

CALLERS = 16
RETRY_FOR_S = 60.0
PAUSE_S = 0.1


async def answers_of_one_server(pairs: Sequence[Pair]) -> list[str]:
    """Without Ray."""
    bundle = load_bundle(default_bundle_path())
    engine = load_engine(bundle, EngineSettings("cpu"))
    settings = ServerSettings(address="127.0.0.1:0", warm_up_lengths="none")
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        return await ask_all(client, pairs)


async def ask_all(client: AsyncClient, pairs: Sequence[Pair]) -> list[str]:
    texts = []
    async for outcome in client.answer_many(pairs):
        assert isinstance(outcome, Result), outcome
        texts.append(outcome.text)
    return texts


@dataclass(slots=True)
class Noted:
    """again: how often a call of a plain stub failed with UNAVAILABLE and was made again.
    lost: questions that had no answer in the end."""

    answered: int = 0
    again: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    lost: list[ElectraQAError] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


@asynccontextmanager
async def under_load(
    address: str, pairs: Sequence[Pair], right: Sequence[str]
) -> AsyncIterator[Noted]:
    """Asks as long as the block runs, and then ends what it began. Half of the callers have our
    client, whose channel makes calls again by itself; half have a plain stub, and do so here."""
    noted = Noted()
    stop = asyncio.Event()
    no_retries = [("grpc.enable_retries", 0)]
    async with (
        AsyncClient(address, timeout=RETRY_FOR_S) as client,
        grpc.aio.insecure_channel(address, no_retries) as channel,
    ):
        stub = QuestionAnsweringStub(channel)

        async def by_stub(question: str, context: str) -> Result:
            try:
                return result(await stub.Answer(request_message(question, context, {})))
            except grpc.RpcError as error:
                raise from_rpc(error) from None

        async def by_client(question: str, context: str) -> Result:
            return await client.answer(question, context)

        async def call(first: int) -> None:
            number = first
            while not stop.is_set():
                place = number % len(pairs)
                ask = by_stub if first % 2 else by_client
                await _ask(ask, pairs[place], right[place], noted)
                number += CALLERS

        async with asyncio.TaskGroup() as callers:
            for first in range(CALLERS):
                callers.create_task(call(first))
            try:
                yield noted
            finally:
                stop.set()


async def _ask(
    ask: Callable[[str, str], Awaitable[Result]], pair: Pair, right: str, noted: Noted
) -> None:
    give_up = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            answer = await ask(*pair)
            break
        except ElectraQAError as error:
            if not isinstance(error, UnavailableError) or time.monotonic() > give_up:
                noted.lost.append(error)
                return
            noted.again += 1
            await asyncio.sleep(PAUSE_S)
    noted.answered += 1
    noted.versions.add(answer.model_version)
    if answer.text != right:
        noted.wrong.append((*pair, answer.text))
