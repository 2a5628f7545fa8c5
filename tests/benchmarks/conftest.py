from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
import numpy as np
import pytest

from electra_qa.benchmarks.calls import CHANNEL_OPTIONS
from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.engines import steps
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings
from electra_qa.spans import DecodedWindows, decode
from electra_qa.windows import WindowBatch

Result = TypeVar("Result")


class _VirtualTime(asyncio.SelectorEventLoop):
    """Where nothing is ready, the clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self.now


class _Jumping(selectors.SelectSelector):
    def __init__(self, loop: _VirtualTime) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everything waits, and nothing will wake it"
        self._loop.now += max(0.0, timeout)
        return super().select(0)


InVirtualTime = Callable[[Coroutine[Any, Any, Result]], Result]


@pytest.fixture
def in_virtual_time() -> InVirtualTime[Any]:
    """Runs a coroutine that only sleeps, at once, and every time alike."""

    def run(main: Coroutine[Any, Any, Any]) -> Any:
        with asyncio.Runner(loop_factory=_VirtualTime) as runner:
            return runner.run(main)

    return run


@dataclass
class GatedEngine:
    """Runs at once, or waits at a gate that the test holds."""

    slots: int = 1
    batch_tokens: int = 1024
    buckets: tuple[int, ...] = steps(16, 512)
    device: str = "a test"
    open: threading.Event = field(default_factory=threading.Event)

    def run(self, batch: WindowBatch) -> DecodedWindows:
        assert self.open.wait(30), "the test never opened the gate"
        logits = batch.input_ids.astype(np.float32) / 30522
        return decode(logits, logits, batch.bounds, 64)

    def close(self) -> None:
        pass


@pytest.fixture
def engine() -> Iterator[GatedEngine]:
    engine = GatedEngine()
    engine.open.set()
    yield engine
    engine.open.set()


Serving = Callable[..., AbstractAsyncContextManager[grpc.aio.Channel]]


@pytest.fixture
def serving(engine: GatedEngine) -> Serving:
    """A real server on a loopback port with the gated engine, and a channel to it."""

    @asynccontextmanager
    async def serve(**settings: Any) -> AsyncIterator[grpc.aio.Channel]:
        bundle = load_bundle(default_bundle_path())
        chosen = ServerSettings(
            **({"address": "127.0.0.1:0", "warm_up_lengths": "none"} | settings)
        )
        async with (
            running(bundle, engine, chosen) as address,
            grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
        ):
            yield channel
            engine.open.set()

    return serve


@pytest.fixture(scope="session")
def small() -> Path:
    """A SQuAD 2.0 file of our own, with 12 questions about three texts."""
    return Path(__file__).parents[1] / "data" / "small.json"
