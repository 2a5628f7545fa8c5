"""`electra-qa serve --front-ends`, with real processes and real signals."""

from __future__ import annotations

import asyncio
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from electra_qa.client import Client, Result
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from ...addresses import free_address
from ...reliability.serving import Server, server
from ..observe.metrics_lint import lint
from ..observe.test_metrics import scrape
from ..test_lifecycle import server_process

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
NULL = ["--engine", "null", "--warm-up-lengths", "none"]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.02)


def ask(address: str, question: str) -> pb.AnswerResponse:
    """On a connection of its own, without retries."""
    with grpc.insecure_channel(address, OWN_CONNECTION) as channel:
        request = pb.AnswerRequest(question=question, context=CONTEXT)
        response: pb.AnswerResponse = QuestionAnsweringStub(channel).Answer(request, timeout=30)
    return response


@contextmanager
def front_ends(folder: Path, number: int, *arguments: str) -> Iterator[tuple[Server, str]]:
    address = free_address()
    options = ["--front-ends", str(number), "--address", address, *NULL, *arguments]
    with server(folder, *options) as serving:
        with Client(address) as client:
            client.wait_until_ready(60)
        yield serving, address


def test_one_page_counts_for_all_and_for_those_that_were_killed(tmp_path: Path) -> None:
    page = free_address()
    with front_ends(tmp_path, 2, "--metrics-address", page) as (serving, address):
        served = set()
        for number in range(40):
            assert ask(address, f"who {number}?").answers[0].text == "Rome"
        numbers = scrape(page)
        assert numbers["requests_total", "OK,Answer"] == 40
        assert numbers["windows_total", ""] == 40
        assert numbers["questions_total", "OK"] == 40
        assert numbers["queue_limit_tokens", ""] == 262_144
        killed = serving.children("front")[0]
        os.kill(killed, signal.SIGKILL)
        until(lambda: killed not in serving.children("front"))
        serving.logs("front-0 ended with -9; it is started again")
        until(lambda: scrape(page)["restarts_total", "front"] == 1)
        for number in range(40):
            with Client(address) as client:
                served.add(client.answer(f"when {number}?", CONTEXT).answers[0].text)
        numbers = scrape(page)
        with urllib.request.urlopen(f"http://{page}/metrics") as response:
            assert lint(response.read().decode()) == []
        memory = psutil.Process(serving.process.pid).memory_info().rss
    assert numbers["process_resident_memory_bytes", ""] > 2 * memory
    assert served == {"Rome"}
    # More, where the client tried again what the killed one had begun.
    assert numbers["requests_total", "OK,Answer"] == 80
    assert numbers["windows_total", ""] == 80


def test_all_front_ends_take_calls_and_no_other_server_has_the_port(tmp_path: Path) -> None:
    with front_ends(tmp_path, 2) as (serving, address):
        before = [psutil.Process(pid).cpu_times().user for pid in serving.children("front")]
        for number in range(300):
            ask(address, f"who {number}?")
        after = [psutil.Process(pid).cpu_times().user for pid in serving.children("front")]
        assert all(end > begin for begin, end in zip(before, after, strict=True))
        for front_ends_of_it in ("0", "2"):
            others = ["--address", address, "--front-ends", front_ends_of_it, *NULL]
            with server_process(*others) as second:
                _, errors = second.communicate(timeout=60)
            assert second.returncode == 1
            assert f"can't listen on {address}" in errors


def test_an_engine_that_is_killed_comes_back(tmp_path: Path) -> None:
    with (
        front_ends(tmp_path, 1) as (serving, address),
        grpc.insecure_channel(address, OWN_CONNECTION) as channel,
    ):
        stub = QuestionAnsweringStub(channel)
        watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=60)
        statuses = (response.status for response in watch)
        assert next(statuses) == health_pb2.HealthCheckResponse.SERVING
        (engine,) = serving.children("engine")
        os.kill(engine, signal.SIGSTOP)
        request = pb.AnswerRequest(question="who?", context=CONTEXT)
        calls = [stub.Answer.future(request, timeout=30) for _ in range(8)]
        with pytest.raises(grpc.FutureTimeoutError):
            calls[0].result(0.5)
        os.kill(engine, signal.SIGKILL)
        assert {call.code() for call in calls} == {grpc.StatusCode.UNAVAILABLE}
        assert "the engine's process ended" in calls[0].details()
        assert next(statuses) == health_pb2.HealthCheckResponse.NOT_SERVING
        assert next(statuses) == health_pb2.HealthCheckResponse.SERVING
        assert stub.Answer(request, timeout=30).answers[0].text == "Rome"
        assert len(serving.children("front")) == 1
        assert "front-0 ended" not in serving.log


