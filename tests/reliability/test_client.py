"""Both clients where servers die, stand still and come back, and where connections go bad."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest

from electra_qa import channels
from electra_qa.client import AsyncClient, Client, ElectraQAError, UnavailableError
from electra_qa.private import ServerProcess
from electra_qa.server.settings import ServerSettings

from .proxy import Proxy

FOUNDED = ("Who founded Rome?", "Rome was founded by Romulus.")
# gRPC's client does not ping more often than once a second, whatever it is told.
PING_S = 1.0


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    """One that answers at once, and lets clients ping nearly as often as they do in these tests."""
    arguments = ["--engine", "null", "--warm-up-lengths", "none", "--min-ping-interval-s", "0.9"]
    with ServerProcess(arguments=arguments) as server:
        yield server


@pytest.fixture
def proxy(server: ServerProcess) -> Iterator[Proxy]:
    with Proxy(server.address) as proxy:
        yield proxy


@pytest.fixture
def _pings_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's own keepalive, faster, so that no test takes as long as it does."""
    monkeypatch.setattr(channels, "KEEPALIVE_TIME_S", PING_S)
    monkeypatch.setattr(channels, "KEEPALIVE_TIMEOUT_S", PING_S)


def process_of(server: ServerProcess) -> int:
    waiting = server.close.peek()
    assert waiting is not None
    _, _, (process, *_), _ = waiting
    return int(process.pid)


def trickle(stop: threading.Event) -> Iterator[tuple[str, tuple[str, str]]]:
    number = 0
    while not stop.is_set():
        yield str(number), FOUNDED
        number += 1
        time.sleep(0.002)


async def never(first: int = 1) -> AsyncIterator[tuple[str, tuple[str, str]]]:
    for number in range(first):
        yield str(number), FOUNDED
    await asyncio.Event().wait()


@pytest.mark.usefixtures("_pings_often")
def test_a_stream_ends_when_its_connection_does(proxy: Proxy) -> None:
    """Those that have had no answer yet, too, of which gRPC would try some again."""
    stop, ended = threading.Event(), []

    def ask() -> None:
        with Client(proxy.address) as client:
            while not stop.is_set():
                try:
                    for _ in client.answer_stream(trickle(stop)):
                        if stop.is_set():
                            break
                except UnavailableError as error:
                    ended.append(error)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    for _ in range(30):
        time.sleep(0.1)
        proxy.cut()
    stop.set()
    proxy.cut()
    give_up = time.monotonic() + 60
    for thread in threads:
        thread.join(max(0.0, give_up - time.monotonic()))
    assert sum(thread.is_alive() for thread in threads) == 0
    assert len(ended) > 16


@pytest.mark.usefixtures("_pings_often")
@pytest.mark.parametrize("idle", [False, True])
async def test_a_connection_that_went_silent_is_given_up(proxy: Proxy, idle: bool) -> None:
    """At the latest after the two times, and an idle one before anybody calls."""
    with Client(proxy.address) as client:
        async with AsyncClient(proxy.address) as aclient:
            client.answer(*FOUNDED)
            await aclient.answer(*FOUNDED)
            proxy.silence()
            async with asyncio.timeout(60):
                while idle and len(proxy.taken) < 4:  # both connect anew by themselves
                    await asyncio.sleep(0.05)
                answers = await asyncio.gather(
                    asyncio.to_thread(client.answer, *FOUNDED), aclient.answer(*FOUNDED)
                )
            assert all(answer.windows == 1 for answer in answers)
    assert len(proxy.taken) == 4


@pytest.mark.usefixtures("_pings_often")
async def test_streams_on_a_connection_that_went_silent_end(proxy: Proxy) -> None:
    def blocking() -> None:
        stop = threading.Event()
        try:
            with Client(proxy.address) as client:
                for number, _ in enumerate(client.answer_stream(trickle(stop))):
                    if number == 3:
                        proxy.silence()
        finally:
            stop.set()

    async def asynchronous() -> None:
        async with AsyncClient(proxy.address) as client:
            async for _ in client.answer_stream(never()):
                proxy.silence()

    async with asyncio.timeout(60):
        with pytest.raises(UnavailableError):
            await asyncio.to_thread(blocking)
        with pytest.raises(UnavailableError):
            await asynchronous()


