"""One cluster for all of these, in the order in which they stand: the last one kills a node."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest

pytest.importorskip("ray", reason="needs ray: pip install 'electra-qa[ray]'")
pytest.importorskip("psutil", reason="needs psutil")

import ray

from electra_qa.bundle import MANIFEST, default_bundle_path
from electra_qa.client import (
    AsyncClient,
    Client,
    InvalidArgumentError,
    ResourceExhaustedError,
    Result,
)
from electra_qa.squad import read_squad

from ..server.open_inference.test_tritonclient import PAIRS, same, triton_asks
from .cluster import RayCluster, running_cluster
from .load import Pair, answers_of_one_server, ask_all, under_load

SMALL = Path(__file__).parents[1] / "data" / "small.json"
QUESTION, CONTEXT = "Who founded Rome?", "Rome was founded by Romulus in 753 BC."


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[RayCluster]:
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(ray_cluster: RayCluster) -> Iterator[Client]:
    with Client(ray_cluster.address) as client:
        client.wait_until_ready(30)
        yield client


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return [(one.question, one.context) for one in read_squad(SMALL)]


@pytest.fixture(scope="module")
def right(pairs: list[Pair]) -> list[str]:
    return asyncio.run(answers_of_one_server(pairs))


def test_a_client_asks_it_like_a_server(client: Client) -> None:
    assert client.info().bundle.model_version
    assert client.answer(QUESTION, CONTEXT).text == "Romulus"
    assert [one.text for one in client.answer_many([(QUESTION, CONTEXT)] * 3)] == ["Romulus"] * 3
    streamed = client.answer_stream([(str(i), (QUESTION, CONTEXT)) for i in range(3)])
    assert {name: one.text for name, one in streamed} == dict.fromkeys("012", "Romulus")
    found = client.answer_documents(QUESTION, ["Paris is large.", CONTEXT])
    assert (found.answers[0].text, found.answers[0].document) == ("Romulus", 1)


async def test_it_gives_the_answers_of_one_server(
    ray_cluster: RayCluster, pairs: list[Pair], right: list[str]
) -> None:
    async with AsyncClient(ray_cluster.address) as client:
        assert await ask_all(client, pairs) == right


async def test_tritonclient_asks_it_like_a_server(ray_cluster: RayCluster, client: Client) -> None:
    pytest.importorskip("tritonclient")
    report = await triton_asks(ray_cluster.address, PAIRS)
    ours = [one for one in client.answer_many(PAIRS) if isinstance(one, Result)]
    assert (report["live"], report["ready"], report["model_ready"]) == (True, True, [True, False])
    assert [same(*one) for one in zip(report["answers"], ours, strict=True)] == [True] * 9
    assert report["stream"][4]["answer"] == [ours[4].text]
    assert report["stream"][5] == {"error": "question is empty"}
    assert report["asyncio"][0]["answer"] == [ours[0].text]
    assert report["errors"]["name"] == [
        "StatusCode.NOT_FOUND",
        "Request for unknown model: 'bert' is not found",
    ]


def test_what_is_refused_says_why_as_a_server_does(client: Client) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^question is empty$"):
        client.answer("", CONTEXT)
    with pytest.raises(InvalidArgumentError, match=r"^question is empty$"):
        client.answer_documents("", [CONTEXT])
    with pytest.raises(ResourceExhaustedError, match="larger than max") as refused:
        client.answer(QUESTION, "a " * 100_000)
    assert refused.value.retry_after_s is None
    (outcome,) = client.answer_batch([("", CONTEXT)])
    assert isinstance(outcome, InvalidArgumentError)


def test_what_is_no_message_is_an_invalid_argument(ray_cluster: RayCluster) -> None:
    with grpc.insecure_channel(ray_cluster.address) as channel:
        call = channel.unary_unary("/electra_qa.v1.QuestionAnswering/Answer")
        with pytest.raises(grpc.RpcError) as refused:
            call(b"\xff\xff")
    error: grpc.Call = refused.value  # type: ignore[assignment]
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "AnswerRequest" in str(error.details())


async def test_a_call_that_is_refused_has_the_hint_when_to_try_again(
    ray_cluster: RayCluster,
) -> None:
    """A burst over the replicas' queues."""
    questions = [(f"{QUESTION} {n}", f"{CONTEXT} {n} " * 20) for n in range(400)]
    asked = await burst(ray_cluster.address, questions)
    refused = [one for one in asked if not isinstance(one, Result)]
    assert refused
    assert all(isinstance(one, ResourceExhaustedError) and one.retry_after_s for one in refused)


async def burst(address: str, questions: list[Pair]) -> list[object]:
    async with AsyncClient(address) as client:
        asked = (client.answer(*one) for one in questions)
        return await asyncio.gather(*asked, return_exceptions=True)


async def test_a_new_bundle_takes_over_under_load_and_no_call_fails(
    ray_cluster: RayCluster, pairs: list[Pair], right: list[str], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(default_bundle_path(), bundle)
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps(manifest | {"source": "another"}))
    async with under_load(ray_cluster.address, pairs, right) as noted:
        await asyncio.sleep(1)
        await asyncio.to_thread(ray_cluster.deploy, {"bundle": str(bundle)})
        before = noted.answered
        await reached(lambda: noted.answered > before + 20)
    print(noted)
    assert (noted.lost, noted.wrong, noted.again) == ([], [], 0)
    assert len(noted.versions) == 2


async def test_rays_pages_have_the_metrics_and_a_cancelled_call_is_cancelled_in_the_replica(
    ray_cluster: RayCluster,
) -> None:
    cancelled = r'ray_electra_qa_requests_total{.*code="CANCELLED".*method="AnswerBatch".*} [1-9]'
    give_up = time.monotonic() + 60
    text = ""
    async with AsyncClient(ray_cluster.address) as client:
        while not re.search(cancelled, text):
            assert time.monotonic() < give_up, re.findall("^ray_electra_qa_requests.*", text, re.M)
            long = [(QUESTION, f"{n} {CONTEXT}" * 20) for n in range(60)]
            with suppress(TimeoutError, ResourceExhaustedError):
                async with asyncio.timeout(0.3):
                    await client.answer_batch(long)
            await asyncio.sleep(1)
            text = await asyncio.to_thread(metrics)
    for name in ("questions_total", "queue_tokens", "request_seconds_bucket"):
        assert re.search(f"^ray_electra_qa_{name}.*{{.*replica=", text, re.M), name


def metrics() -> str:
    """Of all nodes with replicas."""
    text = ""
    for node in ray.nodes():
        if node["Alive"] and node["Resources"].get("CPU"):
            url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
            with urllib.request.urlopen(url) as page:
                text += page.read().decode()
    return text


async def test_a_node_is_killed_under_load_and_nothing_is_lost(
    ray_cluster: RayCluster, pairs: list[Pair], right: list[str]
) -> None:
    async with under_load(ray_cluster.address, pairs, right) as noted:
        await reached(lambda: noted.answered > 50)
        await asyncio.to_thread(ray_cluster.kill_a_replicas_node)
        before = noted.answered
        await reached(lambda: noted.answered > before + 50)
        await reached(lambda: ray_cluster.running_replicas() < 2)
        await reached(lambda: ray_cluster.running_replicas() == 2)
    print(noted)
    assert noted.again  # the lost node had calls
    assert (noted.lost, noted.wrong) == ([], [])


async def reached(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < give_up
        await asyncio.sleep(0.1)
