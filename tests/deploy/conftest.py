from __future__ import annotations

import asyncio
import shutil
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import AsyncClient, InvalidArgumentError
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.cli import serve
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from ..addresses import free_address

REPOSITORY = Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"

# What Prometheus itself puts on every series: the configurations in deploy/ have no others.
TARGET_LABELS = {"job", "instance", "namespace", "pod"}


@dataclass(frozen=True, slots=True)
class Scrape:
    """text: as it came. labels: of each sample, by its name."""

    text: str
    labels: dict[str, set[str]]


def documents(path: Path) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


def parse_serve(arguments: Sequence[str]) -> dict[str, Any]:
    """What `electra-qa serve ARGUMENTS` would run with. Raises click.UsageError where it can't."""
    command, *rest = arguments
    assert command == "serve"
    return serve.make_context("serve", rest).params


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("needs promtool (Debian: prometheus)")
    return found


@pytest.fixture(scope="session")
def scraped() -> Scrape:
    """/metrics of a real server after a question, a batch and a refusal."""
    return asyncio.run(_scrape())


async def _scrape() -> Scrape:
    bundle = load_bundle(default_bundle_path())
    engine = load_engine(bundle, EngineSettings("null"))
    address = free_address()
    settings = ServerSettings(
        address="127.0.0.1:0", metrics_address=address, warm_up_lengths="none"
    )
    async with running(bundle, engine, settings) as server, AsyncClient(server) as client:
        context = "Rome was founded by Romulus."
        await client.answer("Who founded Rome?", context)
        await client.answer_batch([("Who?", context), ("When?", context)])
        with pytest.raises(InvalidArgumentError):
            await client.answer("", context)
        text = await asyncio.to_thread(_get, f"http://{address}/metrics")
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        # A labelled counter that nothing was counted in has a family and no samples.
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(sample.labels)
    return Scrape(text, labels)


def _get(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        text: str = response.read().decode()
    return text
