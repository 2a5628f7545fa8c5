"""Callers of every kind, while the server reloads, ends, is killed and starts anew."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import Client, ElectraQAError, UnavailableError
from electra_qa.server.errors import SHUTTING_DOWN

from ..addresses import free_address
from .callers import KINDS, RAW, Tally, callers
from .questions import Answer, expected
from .report import SECONDS, Figures, grown_mb, more
from .serving import Server, server

OF_EACH_KIND = 2 if SECONDS < 60 else 6
# A reload, an end, and a kill each need some time to be under load.
PAUSE_S = 0.5
LEAST_RELOADS = 4
LEAST_ENDS = 4


def reload(serving: Server, admin: str, *, by_signal: bool) -> None:
    if by_signal:
        serving.process.send_signal(signal.SIGHUP)
        return
    command = [sys.executable, "-m", "electra_qa", "reload", "--address", admin]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def point_at(link: Path, folder: Path) -> None:
    following = link.with_name("next")
    following.symlink_to(folder)
    os.replace(following, link)  # noqa: PTH105


def an_address(folder: Path, front_ends: int) -> str:
    """A Unix socket has one listener."""
    return free_address() if front_ends > 1 else f"unix:{folder}/socket"


def was_refused(error: ElectraQAError) -> bool:
    """Rather than lost: the server said no, or there was none to connect to."""
    return str(error) == SHUTTING_DOWN or str(error).startswith(
        ("failed to connect to all addresses", "connections to all backends failing")
    )


def lost(failed: list[tuple[str, ElectraQAError]]) -> list[tuple[str, ElectraQAError]]:
    """Of what failed while a server ended, all but one call without retries: gRPC's server cancels
    what comes in the moment before its callers hear that it stops."""
    late = [one for one in failed if one[1].code is grpc.StatusCode.CANCELLED and one[0] in RAW]
    return [one for one in failed if not was_refused(one[1]) and one not in late[:1]]


async def wait_until_ready(address: str) -> None:
    with Client(address) as client:
        await asyncio.to_thread(client.wait_until_ready, 60)


@pytest.mark.parametrize("front_ends", [0, 2])
async def test_any_number_of_reloads_and_then_a_clean_end(
    front_ends: int,
    tiny_bundle: Bundle,
    tiny_answers: list[Answer],
    other_tiny_bundle: Bundle,
    tmp_path: Path,
    figures: Figures,
) -> None:
    other_answers = await asyncio.to_thread(expected, other_tiny_bundle, tmp_path)
    assert other_answers != tiny_answers
    right = {tiny_bundle.version: tiny_answers, other_tiny_bundle.version: other_answers}

    link = tmp_path / "bundle"
    link.symlink_to(tiny_bundle.path)
    address, admin = an_address(tmp_path, front_ends), f"unix:{tmp_path}/admin"
    options = ["--bundle", str(link), "--address", address, "--admin-address", admin]
    options += ["--front-ends", str(front_ends)]
    tally = Tally(right, asks_again=False)
    with server(tmp_path, *options) as serving, figures.timed():
        await wait_until_ready(address)
        async with callers(address, tally, OF_EACH_KIND) as finish:
            give_up = time.monotonic() + SECONDS
            with figures.sampling(serving.process.pid, address) as samples:
                for number, one in enumerate(itertools.cycle([other_tiny_bundle, tiny_bundle])):
                    if number >= LEAST_RELOADS and time.monotonic() >= give_up:
                        break
                    point_at(link, one.path)
                    await asyncio.to_thread(reload, serving, admin, by_signal=number % 2 == 0)
                    async with asyncio.timeout(60):
                        while tally.in_force != one.version:
                            assert serving.process.poll() is None, serving.log
                            assert not tally.failed
                            await asyncio.sleep(0.02)
                    await asyncio.sleep(PAUSE_S)
                    figures.counts["reloads"] += 1
            assert not tally.failed
            serving.process.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(serving.process.wait, 60) == 0, serving.log
            await finish()
    figures.counts += tally.counts
    assert not tally.wrong
    assert set(tally.answered) == {kind.ask.__name__ for kind in KINDS}
    # Each caller was told once, and ended; nobody's question went under.
    assert not lost(tally.failed)
    assert len(tally.failed) == len(KINDS) * OF_EACH_KIND
    assert "Traceback" not in serving.log
    assert all(one.failed == 0 for one in samples)
    assert more(samples, "files") < 20
    assert more(samples, "threads") < 20
    assert grown_mb(samples) < 100


@pytest.mark.parametrize("front_ends", [0] if SECONDS < 60 else [0, 2])
async def test_ends_and_kills_lose_nothing(
    tiny_bundle: Bundle,
    tiny_answers: list[Answer],
    tmp_path: Path,
    figures: Figures,
    front_ends: int,
) -> None:
    """What was under way when a server ends in order is answered; what was when it is killed is
    once there is a server again that it is asked of."""
    address = an_address(tmp_path, front_ends)
    options = ["--bundle", str(tiny_bundle.path), "--address", address]
    options += ["--front-ends", str(front_ends)]
    tally = Tally({tiny_bundle.version: tiny_answers})
    with figures.timed():
        async with callers(address, tally, OF_EACH_KIND) as finish:
            give_up = time.monotonic() + SECONDS
            for number, how in enumerate(itertools.cycle([signal.SIGTERM, signal.SIGKILL])):
                with server(tmp_path, *options) as serving:
                    await wait_until_ready(address)
                    with figures.sampling(serving.process.pid, address):
                        answered = tally.answered.total()
                        await asyncio.sleep(PAUSE_S)
                        async with asyncio.timeout(60):
                            while tally.answered.total() == answered:
                                await asyncio.sleep(0.02)
                    if number >= LEAST_ENDS and time.monotonic() >= give_up:
                        await finish()
                        break
                    before = len(tally.failed)
                    serving.process.send_signal(how)
                    code = await asyncio.to_thread(serving.process.wait, 60)
                    failed = tally.failed[before:]
                figures.counts[how.name] += 1
                assert code == (0 if how is signal.SIGTERM else -how), serving.log
                assert "Traceback" not in serving.log
                if how is signal.SIGTERM:
                    assert not lost(failed)
    figures.counts += tally.counts
    assert not tally.wrong
    assert set(tally.answered) == {kind.ask.__name__ for kind in KINDS}
    assert not [one for one in tally.failed if not isinstance(one[1], UnavailableError)]
