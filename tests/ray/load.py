"""Callers who ask the same questions all the time, and note what comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import AsyncClient, ElectraQAError, Result, UnavailableError
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

Pair = tuple[str, str]

CALLERS = 8
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
    """again: how often a call failed with UNAVAILABLE and was made again. lost: questions that
    had no answer in the end."""

    answered: int = 0
    again: int = 0
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    lost: list[ElectraQAError] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)


@asynccontextmanager
async def under_load(
    address: str, pairs: Sequence[Pair], right: Sequence[str]
) -> AsyncIterator[Noted]:
    """Asks as long as the block runs, and then ends what it began."""
    noted = Noted()
    stop = asyncio.Event()
    async with AsyncClient(address, timeout=RETRY_FOR_S) as client:

        async def call(first: int) -> None:
            number = first
            while not stop.is_set():
                place = number % len(pairs)
                await _ask(client, pairs[place], right[place], noted)
                number += CALLERS

        async with asyncio.TaskGroup() as callers:
            for first in range(CALLERS):
                callers.create_task(call(first))
            try:
                yield noted
            finally:
                stop.set()


async def _ask(client: AsyncClient, pair: Pair, right: str, noted: Noted) -> None:
    give_up = time.monotonic() + RETRY_FOR_S
    while True:
        try:
            result = await client.answer(*pair)
            break
        except ElectraQAError as error:
            if not isinstance(error, UnavailableError) or time.monotonic() > give_up:
                noted.lost.append(error)
                return
            noted.again += 1
            await asyncio.sleep(PAUSE_S)
    noted.answered += 1
    noted.versions.add(result.model_version)
    if result.text != right:
        noted.wrong.append((*pair, result.text))
