"""A server whose name is not there yet, as in a cluster that starts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, Client, UnavailableError, aio, client

from .names import NameServer
from .serving import server

FOUNDED = ("Who founded Rome?", "Rome was founded by Romulus.")
# gRPC looks for a name when it is first asked, and some 1, 2.7, 5.3 and 9.4 seconds later.
UNKNOWN_S, PATIENCE_S = 5.8, 2.0


@pytest.fixture
async def port(tiny_bundle: Bundle, tmp_path: Path) -> AsyncIterator[int]:
    options = ["--bundle", str(tiny_bundle.path), "--engine", "null", "--address", "127.0.0.1:0"]
    with server(tmp_path, *options) as serving:
        await asyncio.to_thread(serving.logs, "serving ")
        line = next(line for line in serving.log.splitlines() if "serving " in line)
        yield int(line.partition("127.0.0.1:")[2].partition(",")[0])


async def test_a_name_that_comes_late_is_found(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (aio, client):
        monkeypatch.setattr(module, "LOOK_UP_AGAIN_S", 0.5)
        monkeypatch.setattr(module, "LONGEST_WATCH_S", 1.0)
    with NameServer() as names:
        address = f"dns://127.0.0.1:{names.port}/qa.test:{port}"
        with Client(address) as blocking, Client(address) as waiting:
            async with AsyncClient(address) as asynchronous, AsyncClient(address) as awaiting:
                ready = asyncio.gather(
                    asyncio.to_thread(waiting.wait_until_ready, UNKNOWN_S + PATIENCE_S),
                    awaiting.wait_until_ready(UNKNOWN_S + PATIENCE_S),
                )
                until = time.monotonic() + UNKNOWN_S
                while time.monotonic() < until:
                    with pytest.raises(UnavailableError):
                        await asyncio.to_thread(blocking.answer, *FOUNDED, timeout=30)
                    with pytest.raises(UnavailableError):
                        await asynchronous.answer(*FOUNDED, timeout=30)
                    await asyncio.sleep(0.1)
                assert not ready.done()
                names.known = True
                await ready
                until = time.monotonic() + PATIENCE_S
                while True:
                    try:
                        await asyncio.to_thread(blocking.answer, *FOUNDED)
                        await asynchronous.answer(*FOUNDED)
                        break
                    except UnavailableError:
                        assert time.monotonic() < until
                        await asyncio.sleep(0.1)