def test_several_engines_share_the_calls_and_stand_in_for_each_other(tmp_path: Path) -> None:
    with (
        front_ends(tmp_path, 1, "--device", "cpu,cpu") as (serving, address),
        Client(address) as client,
    ):
        until(lambda: len(serving.children("engine")) == 2)
        pairs = [(f"who {number}?", CONTEXT) for number in range(400)]
        assert all(isinstance(one, Result) for one in client.answer_many(pairs, batch_size=8))
        serving.process.send_signal(signal.SIGHUP)
        serving.logs("is freed")
        until(lambda: serving.log.count("is freed") == 3)  # of the engines and the front end
        first, _ = serving.children("engine")
        os.kill(first, signal.SIGKILL)
        serving.logs("engine-0 ended with -9")
        for number in range(20):
            assert client.answer(f"when {number}?", CONTEXT).answers
        client.wait_until_ready(1)
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 0
        assert "Traceback" not in serving.log


def test_no_process_outlives_the_one_that_was_started(tmp_path: Path) -> None:
    with front_ends(tmp_path, 2) as (serving, _):
        pids = [*serving.children("engine"), *serving.children("front")]
        folders = {
            Path(connection.laddr).parent
            for pid in pids
            for connection in psutil.Process(pid).net_connections("unix")
            if "electra-qa-" in str(connection.laddr)
        }
        assert len(pids) == 3
        assert len(folders) == 1
        os.kill(serving.process.pid, signal.SIGKILL)
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 20)
        until(lambda: not any(folder.exists() for folder in folders), 20)


def test_ctrl_c_ends_all_in_order(tmp_path: Path) -> None:
    """The terminal sends it to every process."""
    with front_ends(tmp_path, 2) as (serving, address):
        pids = [*serving.children("engine"), *serving.children("front")]
        for pid in (*pids, serving.process.pid):
            os.kill(pid, signal.SIGINT)
        assert serving.process.wait(60) == 0
        assert not any(psutil.pid_exists(pid) for pid in pids)
        assert "Traceback" not in serving.log
        assert serving.log.count("is started again") == 0
        with pytest.raises(grpc.RpcError):
            ask(address, "who?")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    with front_ends(tmp_path, 1) as (serving, _):
        pids = [*serving.children("engine"), *serving.children("front")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)  # they never end by themselves
        serving.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 128 + signal.SIGTERM
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        until(lambda: not any(psutil.pid_exists(pid) for pid in pids), 20)


def test_a_front_end_that_is_asked_to_end_is_followed_by_another(tmp_path: Path) -> None:
    with front_ends(tmp_path, 1) as (serving, address):
        (first,) = serving.children("front")
        os.kill(first, signal.SIGTERM)
        serving.logs("front-0 ended with 0; it is started again")
        with Client(address) as client:
            client.wait_until_ready(60)
            assert client.answer("who?", CONTEXT).answers[0].text == "Rome"


def test_a_unix_socket_is_not_shared(tmp_path: Path) -> None:
    arguments = ["--address", f"unix:{tmp_path}/socket", "--front-ends", "2", *NULL]
    with server_process(*arguments) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "can't be shared: a Unix socket has one listener" in errors


def test_devices_with_numbers_are_of_front_ends() -> None:
    with server_process("--device", "gpu:0,gpu:1", *NULL) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--front-ends" in errors


async def test_a_stream_goes_on_beside_a_front_end_that_is_killed(tmp_path: Path) -> None:
    """Only the connections of that one are lost."""
    with front_ends(tmp_path, 2) as (serving, address):
        options = [*OWN_CONNECTION]
        channels = [grpc.aio.insecure_channel(address, options) for _ in range(16)]
        request = pb.AnswerStreamRequest(
            id="a", request=pb.AnswerRequest(question="who?", context=CONTEXT)
        )
        calls = [QuestionAnsweringStub(channel).AnswerStream() for channel in channels]  # type: ignore[no-untyped-call]
        for call in calls:
            await call.write(request)
            assert (await call.read()).id == "a"
        os.kill(serving.children("front")[0], signal.SIGKILL)
        await asyncio.to_thread(serving.logs, "front-0 ended with -9")
        alive = 0
        for call in calls:
            try:
                await call.write(request)
                assert (await call.read()).id == "a"
                alive += 1
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                assert await call.code() is grpc.StatusCode.UNAVAILABLE
        for channel in channels:
            await channel.close()
    assert 0 < alive < 16
