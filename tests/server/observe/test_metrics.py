"""What the metrics page says, against loads of known size."""

from __future__ import annotations

import asyncio
import socket
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from electra_qa import __version__
from electra_qa.bundle import Bundle
from electra_qa.client import (
    AsyncClient,
    DeadlineExceededError,
    ElectraQAError,
    InvalidArgumentError,
    ResourceExhaustedError,
)
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.errors import StartError
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings
from electra_qa.tokenization import Tokenizer

from ...addresses import free_address
from ..conftest import GatedEngine

CONTEXT = "Rollo came from Denmark. The Normans came from all over."
# Of windows of which none is the same as another.
LONG = " ".join(map(str, range(30_000)))
# How long the gate of the engine is held.
HELD_S = 0.2


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


async def test_what_waits_and_what_is_refused_has_these_numbers(
    bundle: Bundle, engine: GatedEngine, tokenizer: Tokenizer
) -> None:
    """One question in the engine, three that wait, one for which there is no room, and one that
    can't be in time."""
    # As many as are asked at the same time: the same ones would be computed once.
    question, *others = "Who came?", "Who went?", "Who left?", "Who stayed?"
    assert len({len(tokenizer.question(one)) for one in (question, *others)}) == 1
    context = tokenizer.context(CONTEXT)
    length = len(tokenizer.question(question)) + len(context.ids) + 3
    padded = -(-length // 16) * 16
    address = free_address()
    settings = ServerSettings(
        address="127.0.0.1:0", metrics_address=address, max_queue_tokens=3 * length
    )
    async with running(bundle, engine, settings) as server, AsyncClient(server) as client:
        numbers = await asyncio.to_thread(scrape, address)
        # What was never refused has a number too: from a series that is new, no rate is known.
        assert numbers["rejections_total", "queue"] == numbers["rejections_total", "deadline"] == 0
        assert numbers["queue_limit_tokens", ""] == 3 * length
        assert numbers["build_info", f"{engine.device},{__version__}"] == 1
        assert numbers["process_resident_memory_bytes", ""] > 0

        engine.batches.clear()
        engine.open.clear()
        asked = [asyncio.create_task(client.answer(question, CONTEXT))]
        await engine.taken()
        asked += [asyncio.create_task(client.answer(one, CONTEXT)) for one in others]
        while (numbers := await asyncio.to_thread(scrape, address))[
            "queue_tokens", ""
        ] < 3 * length:
            await asyncio.sleep(0.01)
        assert numbers["queue_tokens", ""] == 3 * length
        assert numbers["open_calls", ""] == 4
        with pytest.raises(ResourceExhaustedError):
            await client.answer(question, CONTEXT)
        await asyncio.sleep(HELD_S)
        engine.open.set()
        await asyncio.gather(*asked)
        # At the rate of a handful of tokens in all that time, this takes much longer.
        with pytest.raises(DeadlineExceededError):
            await client.answer(question, LONG, timeout=10)
        numbers = await asyncio.to_thread(scrape, address)
    long = tokenizer.context(LONG)
    expected = {
        ("open_calls", ""): 0,
        ("queue_tokens", ""): 0,
        ("requests_total", "OK,Answer"): 4,
        ("requests_total", "RESOURCE_EXHAUSTED,Answer"): 1,
        ("requests_total", "DEADLINE_EXCEEDED,Answer"): 1,
        ("request_seconds_count", "Answer"): 6,
        ("rejections_total", "queue"): 1,
        ("rejections_total", "deadline"): 1,
        ("questions_total", "OK"): 4,
        ("questions_total", "RESOURCE_EXHAUSTED"): 1,
        ("questions_total", "DEADLINE_EXCEEDED"): 1,
        # The first alone, the others together.
        ("batches_total", str(padded)): 2,
        ("batch_windows_count", ""): 2,
        ("batch_windows_sum", ""): 4,
        ("batch_windows_bucket", "1.0"): 1,
        ("batch_windows_bucket", "2.0"): 1,
        ("batch_windows_bucket", "4.0"): 2,
        ("windows_total", ""): 4,
        ("shared_windows_total", ""): 0,
        ("window_tokens_total", ""): 4 * length,
        ("computed_tokens_total", ""): 4 * padded,
        ("queue_seconds_count", ""): 4,
        ("engine_seconds_count", ""): 2,
        # That of the call that was too late was tokenized before it was refused, and is kept.
        ("context_cache_misses_total", ""): 2,
        ("context_cache_hits_total", ""): 3,
        ("context_cache_bytes", ""): context.nbytes + long.nbytes,
    }
    assert {name: numbers[name] for name in expected} == expected
    # What took at least as long as the gate was held.
    assert numbers["queue_seconds_sum", ""] >= 3 * HELD_S
    assert numbers["engine_seconds_sum", ""] >= HELD_S
    assert numbers["request_seconds_sum", "Answer"] >= 4 * HELD_S
    # One batch after the other: the engine was busy just as long as they took.
    busy = numbers["engine_busy_seconds_total", ""]
    assert busy == pytest.approx(numbers["engine_seconds_sum", ""])


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
