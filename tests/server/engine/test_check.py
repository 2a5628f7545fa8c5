"""Health tells a batch that failed from an engine that fails on everything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from electra_qa.client import AsyncClient, InternalError
from electra_qa.server.engine import check as engine_check
from electra_qa.server.front.service import SERVICE

from ..conftest import PATIENCE_S, GatedEngine, Serving

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def health_of(client: AsyncClient) -> AsyncIterator[asyncio.Queue[int]]:
    """What the health of the service becomes, change by change."""
    changes: asyncio.Queue[int] = asyncio.Queue()
    async with grpc.aio.insecure_channel(client.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service=SERVICE)
        )

        async def follow() -> None:
            async for response in watch:
                changes.put_nowait(response.status)

        following = asyncio.create_task(follow())
        try:
            yield changes
        finally:
            watch.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def next_of(changes: asyncio.Queue[int]) -> int:
    return await asyncio.wait_for(changes.get(), PATIENCE_S)


async def test_health_follows_an_engine_that_breaks_and_mends(
    serving: Serving, engine: GatedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_check, "INTERVAL_S", 0.02)
    async with serving() as client, health_of(client) as changes:
        assert await next_of(changes) == SERVING
        engine.failing_lengths = set(engine.buckets)
        with pytest.raises(InternalError):
            await client.answer("who?", CONTEXT)
        assert await next_of(changes) == NOT_SERVING
        for _ in range(3):
            with pytest.raises(InternalError):
                await client.answer("who?", CONTEXT)
        engine.failing_lengths = set()
        assert await next_of(changes) == SERVING
        await client.answer("who?", CONTEXT)
        assert changes.empty()


async def test_a_batch_that_fails_alone_is_no_broken_engine(
    serving: Serving, engine: GatedEngine
) -> None:
    async with serving() as client, health_of(client) as changes:
        assert await next_of(changes) == SERVING
        await client.answer("who?", CONTEXT)
        ((length,),) = [batch.input_ids.shape[1:] for batch in engine.batches]
        engine.failing_lengths = {length}
        engine.batches.clear()
        with pytest.raises(InternalError):
            await client.answer("who?", CONTEXT)
        while len(engine.batches) < 2:  # the second is the server's own
            await asyncio.sleep(0.01)
        engine.failing_lengths = set()
        await client.answer("who?", CONTEXT)
        assert changes.empty()
