"""A peer that is up: its process, whom to ask, and pauses in which it takes no time from others."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from . import processes
from .asking import LINE_LIMIT, Asker, AskError, LinesAsker, make_asker
from .roster import Peer

START_TIMEOUT_S = 300.0
# Nothing is to be fetched or reported while others are measured.
_QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "DO_NOT_TRACK": "1"}
_RUNNING_QUESTION = ("Who founded Rome?", "Rome was founded by Romulus in 753 BC.")
# MLServer and Triton take the two after it for gRPC and metrics.
_PORTS_APIECE = 3


class StartFailedError(Exception):
    """A peer did not come up; the message says where its log is."""


class Running:
    """Make one with `start`."""

    def __init__(self, peer: Peer, process: asyncio.subprocess.Process, asker: Asker) -> None:
        self.peer = peer
        self.asker = asker
        self._process = process

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[Asker]:
        """It runs inside, and only there."""
        processes.resume(self._process.pid)
        try:
            await self.asker.renew()
            yield self.asker
        finally:
            processes.pause(self._process.pid)

    def memory_mb(self) -> float:
        return processes.memory_mb(self._process.pid)

    async def close(self) -> None:
        await self.asker.close()
        await asyncio.to_thread(processes.end, self._process.pid)
        await self._process.wait()


async def start(
    peer: Peer, python: Path | str, values: Mapping[str, str], folder: Path, python_path: str
) -> Running:
    """Start a peer, wait until it answers, and pause it.

    values: what its command's placeholders stand for; `port` and `folder` are added.
    folder: of its own, for its log and its settings.
    python_path: where it finds the contestants' modules.

    Raises StartFailedError.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    port = _free_ports()
    filled = {**values, "port": str(port), "folder": str(folder)}
    log = folder / "log.txt"
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            str(python),
            *(argument.format(**filled) for argument in peer.command),
            stdin=asyncio.subprocess.PIPE if not peer.is_server else asyncio.subprocess.DEVNULL,
            stdout=errors if peer.is_server else asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE_LIMIT,
            env=os.environ
            | _QUIET
            | {"PYTHONPATH": python_path}
            | {name: value.format(**filled) for name, value in peer.variables.items()},
            # Ctrl-C is for the driver, which ends what it started.
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            asker = await _ready_asker(peer, process, port)
    except (AskError, TimeoutError) as error:
        await asyncio.to_thread(processes.end, process.pid)
        raise StartFailedError(f"{peer.name} did not come up ({error}), see {log}") from error
    processes.pause(process.pid)
    return Running(peer, process, asker)


async def _ready_asker(peer: Peer, process: asyncio.subprocess.Process, port: int) -> Asker:
    if not peer.is_server:
        lines = LinesAsker(process)
        await lines.wait_until_ready()
        return lines
    asker = make_asker(peer.protocol, port)
    while True:
        with contextlib.suppress(AskError):
            await asker.answer(_RUNNING_QUESTION)
            return asker
        if process.returncode is not None:
            await asker.close()
            raise AskError("the process ended")
        await asyncio.sleep(0.5)


def _free_ports() -> int:
    """The first of a few free ports in a row."""
    give_up = time.monotonic() + 5.0
    while True:
        with contextlib.ExitStack() as sockets:
            first = sockets.enter_context(socket.socket())
            first.bind(("127.0.0.1", 0))
            port: int = first.getsockname()[1]
            try:
                for after in range(1, _PORTS_APIECE):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", port + after))
            except (OSError, OverflowError):
                if time.monotonic() > give_up:
                    raise
                continue
            return port
