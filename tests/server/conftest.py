from __future__ import annotations

import asyncio
import os
import tempfile
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient
from electra_qa.engines import Engine, EngineError, steps
from electra_qa.server import lifecycle
from electra_qa.server.front.models import Load, Models
from electra_qa.server.lifecycle import started
from electra_qa.server.observe.metrics import Metrics
from electra_qa.server.observe.metrics_port import exposed
from electra_qa.server.processes.collected import Page, merged, snapshot
from electra_qa.server.processes.engine_process import engine_at
from electra_qa.server.processes.front_process import front_end
from electra_qa.server.settings import ServerSettings
from electra_qa.spans import DecodedWindows, decode
from electra_qa.windows import WindowBatch

# What a test waits for comes in milliseconds; a machine that is busy with other work takes longer.
PATIENCE_S = 100.0


async def until(condition: Callable[[], object]) -> None:
    """Return once it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


@dataclass
class GatedEngine:
    """Runs at once, or waits at a gate that the test holds; notes every batch that it gets.

    Fails on batches of `failing_lengths`. With `turns` each batch takes one of them.

    Its logits are the token ids: the best span is where the highest ids are.
    """

    slots: int = 1
    batch_tokens: int = 1024
    buckets: tuple[int, ...] = steps(16, 512)
    device: str = "a test"
    open: threading.Event = field(default_factory=threading.Event)
    batches: list[WindowBatch] = field(default_factory=list)
    turns: threading.Semaphore | None = None
    failing_lengths: set[int] = field(default_factory=set)
    closed: bool = False

    async def taken(self) -> None:
        """Return once a batch has come to the gate."""
        await until(lambda: self.batches)

    def run(self, batch: WindowBatch) -> DecodedWindows:
        assert not self.closed, "a batch came after the engine was closed"
        self.batches.append(batch)
        assert self.open.wait(PATIENCE_S), "the test never opened the gate"
        if self.turns is not None:
            assert self.turns.acquire(timeout=PATIENCE_S), "the test gave too few turns"
        if batch.input_ids.shape[1] in self.failing_lengths:
            raise EngineError("/secret/path went wrong")
        logits = batch.input_ids.astype(np.float32) / 30522
        return decode(logits, logits, batch.bounds, 64)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def engine() -> GatedEngine:
    engine = GatedEngine()
    engine.open.set()
    return engine


class Counted:
    """What the servers of the test have counted."""

    def __init__(self) -> None:
        self._of_processes: list[Metrics] = []

    def started(self) -> Metrics:
        self._of_processes.append(Metrics())
        return self._of_processes[-1]

    def value(self, name: str, **labels: str) -> float:
        return sum(
            metrics.registry.get_sample_value(f"electra_qa_{name}", labels) or 0.0
            for metrics in self._of_processes
        )

    async def queued(self, tokens: float = 1) -> float:
        """Return once so many tokens wait for the engine; how many they are."""
        await until(lambda: self.value("queue_tokens") >= tokens)
        return self.value("queue_tokens")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(lifecycle, "Metrics", counted.started)
    return counted


@asynccontextmanager
async def front_end_and_engine(
    bundle: Bundle, engine: Engine, settings: ServerSettings, load: Load | None = None
) -> AsyncIterator[tuple[str, Models]]:
    """`started`, but with a front end apart from the engine, and a real socket between them."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/engine"
        front, back = lifecycle.Metrics(), lifecycle.Metrics()
        registry = CollectorRegistry()
        registry.register(Page(lambda: merged([snapshot(front.registry), snapshot(back.registry)])))
        with exposed(registry, settings.metrics_address):
            async with (
                engine_at(path, bundle, engine, back, settings, load) as models,
                front_end([path], front, settings) as address,
            ):
                yield address, models


Starting = Callable[..., AbstractAsyncContextManager[tuple[str, Models]]]


@pytest.fixture
def starting() -> Starting:
    """What starts a server of (bundle, engine, settings, load), and gives its address and its
    models. In a module with `WITH_FRONT_ENDS` each test has both kinds, and with FRONT_ENDS=1 in
    the environment in all modules."""
    return started


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "starting" not in metafunc.fixturenames:
        return
    if hasattr(metafunc.module, "WITH_FRONT_ENDS") or os.environ.get("FRONT_ENDS"):
        kinds = {"one process": started, "front end": front_end_and_engine}
        metafunc.parametrize("starting", list(kinds.values()), ids=list(kinds))


Serving = Callable[..., AbstractAsyncContextManager[AsyncClient]]


@pytest.fixture
def serving(bundle: Bundle, engine: GatedEngine, starting: Starting) -> Serving:
    """A real server on a loopback port with the gated engine, and a client of it."""

    @asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[AsyncClient]:
        chosen = ServerSettings(**({"address": "127.0.0.1:0"} | settings))
        engine.closed = False  # the server before this one closed it
        async with (
            starting(bundle, engine, chosen) as (address, _),
            AsyncClient(address) as client,
        ):
            engine.batches.clear()  # those of the warm-up
            yield client

    return serve
