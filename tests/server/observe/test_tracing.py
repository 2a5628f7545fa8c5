"""Spans, as a real OTLP receiver gets them from a real server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import grpc
import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, InvalidArgumentError
from electra_qa.client.tracing import with_trace
from electra_qa.server.errors import StartError
from electra_qa.server.lifecycle import running
from electra_qa.server.observe.tracing import start_tracing
from electra_qa.server.settings import ServerSettings

from ..conftest import GatedEngine

trace = pytest.importorskip("opentelemetry.sdk.trace", reason="needs electra-qa[tracing]")

CONTEXT = "Rollo came from Denmark. The Normans came from all over."
PARTS = {"tokenize", "queue", "engine", "merge"}
CALL = "/electra_qa.v1.QuestionAnswering/Answer"


@dataclass
class Receiver:
    """An OTLP collector's gRPC service."""

    spans: list[Any] = field(default_factory=list)
    services: set[str] = field(default_factory=set)

    def export(self, request: Any, _: grpc.ServicerContext) -> Any:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

        for resource in request.resource_spans:
            named = [a for a in resource.resource.attributes if a.key == "service.name"]
            self.services |= {a.value.string_value for a in named}
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return otlp.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name.endswith(name)]


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

    receiver = Receiver()
    handler = grpc.unary_unary_rpc_method_handler(
        receiver.export,
        request_deserializer=otlp.ExportTraceServiceRequest.FromString,
        response_serializer=lambda response: response.SerializeToString(),
    )
    service = "opentelemetry.proto.collector.trace.v1.TraceService"
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Export": handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
    yield receiver
    server.stop(None).wait()


def attributes(span: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes}


async def test_a_call_and_its_parts_belong_to_the_callers_trace(
    bundle: Bundle, engine: GatedEngine, receiver: Receiver
) -> None:
    tracer = trace.TracerProvider().get_tracer("a caller")
    settings = ServerSettings(address="127.0.0.1:0")
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        with tracer.start_as_current_span("caller") as caller:
            await client.answer("Who?", CONTEXT)
    (call,) = receiver.named("/Answer")
    ids = caller.get_span_context()
    assert call.trace_id == ids.trace_id.to_bytes(16, "big")
    assert call.parent_span_id == ids.span_id.to_bytes(8, "big")
    assert attributes(call)["rpc.method"] == "Answer"
    assert attributes(call)["rpc.service"] == "electra_qa.v1.QuestionAnswering"
    parts = [span for span in receiver.spans if span.name in PARTS]
    assert [span.name for span in parts] == ["tokenize", "queue", "engine", "merge"]
    assert {span.parent_span_id for span in parts} == {call.span_id}
    assert {span.trace_id for span in receiver.spans} == {call.trace_id}
    for before, after in pairwise(parts):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    assert receiver.services == {"electra-qa"}
    # No text of the caller's.
    assert "Rollo" not in str(receiver.spans)


async def test_windows_in_several_batches_are_one_engine_span(
    bundle: Bundle, engine: GatedEngine, receiver: Receiver
) -> None:
    settings = ServerSettings(address="127.0.0.1:0")
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        engine.batches.clear()
        result = await client.answer("Who?", CONTEXT * 200)
        batches = len(engine.batches)
    assert batches > 1
    (span,) = receiver.named("engine")
    counts = attributes(span)
    assert counts["electra_qa.windows"] == result.windows
    assert counts["electra_qa.batches"] == batches
    assert span.end_time_unix_nano > span.start_time_unix_nano


async def test_a_refused_call_has_its_status_and_health_has_no_span(
    bundle: Bundle, engine: GatedEngine, receiver: Receiver
) -> None:
    settings = ServerSettings(address="127.0.0.1:0")
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        await client.wait_until_ready()
        with pytest.raises(InvalidArgumentError):
            await client.answer("", CONTEXT)
        await client.answer_batch([("Who?", CONTEXT), ("", CONTEXT)])
        assert [one async for one in client.answer_stream(_two())]
    assert Counter(span.name.rpartition("/")[2] for span in receiver.spans) == {
        "Answer": 1,
        "AnswerBatch": 1,
        "AnswerStream": 1,
        "tokenize": 4,
        **dict.fromkeys(PARTS - {"tokenize"}, 3),
    }
    assert attributes(receiver.named("/Answer")[0])["rpc.grpc.status_code"] == 3
    (stream,) = receiver.named("/AnswerStream")
    assert [s.parent_span_id for s in receiver.named("merge")].count(stream.span_id) == 2


async def _two():  # type: ignore[no-untyped-def]
    yield "a", ("Who?", CONTEXT)
    yield "b", ("When?", CONTEXT)


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    ],
)
def test_it_is_off_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert start_tracing() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")],
)
def test_what_can_not_be_exported_is_an_error(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError, match=f"{name} must be"):
        start_tracing()


@pytest.mark.parametrize(("given", "expected"), [(None, "electra-qa"), ("qa-eu", "qa-eu")])
async def test_the_service_is_named_by_the_standard_variable(
    bundle: Bundle,
    engine: GatedEngine,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    expected: str,
) -> None:
    if given is not None:
        monkeypatch.setenv("OTEL_SERVICE_NAME", given)
    settings = ServerSettings(address="127.0.0.1:0")
    async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
        await client.answer("Who?", CONTEXT)
    assert receiver.services == {expected}


def test_a_client_without_a_current_span_sends_nothing() -> None:
    assert with_trace(None) is None
    assert with_trace((("authorization", "Bearer x"),)) == (("authorization", "Bearer x"),)
