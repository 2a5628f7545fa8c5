"""Reloads by every way, then a clean end, with every answer compared."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grpc

from electra_qa.bundle import Bundle
from electra_qa.client import Client
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from .conftest import Server, server

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend. "
QUESTIONS = [(f"Who founded Rome in {n}?", CONTEXT * (1 + n % 4) + f"Not {n}.") for n in range(20)]
RELOADS = 4
CALLERS = 12

Answer = tuple[str, int, int]


def answer(response: pb.AnswerResponse) -> Answer:
    best = response.answers[0]
    return best.text, best.start, best.end


def expected(bundle: Bundle, folder: Path) -> list[Answer]:
    """Asked one by one, of a server that does nothing else."""
    folder.mkdir()
    address = f"unix:{folder}/socket"
    with server(folder, "--bundle", str(bundle.path), "--address", address):
        with Client(address) as client:
            client.wait_until_ready(60)
        with grpc.insecure_channel(address) as channel:
            stub = QuestionAnsweringStub(channel)
            return [
                answer(stub.Answer(pb.AnswerRequest(question=question, context=context)))
                for question, context in QUESTIONS
            ]


def reload(serving: Server, admin: str, *, by_signal: bool) -> None:
    if by_signal:
        serving.process.send_signal(signal.SIGHUP)
        return
    command = [sys.executable, "-m", "electra_qa", "reload", "--address", admin]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def point_at(link: Path, folder: Path) -> None:
    following = link.with_name("next")
    following.symlink_to(folder)
    os.replace(following, link)  # noqa: PTH105


async def test_any_number_of_reloads_and_then_a_clean_end(
    tiny_bundle: Bundle, other_tiny_bundle: Bundle, tmp_path: Path
) -> None:
    bundles = {one.version: one for one in (tiny_bundle, other_tiny_bundle)}
    right = {
        version: await asyncio.to_thread(expected, one, tmp_path / version)
        for version, one in bundles.items()
    }
    assert len({tuple(answers) for answers in right.values()}) == 2

    link = tmp_path / "bundle"
    link.symlink_to(tiny_bundle.path)
    address, admin = f"unix:{tmp_path}/socket", f"unix:{tmp_path}/admin"
    options = ["--bundle", str(link), "--address", address, "--admin-address", admin]
    ended: Counter[grpc.StatusCode] = Counter()
    wrong = []
    in_force = tiny_bundle.version
    stopping = False

    async def ask(stub: QuestionAnsweringStub, first: int) -> None:
        nonlocal in_force
        for number in itertools.count(first):
            question, context = QUESTIONS[number % len(QUESTIONS)]
            request = pb.AnswerRequest(question=question, context=context)
            try:
                response = await stub.Answer(request, timeout=30)
            except grpc.aio.AioRpcError as error:
                ended[error.code()] += 1
                if stopping:
                    return
                continue
            ended[grpc.StatusCode.OK] += 1
            in_force = response.model_version
            if answer(response) != right[response.model_version][number % len(QUESTIONS)]:
                wrong.append((number, response))

    with server(tmp_path, *options) as serving:
        with Client(address) as client:
            await asyncio.to_thread(client.wait_until_ready, 60)
        # No retries: what a caller sees is what the server said.
        async with grpc.aio.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
            stub = QuestionAnsweringStub(channel)
            asking = [asyncio.create_task(ask(stub, first)) for first in range(CALLERS)]
            for number, one in zip(
                range(RELOADS), itertools.cycle([other_tiny_bundle, tiny_bundle]), strict=False
            ):
                point_at(link, one.path)
                by_signal = number % 2 == 0
                await asyncio.to_thread(reload, serving, admin, by_signal=by_signal)
                async with asyncio.timeout(60):
                    while in_force != one.version:
                        assert serving.process.poll() is None, serving.log
                        await asyncio.sleep(0.02)
            assert set(ended) == {grpc.StatusCode.OK}
            stopping = True
            serving.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*asking)
        assert await asyncio.to_thread(serving.process.wait, 60) == 0, serving.log
    assert not wrong
    assert set(ended) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert ended[grpc.StatusCode.UNAVAILABLE] == CALLERS
    assert "Traceback" not in serving.log
