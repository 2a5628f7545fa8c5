"""Requests that no client of ours would send: each has its status, and hurts nobody."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path

import grpc
import hypothesis

from electra_qa.bundle import Bundle
from electra_qa.client import Client
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc import open_inference_grpc_pb2 as oip
from electra_qa.server.front.handlers import INTERNAL_ERROR

from .corpus import METHODS, seeds
from .mutations import requests
from .report import SECONDS, Figures, grown_mb, more
from .serving import server

Code = grpc.StatusCode
FORESEEN = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.NOT_FOUND,
    Code.RESOURCE_EXHAUSTED,
    Code.DEADLINE_EXCEEDED,
}
# Of one question of many, by number.
UNFORESEEN = {Code.INTERNAL.value[0], Code.UNKNOWN.value[0]}


def ask(channel: grpc.Channel, name: str, raws: list[bytes]) -> grpc.StatusCode:
    """Its status, once everything that came back has been looked at."""
    method = METHODS[name]
    read = method.response.FromString
    try:
        if method.streams:
            responses = list(
                channel.stream_stream(method.path, response_deserializer=read)(
                    iter(raws), timeout=60
                )
            )
            assert len(responses) == len(raws)
        elif method.collects:
            collecting = channel.stream_unary(method.path, response_deserializer=read)
            responses = [collecting(iter(raws), timeout=60)]
        else:
            unary = channel.unary_unary(method.path, response_deserializer=read)
            responses = [unary(raws[0], timeout=60)]
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()  # type: ignore[attr-defined]  it is a Call too
        return code
    for response in responses:
        results: list[pb.Result] = []
        if isinstance(response, pb.AnswerBatchResponse):
            results = list(response.results)
        elif isinstance(response, pb.AnswerStreamResponse):
            results = [response.result]
        elif isinstance(response, pb.AnswerDocumentsResponse):
            results = [pb.Result(failure=one.failure) for one in response.failures]
        elif isinstance(response, oip.ModelStreamInferResponse):
            assert response.error_message != INTERNAL_ERROR
        assert not {result.failure.code for result in results} & UNFORESEEN
    return Code.OK


def test_the_corpus_has_requests_of_all_methods() -> None:
    of_method = Counter(name for name, _ in seeds())
    assert of_method.keys() == METHODS.keys()


def test_what_nobody_would_send_has_a_status(
    tiny_bundle: Bundle, tmp_path: Path, figures: Figures
) -> None:
    address = f"unix:{tmp_path}/socket"
    options = ["--bundle", str(tiny_bundle.path), "--address", address]
    statuses: Counter[str] = Counter()

    with server(tmp_path, *options) as serving:
        with Client(address) as client:
            client.wait_until_ready(60)
        with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
            for name, raw in seeds():
                assert ask(channel, name, [raw]) in FORESEEN, name

            @hypothesis.given(requests())
            @hypothesis.settings(
                max_examples=200,
                derandomize=False,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            def fuzz(request: tuple[str, list[bytes]]) -> None:
                status = ask(channel, *request)
                statuses[status.name] += 1
                assert status in FORESEEN
                assert "Traceback" not in serving.log

            give_up = time.monotonic() + SECONDS
            with figures.timed(), figures.sampling(serving.process.pid, address) as samples:
                while time.monotonic() < give_up:
                    fuzz()
        assert serving.process.poll() is None
    figures.counts += statuses
    assert statuses["OK"] > 0
    assert statuses["INVALID_ARGUMENT"] > 0
    assert all(one.failed == 0 for one in samples)
    assert more(samples, "files") < 20
    assert more(samples, "threads") < 20
    assert grown_mb(samples) < 100
