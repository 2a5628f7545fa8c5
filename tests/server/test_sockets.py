"""One Unix socket, one server."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient
from electra_qa.server.errors import StartError
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings
from electra_qa.server.sockets import claimed

from .conftest import GatedEngine

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


def an_engine() -> GatedEngine:
    engine = GatedEngine()
    engine.open.set()
    return engine


@pytest.mark.parametrize("field", ["address", "admin_address"])
async def test_a_second_server_is_refused_and_takes_nothing_away(
    bundle: Bundle, tmp_path: Path, field: str
) -> None:
    shared = f"unix:{tmp_path}/shared"
    first = replace(ServerSettings(address=f"unix:{tmp_path}/first"), **{field: shared})
    second = replace(ServerSettings(address=f"unix:{tmp_path}/second"), **{field: shared})
    async with running(bundle, an_engine(), first) as address:
        with pytest.raises(StartError, match=rf"can't listen on {shared}: another server does"):
            async with running(bundle, an_engine(), second):
                pass
        assert (tmp_path / "shared").is_socket()
        async with AsyncClient(address) as client:
            assert (await client.answer("who?", CONTEXT)).answers
    assert list(tmp_path.iterdir()) == []
    async with running(bundle, an_engine(), second):
        pass


async def test_what_a_killed_server_left_is_taken(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (tmp_path / "socket.lock").touch()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    settings = ServerSettings(address=f"unix:{path}")
    async with running(bundle, an_engine(), settings) as address, AsyncClient(address) as client:
        assert (await client.answer("who?", CONTEXT)).answers


async def test_another_programs_socket_is_not_taken(bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.raises(StartError, match="another server does"):
            async with running(bundle, an_engine(), ServerSettings(address=f"unix:{path}")):
                pass
    assert path.is_socket()


def test_of_many_at_the_same_moment_one_has_it(tmp_path: Path) -> None:
    together = Barrier(8)

    def claim() -> bool:
        together.wait()
        try:
            with claimed(f"unix:{tmp_path}/socket"):
                together.wait()
                return True
        except StartError:
            together.wait()
            return False

    for _ in range(20):
        with ThreadPoolExecutor(8) as pool:
            outcomes = [future.result() for future in [pool.submit(claim) for _ in range(8)]]
        assert outcomes.count(True) == 1
