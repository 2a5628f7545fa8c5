"""One bundle takes another's place while calls go on."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from electra_qa.bundle import Bundle, BundleError, load_bundle, write_bundle
from electra_qa.client import AsyncClient, Client, ElectraQAError, Result
from electra_qa.engines import Engine, EngineError, EngineSettings, load_engine
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import AdminStub
from electra_qa.server.errors import ReloadError, StartError
from electra_qa.server.lifecycle import running, started
from electra_qa.server.loading import load
from electra_qa.server.settings import ServerSettings

from ...addresses import free_address
from ..conftest import PATIENCE_S, GatedEngine, Starting, until
from ..observe.test_metrics import scrape
from ..test_ecosystem import PINGING
from ..test_lifecycle import server_process

WITH_FRONT_ENDS = True

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
SETTINGS = ServerSettings(address="127.0.0.1:0", warm_up_lengths="none")


@pytest.fixture(scope="session")
def other_bundle(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same graph with a tokenizer that keeps case, and other defaults."""
    tokenizer = json.loads(bundle.tokenizer_path.read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    manifest = replace(
        bundle.manifest,
        max_seq_length=128,
        doc_stride=32,
        max_answer_length=3,
        null_score_diff_threshold=-100.0,
    )
    files = {
        "tokenizer.json": json.dumps(tokenizer).encode(),
        bundle.graph_path.name: bundle.graph_path.read_bytes(),
    }
    return write_bundle(tmp_path_factory.mktemp("other-bundle"), manifest, files)


@dataclass
class Source:
    """What a reload loads: the test says which bundle and engine, and holds the gate."""

    bundle: Bundle
    engine: Engine
    gate: threading.Event
    loads: int = 0
    error: Exception | None = None

    def __call__(self) -> tuple[Bundle, Engine]:
        self.loads += 1
        assert self.gate.wait(PATIENCE_S), "the test never opened the gate"
        if self.error is not None:
            raise self.error
        return self.bundle, self.engine


def an_engine() -> GatedEngine:
    engine = GatedEngine()
    engine.open.set()
    return engine


@pytest.fixture
def source(other_bundle: Bundle) -> Source:
    source = Source(other_bundle, an_engine(), threading.Event())
    source.gate.set()
    return source


async def told(client: AsyncClient, version: str) -> None:
    """A front end that is apart from the engine hears of a model a little later."""
    while (await client.info()).bundle.model_version != version:
        await asyncio.sleep(0.005)


async def test_no_question_fails_while_bundles_change(
    bundle: Bundle, starting: Starting, other_bundle: Bundle
) -> None:
    turns = [other_bundle, bundle] * 3
    asked = 0

    def load() -> tuple[Bundle, Engine]:
        chosen = load_bundle(turns.pop(0).path)
        return chosen, load_engine(chosen, EngineSettings("null"))

    outcomes: list[Result] = []
    stop = asyncio.Event()

    async def ask(client: AsyncClient, number: int) -> None:
        nonlocal asked
        while not stop.is_set():
            asked += 1
            # Some are tokenized on the event loop, some on threads.
            outcomes.append(await client.answer("who?", CONTEXT * (1 + number % 2 * 30)))

    engine = load_engine(bundle, EngineSettings("null"))
    async with (
        starting(bundle, engine, SETTINGS, load) as (address, models),
        AsyncClient(address) as client,
    ):
        asking = [asyncio.create_task(ask(client, number)) for number in range(8)]
        while turns:
            version = turns[0].version
            before = len(outcomes)
            assert await models.reload() == version
            assert (await client.answer("who?", CONTEXT)).model_version == version
            await until(lambda before=before: len(outcomes) > before + 20)
        stop.set()
        await asyncio.gather(*asking)
    assert len(outcomes) == asked
    assert {one.model_version for one in outcomes} == {bundle.version, other_bundle.version}


async def test_a_call_ends_with_the_model_that_it_began_with(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source
) -> None:
    async with (
        starting(bundle, engine, SETTINGS, source) as (address, models),
        AsyncClient(address) as client,
    ):
        engine.batches.clear()
        engine.open.clear()
        early = asyncio.create_task(client.answer("who?", CONTEXT))
        early_batch = asyncio.create_task(client.answer_batch([("who?", CONTEXT), ("", CONTEXT)]))
        await engine.taken()
        reloading = models.reload()
        await until(lambda: models.current.bundle is source.bundle)
        await told(client, source.bundle.version)
        late = await client.answer("who?", CONTEXT)
        assert late.model_version == source.bundle.version
        assert not engine.closed
        assert not reloading.done()
        engine.open.set()
        assert (await early).model_version == bundle.version
        first, second = await early_batch
        assert isinstance(first, Result)
        assert first.model_version == bundle.version
        assert isinstance(second, ElectraQAError)
        assert await reloading == source.bundle.version
        assert engine.closed


async def test_a_stream_goes_on_from_one_model_to_the_next(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source
) -> None:
    asked: asyncio.Queue[tuple[str, tuple[str, str]]] = asyncio.Queue()

    async def questions() -> AsyncIterator[tuple[str, tuple[str, str]]]:
        while True:
            yield await asked.get()

    async with (
        starting(bundle, engine, SETTINGS, source) as (address, models),
        AsyncClient(address) as client,
    ):
        answers = client.answer_stream(questions())
        versions = []
        for id_ in ("a", "b"):
            asked.put_nowait((id_, ("who?", CONTEXT)))
            _, outcome = await asyncio.wait_for(anext(answers), PATIENCE_S)
            assert isinstance(outcome, Result)
            versions.append(outcome.model_version)
            if id_ == "a":
                await asyncio.wait_for(models.reload(), PATIENCE_S)
        await answers.aclose()  # type: ignore[attr-defined]
    assert versions == [bundle.version, source.bundle.version]


async def test_nothing_of_the_bundle_before_is_used(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source
) -> None:
    async def answers(address: str) -> tuple[list[Any], pb.BundleInfo]:
        async with AsyncClient(address) as client:
            results = [
                await client.answer("Who founded ROME?", CONTEXT * n, **options)
                for n in (1, 40)
                for options in ({}, {"top_k": 4})
            ]
            info = (await client.info()).bundle
        return [replace(result, queue_ms=0, engine_ms=0) for result in results], info

    async with starting(bundle, engine, SETTINGS, source) as (address, models):
        before = await answers(address)
        await models.reload()
        after = await answers(address)
    async with running(source.bundle, an_engine(), SETTINGS) as address:
        expected = await answers(address)
    assert after == expected
    for old, new in zip(before[0], after[0], strict=True):
        assert old.answers != new.answers
    assert after[0][-1].windows > before[0][-1].windows
    assert after[1].max_answer_length == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BundleError("bundle /secret/path: model.onnx is damaged"), "missing, damaged"),
        (EngineError("/secret/path/model.onnx is not taken"), "no engine can be made"),
        (RuntimeError("/secret/path"), "can't be loaded"),
    ],
)
async def test_what_can_not_be_loaded_changes_nothing(
    bundle: Bundle,
    starting: Starting,
    engine: GatedEngine,
    source: Source,
    error: Exception,
    message: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source.error = error
    async with (
        starting(bundle, engine, SETTINGS, source) as (address, models),
        AsyncClient(address) as client,
    ):
        with pytest.raises(ReloadError, match=message) as caught:
            await models.reload()
        assert "/secret" not in str(caught.value)
        assert "/secret/path" in caplog.text
        assert (await client.answer("who?", CONTEXT)).model_version == bundle.version
        source.error = None
        assert await models.reload() == source.bundle.version


async def test_what_does_not_run_changes_nothing(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source
) -> None:
    broken = an_engine()
    broken.failing_lengths = set(broken.buckets)
    source.engine = broken
    async with (
        starting(bundle, engine, SETTINGS, source) as (address, models),
        AsyncClient(address) as client,
    ):
        with pytest.raises(ReloadError, match="warm-up"):
            await models.reload()
        assert broken.closed
        assert (await client.answer("who?", CONTEXT)).model_version == bundle.version


async def test_a_tokenizer_that_is_none_changes_nothing(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source, tmp_path: Path
) -> None:
    files = {"tokenizer.json": b"{}", bundle.graph_path.name: bundle.graph_path.read_bytes()}
    source.bundle = write_bundle(tmp_path / "bundle", bundle.manifest, files)
    async with starting(bundle, engine, SETTINGS, source) as (_, models):
        with pytest.raises(ReloadError, match="warm-up"):
            await models.reload()
        assert models.current.version == bundle.version
        assert isinstance(source.engine, GatedEngine)
        assert source.engine.closed


async def test_who_asks_during_a_reload_shares_the_next(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source
) -> None:
    source.gate.clear()
    async with starting(bundle, engine, SETTINGS, source) as (_, models):
        first = models.reload()
        await until(lambda: source.loads)
        later = [models.reload() for _ in range(3)]
        source.gate.set()
        await asyncio.gather(first, *later)
    assert source.loads == 2


async def test_stopping_during_a_reload_frees_what_it_loaded(
    bundle: Bundle, starting: Starting, engine: GatedEngine, source: Source
) -> None:
    source.gate.clear()
    async with starting(bundle, engine, SETTINGS, source) as (_, models):
        reloading = [models.reload()]
        await until(lambda: source.loads)
        reloading.append(models.reload())
        # Once the calls are drained and the models close.
        asyncio.get_running_loop().call_later(1.5, source.gate.set)
    outcomes = await asyncio.gather(*reloading, return_exceptions=True)
    assert ["shutting down" in str(outcome) for outcome in outcomes] == [True, True]
    assert source.loads == 1
    assert engine.closed
    assert isinstance(source.engine, GatedEngine)
    assert source.engine.closed


async def test_metrics_go_on_and_name_the_model(
    bundle: Bundle, engine: GatedEngine, source: Source
) -> None:
    address = free_address()
    settings = replace(SETTINGS, metrics_address=address)
    async with (
        started(bundle, engine, settings, source) as (server, models),
        AsyncClient(server) as client,
    ):
        pages = []
        for error in (None, BundleError("it is gone")):
            source.error = error
            await client.answer("who?", CONTEXT)
            pages.append(await asyncio.to_thread(scrape, address))
            await asyncio.gather(models.reload(), return_exceptions=True)
        await client.answer("who?", CONTEXT)
        pages.append(await asyncio.to_thread(scrape, address))
        source.error = None
        await models.reload()
        assert (await asyncio.to_thread(scrape, address))["context_cache_bytes", ""] == 0
    assert [page["requests_total", "OK,Answer"] for page in pages] == [1, 2, 3]
    assert [page["context_cache_misses_total", ""] for page in pages] == [1, 2, 2]
    held = [page["context_cache_bytes", ""] for page in pages]
    assert held[0] > 0
    assert held[1] == held[2]
    assert [page["reloads_total", "ok"] for page in pages] == [0, 1, 1]
    assert [page["reloads_total", "failed"] for page in pages] == [0, 0, 1]
    named = [
        version
        for page in pages
        for version in (bundle.version, source.bundle.version)
        if ("model_info", f"fp32,{version}") in page
    ]
    assert named == [bundle.version, source.bundle.version, source.bundle.version]


async def test_the_admin_call_is_on_its_own_address(
    bundle: Bundle, engine: GatedEngine, source: Source, tmp_path: Path
) -> None:
    admin = f"unix:{tmp_path}/admin"
    settings = replace(SETTINGS, admin_address=admin)
    request = pb.ReloadRequest()
    async with started(bundle, engine, settings, source) as (address, models):
        async with grpc.aio.insecure_channel(address) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AdminStub(channel).Reload(request)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        async with grpc.aio.insecure_channel(admin) as channel:
            response = await AdminStub(channel).Reload(request)
            assert response.model_version == source.bundle.version
            assert models.current.version == source.bundle.version
            source.error = BundleError("bundle /secret/path: it is gone")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await AdminStub(channel).Reload(request)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "the bundle is missing, damaged, or not of this version"


async def test_a_reload_goes_on_without_who_asked(
    bundle: Bundle, engine: GatedEngine, source: Source, tmp_path: Path
) -> None:
    source.gate.clear()
    settings = replace(SETTINGS, admin_address=f"unix:{tmp_path}/admin")
    async with started(bundle, engine, settings, source) as (_, models):
        async with grpc.aio.insecure_channel(settings.admin_address) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await AdminStub(channel).Reload(pb.ReloadRequest(), timeout=0.2)
        source.gate.set()
        await until(lambda: models.current.bundle is source.bundle)


async def test_who_waits_for_a_reload_may_ping(
    bundle: Bundle, engine: GatedEngine, source: Source, tmp_path: Path
) -> None:
    """As often as others may: a reload takes minutes, in which its call says nothing."""
    source.gate.clear()
    admin = f"unix:{tmp_path}/admin"
    settings = replace(SETTINGS, admin_address=admin, min_ping_interval_s=0.5)
    async with (
        started(bundle, engine, settings, source),
        grpc.aio.insecure_channel(admin, options=PINGING) as channel,
    ):
        call = asyncio.ensure_future(AdminStub(channel).Reload(pb.ReloadRequest()))
        await asyncio.sleep(6)  # gRPC's own server cuts off after three
        source.gate.set()
        assert (await call).model_version == source.bundle.version


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:5", "example.org:5", "127.0.0.1.example.org:5"]
)
async def test_the_admin_call_is_for_this_machine_only(
    bundle: Bundle, engine: GatedEngine, address: str
) -> None:
    with pytest.raises(StartError, match="admin_address must be"):
        async with running(bundle, engine, replace(SETTINGS, admin_address=address)):
            pass


