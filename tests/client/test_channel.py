from __future__ import annotations

import asyncio

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import AsyncClient
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings


async def test_every_server_behind_a_name_has_its_share() -> None:
    """As behind a headless Kubernetes service. The limits say which server it was."""
    bundle = load_bundle(default_bundle_path())
    engine = load_engine(bundle, EngineSettings("null"))

    def settings(max_queue_tokens: int) -> ServerSettings:
        return ServerSettings(
            address="127.0.0.1:0", warm_up_lengths="none", max_queue_tokens=max_queue_tokens
        )

    seen: list[int] = []
    async with (
        running(bundle, engine, settings(1000)) as one,
        running(bundle, engine, settings(2000)) as two,
        AsyncClient(f"ipv4:{one},{two}") as client,
        asyncio.timeout(30),
    ):
        # Until both are connected, the first to be has all the calls.
        while len(set(seen)) < 2:
            seen.append((await client.info()).limits.max_queue_tokens)
        turns = [(await client.info()).limits.max_queue_tokens for _ in range(10)]
    assert turns.count(1000) == turns.count(2000) == 5
