"""Requests that stall are no threads without end, and keep nobody out."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack

import pytest

from electra_qa.server.observe import metrics_port
from electra_qa.server.observe.metrics import Metrics
from electra_qa.server.observe.metrics_port import MAX_REQUESTS, exposed

from ...addresses import free_address
from .test_metrics import scrape


@pytest.mark.parametrize("said", [b"", b"GET /metrics HTTP/1.1\r\n"])
async def test_stalled_requests_are_bounded(said: bytes) -> None:
    address = free_address()
    host, _, port = address.rpartition(":")
    before = threading.active_count()
    with exposed(Metrics().registry, address), ExitStack() as stalled:
        for _ in range(40):
            connection = stalled.enter_context(socket.create_connection((host, int(port)), 60))
            connection.sendall(said)
        page = await asyncio.to_thread(scrape, address)
        assert ("open_calls", "") in page
        # The accepting thread, and a few that are about to end.
        assert threading.active_count() <= before + MAX_REQUESTS + 8
    assert [t.name for t in threading.enumerate() if t.name == "metrics"] == []


async def test_a_request_that_stalls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_port._Handler, "timeout", 0.2)
    address = free_address()
    host, _, port = address.rpartition(":")
    with (
        exposed(Metrics().registry, address),
        socket.create_connection((host, int(port)), 60) as stalled,
    ):
        assert await asyncio.to_thread(stalled.recv, 1) == b""