@pytest.mark.parametrize(
    "settings",
    [
        {"address": "256.0.0.1:1"},
        {"metrics_address": "nowhere"},
        {"admin_address": "0.0.0.0:1"},
        {"admin_address": "unix:/no/such/folder/socket"},
        {"warm_up_lengths": "400"},
    ],
)
async def test_a_server_that_does_not_start_leaves_nothing_open(
    bundle: Bundle, engine: GatedEngine, settings: dict[str, str]
) -> None:
    before = set(threading.enumerate())
    with pytest.raises(StartError):
        async with running(bundle, engine, replace(SETTINGS, **settings)):
            pass
    assert engine.closed
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not {name for name in left if name.startswith(("engine", "tokenizer"))}


def test_a_load_keeps_to_the_folder_that_the_link_had(bundle: Bundle, tmp_path: Path) -> None:
    """Else the link could be changed between the check of the sums and the reading of the graph."""
    link = tmp_path / "link"
    link.symlink_to(bundle.path)
    loaded, _ = load(link, EngineSettings("null"))
    assert loaded.path == bundle.path.resolve()


@pytest.mark.parametrize("front_ends", ["0", "1"])
def test_sighup_and_the_command_reload_what_the_link_points_to(
    bundle: Bundle, other_bundle: Bundle, tmp_path: Path, front_ends: str
) -> None:
    address, admin = f"unix:{tmp_path}/socket", f"unix:{tmp_path}/admin"
    link = tmp_path / "bundle"
    link.symlink_to(bundle.path)

    def point_at(folder: Path) -> None:
        (tmp_path / "next").symlink_to(folder)
        os.replace(tmp_path / "next", link)  # noqa: PTH105

    def reload() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "electra_qa", "reload", "--address", admin]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    arguments = ["--bundle", str(link), "--engine", "null", "--address", address]
    arguments += ["--admin-address", admin, "--warm-up-lengths", "none"]
    arguments += ["--front-ends", front_ends]
    with server_process(*arguments) as process, Client(address) as client:
        client.wait_until_ready(60)
        assert client.answer("who?", CONTEXT).model_version == bundle.version
        point_at(other_bundle.path)
        process.send_signal(signal.SIGHUP)
        seen = {bundle.version}
        while other_bundle.version not in seen:
            assert process.poll() is None
            seen.add(client.answer("who?", CONTEXT).model_version)
        assert seen == {bundle.version, other_bundle.version}

        broken = tmp_path / "broken"
        shutil.copytree(bundle.path, broken)
        with (broken / bundle.graph_path.name).open("ab") as file:
            file.write(b"x")
        point_at(broken)
        failed = reload()
        assert failed.returncode == 1
        assert failed.stderr == "Error: the bundle is missing, damaged, or not of this version\n"
        assert client.info().bundle.model_version == other_bundle.version

        point_at(bundle.path)
        done = reload()
        assert (done.returncode, done.stdout) == (0, f"{bundle.version}\n")
        assert client.info().bundle.model_version == bundle.version
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert f"{bundle.graph_path.name} is damaged" in log
    assert "Traceback" not in log


async def test_a_reload_begins_without_answers(
    bundle: Bundle, engine: GatedEngine, source: Source
) -> None:
    address = free_address()
    settings = replace(SETTINGS, metrics_address=address, answer_cache_bytes=2**20)
    async with (
        started(bundle, engine, settings, source) as (server, models),
        AsyncClient(server) as client,
    ):
        before = [await client.answer("who?", CONTEXT) for _ in range(2)]
        assert (await asyncio.to_thread(scrape, address))["answer_cache_bytes", ""] > 0
        await models.reload()
        assert (await asyncio.to_thread(scrape, address))["answer_cache_bytes", ""] == 0
        after = [await client.answer("who?", CONTEXT) for _ in range(2)]
        numbers = await asyncio.to_thread(scrape, address)
    assert before[0].model_version == before[1].model_version == bundle.version
    assert after[0].model_version == after[1].model_version != bundle.version
    assert numbers["answer_cache_hits_total", ""] == 2
    assert numbers["answer_cache_misses_total", ""] == 2