@pytest.mark.usefixtures("_pings_often")
async def test_a_server_that_stands_still_is_noticed_and_found_again() -> None:
    arguments = ["--engine", "null", "--warm-up-lengths", "none", "--min-ping-interval-s", "0.9"]
    with ServerProcess(arguments=arguments) as server, Client(server.address) as client:
        async with AsyncClient(server.address) as aclient:
            client.answer(*FOUNDED)
            os.kill(process_of(server), signal.SIGSTOP)
            try:
                began = time.monotonic()
                with pytest.raises(UnavailableError):
                    async for _ in aclient.answer_stream(never()):
                        pass
                with pytest.raises(UnavailableError):
                    await asyncio.to_thread(
                        lambda: list(client.answer_stream(iter([("1", FOUNDED)])))
                    )
                assert time.monotonic() - began < 60
            finally:
                os.kill(process_of(server), signal.SIGCONT)
            client.wait_until_ready(60)
            assert client.answer(*FOUNDED).windows == 1
            await aclient.wait_until_ready(60)
            assert (await aclient.answer(*FOUNDED)).windows == 1


@pytest.mark.usefixtures("_pings_often")
async def test_pings_do_not_trip_the_server(proxy: Proxy) -> None:
    """As often as its own server lets it, idle and with a call that says nothing."""
    with Client(proxy.address) as client:
        async with AsyncClient(proxy.address) as aclient:
            client.answer(*FOUNDED)
            stream = aclient.answer_stream(never())
            await anext(stream)
            following = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(6 * PING_S)  # the server cuts off after three
            assert not following.done()
            assert len(proxy.taken) == 2
            following.cancel()


def test_the_client_pings_less_often_than_its_server_allows() -> None:
    assert ServerSettings().min_ping_interval_s + 1 <= channels.KEEPALIVE_TIME_S
    assert channels.KEEPALIVE_TIME_S + channels.KEEPALIVE_TIMEOUT_S <= 16


def test_after_an_outage_it_takes_seconds(proxy: Proxy) -> None:
    """gRPC's own pauses would be over 3 seconds by then, and 120 in the end."""
    with Client(proxy.address) as client:
        client.answer(*FOUNDED)
        proxy.refusing = True
        proxy.cut()
        began = time.monotonic()
        late = 0.0  # so much a machine that is busy with other work takes longer
        while (asked := time.monotonic()) < began + 9:
            with pytest.raises(ElectraQAError):
                client.answer(*FOUNDED, timeout=0.5)
            late = max(late, time.monotonic() - asked - 0.5)
        attempts = [at for at in proxy.taken if at > began]
        pauses = [after - before for before, after in pairwise(attempts)]
        assert max(pauses) < 2.9 + 2 * late
        proxy.refusing = False
        with Client(proxy.address) as new:
            assert new.answer(*FOUNDED, timeout=1 + 10 * late).windows == 1
        client.wait_until_ready(3.2 + 10 * late)
        assert client.answer(*FOUNDED).windows == 1


async def test_latency_and_a_slow_close_lose_nothing(proxy: Proxy) -> None:
    proxy.latency_s = 0.05
    proxy.slow_close_s = 0.5
    async with AsyncClient(proxy.address) as client:
        many = [one async for one in client.answer_many([FOUNDED] * 100, batch_size=5)]
        assert [getattr(one, "windows", one) for one in many] == [1] * 100
    with Client(proxy.address) as blocking:
        answered = dict(blocking.answer_stream((str(n), FOUNDED) for n in range(100)))
        assert len(answered) == 100
