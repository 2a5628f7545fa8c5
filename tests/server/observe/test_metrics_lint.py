"""Names, units and help texts of what a server counts, by Prometheus's rules."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from ...addresses import free_address
from ..conftest import GatedEngine
from .metrics_lint import lint


@pytest.fixture
async def page(bundle: Bundle, engine: GatedEngine) -> AsyncIterator[str]:
    address = free_address()
    settings = ServerSettings(address="127.0.0.1:0", metrics_address=address)
    async with running(bundle, engine, settings) as server, AsyncClient(server) as client:
        await client.answer("Who came?", "Rollo came from Denmark.")
        yield await asyncio.to_thread(_get, f"http://{address}/metrics")


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        text: str = response.read().decode()
    return text


async def test_the_page_is_as_prometheus_asks(page: str) -> None:
    assert "electra_qa_requests_total" in page
    assert lint(page) == []


async def test_promtool_has_nothing_to_say(page: str) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=page, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("# HELP queue_tokens Tokens.\n# TYPE queue_tokens gauge\nqueue_tokens 1\n", "prefix"),
        ("# HELP electra_qa_x_ms A.\n# TYPE electra_qa_x_ms gauge\nelectra_qa_x_ms 1\n", "base"),
        ("# TYPE electra_qa_x gauge\nelectra_qa_x 1\n", "help"),
        ("# HELP electra_qa_x A.\nelectra_qa_x 1\n", "no type"),
        ("# HELP electra_qa_x A.\n# TYPE electra_qa_x counter\nelectra_qa_x 1\n", "_total"),
        ("# HELP electra_qa_a_gauge A.\n# TYPE electra_qa_a_gauge gauge\n", "its type"),
        ("# HELP electra_qa_a_total A.\n# TYPE electra_qa_a_total gauge\n", "suffix"),
        ("# HELP electra_qa_a A.\n# TYPE electra_qa_a histogram\n", "without a unit"),
        ('# HELP electra_qa_a A.\n# TYPE electra_qa_a gauge\nelectra_qa_a{le="1"} 1\n', "belongs"),
        (
            '# HELP electra_qa_a A.\n# TYPE electra_qa_a gauge\nelectra_qa_a{took_ms="1"} 1\n',
            "label took_ms",
        ),
    ],
)
def test_the_lint_finds(text: str, fault: str) -> None:
    (found,) = lint(text)
    assert fault in found
