"""More is asked than a server can answer, and its front ends are killed one after the other."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import time
from pathlib import Path

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, ElectraQAError, Result, UnavailableError

from ..addresses import free_address
from .report import SECONDS, Figures
from .serving import Server, server
from .test_overload import CAPACITY, SLOW, Overload

FRONT_ENDS = 2
# `make chaos` is to have ten minutes of it, and a front end killed every minute.
DURATION_S, EVERY_S = (600.0, 60.0) if SECONDS >= 60 else (max(SECONDS, 5.0), 2.0)
TIMES = 2
# Callers, each with a connection of its own, so that all front ends have some.
CALLERS = 8


class Killed(Overload):
    """Whoever was on the killed one's connections may hear that it is gone, after the retries of
    the client: that is lost, and counted."""

    def judge(self, outcome: Result | ElectraQAError, timeout: float | None) -> None:
        if isinstance(outcome, UnavailableError):
            self.counts["asked"] += 1
            self.counts["lost"] += 1
            return
        super().judge(outcome, timeout)


async def kill_now_and_then(serving: Server, kills: list[int]) -> None:
    for number in itertools.count():
        await asyncio.sleep(EVERY_S)
        pid = serving.children("front")[number % FRONT_ENDS]
        os.kill(pid, signal.SIGKILL)
        kills.append(pid)


async def test_a_front_end_that_is_killed_takes_nothing_from_the_others(
    tiny_bundle: Bundle, tmp_path: Path, figures: Figures
) -> None:
    address = free_address()
    options = ["--bundle", str(tiny_bundle.path), "--address", address, "--engine", "null"]
    options += ["--max-batch-tokens", "64", "--max-queue-tokens", "4000"]
    options += ["--warm-up-lengths", "none", "--front-ends", str(FRONT_ENDS)]
    kills: list[int] = []
    with server(tmp_path, *options, program=SLOW) as serving, figures.timed():
        clients = [AsyncClient(address, channels=2) for _ in range(CALLERS)]
        await clients[0].wait_until_ready(60)
        callers = [Killed(client, n * 10**6) for n, client in enumerate(clients)]
        began = time.monotonic()
        killing = asyncio.create_task(kill_now_and_then(serving, kills))
        await asyncio.gather(
            *(caller.offer(TIMES * CAPACITY / CALLERS, DURATION_S) for caller in callers)
        )
        took = time.monotonic() - began
        killing.cancel()
        for client in clients:
            await client.close()
        serving.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(serving.process.wait, 60) == 0, serving.log
    for caller in callers:
        figures.counts += caller.counts
    figures.counts["killed"] = len(kills)
    figures.counts["a second"] = round(figures.counts["answered"] / took)
    assert not [one for caller in callers for one in caller.bad]
    assert len(kills) >= 2
    assert figures.counts["answered"] > 0
    assert figures.counts["refused"] > 0
    # What was under way on the connections of the one that was killed, at the most.
    assert figures.counts["lost"] <= 0.1 * figures.counts["asked"]
    assert "Traceback" not in serving.log
