"""What the metrics page says, against loads of known size."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, ElectraQAError, InvalidArgumentError
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.errors import StartError
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings

from .conftest import GatedEngine

CONTEXT = "Rollo came from Denmark. The Normans came from all over."


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def scrape(address: str) -> dict[tuple[str, str], float]:
    """{(name, the values of its labels, by the labels' names): value}."""
    with urllib.request.urlopen(f"http://{address}/metrics") as response:
        text = response.read().decode()
    return {
        (sample.name.removeprefix("electra_qa_"), _values(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _values(labels: dict[str, str]) -> str:
    return ",".join(value for _, value in sorted(labels.items()))


async def test_a_load_of_known_size_has_these_numbers(bundle: Bundle) -> None:
    engine = load_engine(bundle, EngineSettings("null"))
    address = free_address()
    settings = ServerSettings(address="127.0.0.1:0", metrics_address=address)
    async with running(bundle, engine, settings) as server, AsyncClient(server) as client:
        for threshold in (0.0, 0.0, -10.0):
            await client.answer("Who came?", CONTEXT, null_score_diff_threshold=threshold)
        with pytest.raises(InvalidArgumentError):
            await client.answer("", CONTEXT)
        outcomes = await client.answer_batch([("Who?", CONTEXT), ("", CONTEXT), ("Why?", CONTEXT)])
        assert [isinstance(one, ElectraQAError) for one in outcomes] == [False, True, False]
        numbers = await asyncio.to_thread(scrape, address)
    assert numbers["requests_total", "OK,Answer"] == 3
    assert numbers["requests_total", "INVALID_ARGUMENT,Answer"] == 1
    assert numbers["requests_total", "OK,AnswerBatch"] == 1
    assert numbers["request_seconds_count", "Answer"] == 4
    assert numbers["questions_total", "OK"] == 5
    assert numbers["questions_total", "INVALID_ARGUMENT"] == 2
    assert numbers["windows_total", ""] == 5
    assert numbers["queue_seconds_count", ""] == 5
    assert numbers["context_cache_misses_total", ""] == 1
    # The question is looked at first: that without one never came to its context.
    assert numbers["context_cache_hits_total", ""] == 3
    assert numbers["queue_tokens", ""] == 0
    assert 0 < numbers["window_tokens_total", ""] < numbers["computed_tokens_total", ""]
    assert numbers["null_answers_total", ""] == 1
    with pytest.raises(OSError, match="refused"):
        scrape(address)


async def test_an_address_in_use_is_an_error(bundle: Bundle, engine: GatedEngine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        settings = ServerSettings(address="127.0.0.1:0", metrics_address=address)
        with pytest.raises(StartError, match=f"can't serve metrics at {address}"):
            async with running(bundle, engine, settings):
                pass


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:", "127.0.0.1:99999"])
async def test_what_is_no_address_is_an_error(
    bundle: Bundle, engine: GatedEngine, address: str
) -> None:
    settings = ServerSettings(address="127.0.0.1:0", metrics_address=address)
    with pytest.raises(StartError, match="can't serve metrics at"):
        async with running(bundle, engine, settings):
            pass
