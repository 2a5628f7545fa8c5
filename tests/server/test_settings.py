"""Numbers that gRPC and the messages can't hold are refused at the start."""

from __future__ import annotations

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient
from electra_qa.server.errors import StartError
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import LARGEST, ServerSettings

from .conftest import GatedEngine


@pytest.mark.parametrize("value", [2**31, 10**12, float("inf"), float("nan")])
@pytest.mark.parametrize("field", ["max_message_bytes", "max_windows", "keepalive_time_s"])
def test_a_number_that_is_too_large_is_named(field: str, value: float) -> None:
    with pytest.raises(StartError, match=f"{field} must be at most"):
        ServerSettings(**{field: value})  # type: ignore[arg-type]


async def test_the_largest_numbers_serve(bundle: Bundle, engine: GatedEngine) -> None:
    names = [
        name
        for name in ServerSettings.__dataclass_fields__
        if name.startswith(("max_", "keepalive_", "min_", "context_", "drain_", "reload_"))
        and name != "max_batch_tokens"
    ]
    settings = ServerSettings("127.0.0.1:0", **dict.fromkeys(names, LARGEST))  # type: ignore[arg-type]
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        info = await client.info()
        assert info.limits.max_windows == LARGEST
