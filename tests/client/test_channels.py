"""A client with several connections."""

from __future__ import annotations

import asyncio

import psutil
import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, Client, InvalidArgumentError
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


def connections(address: str) -> int:
    """Of this process to the address, which is another's or its own."""
    port = int(address.rpartition(":")[2])
    return sum(
        one.status == psutil.CONN_ESTABLISHED and bool(one.raddr) and one.raddr.port == port
        for one in psutil.Process().net_connections("tcp")
    )


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_calls_take_them_in_turn(bundle: Bundle, kind: type[Client | AsyncClient]) -> None:
    engine = load_engine(bundle, EngineSettings("null"))
    async with running(bundle, engine, ServerSettings(address="127.0.0.1:0")) as address:
        client = kind(address, channels=3)
        for made in (1, 2, 3, 3):
            if isinstance(client, Client):
                await asyncio.to_thread(client.answer, "who?", CONTEXT)
            else:
                await client.answer("who?", CONTEXT)
            assert connections(address) == made
        closed = client.close()
        if closed is not None:
            await closed


@pytest.mark.parametrize("kind", [Client, AsyncClient])
async def test_there_is_at_least_one(kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(InvalidArgumentError, match="channels must be at least 1, got 0"):
        kind("127.0.0.1:1", channels=0)
