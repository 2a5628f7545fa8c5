"""OpenTelemetry spans of calls: off, unless its standard environment variables ask for them.

The call's own span is that of OpenTelemetry's gRPC instrumentation, which continues the trace of
the caller's `traceparent`. Under it are `tokenize`, `queue`, `engine` and `merge`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StartError

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


@dataclass(frozen=True, slots=True)
class Spent:
    """What a call's questions took.

    Times are by `time.monotonic`, in seconds: when tokenizing began, when the windows were queued,
    when the first of them was in a batch, and when the last of them came back.
    batches: how many had a window of the call.
    """

    questions: int
    windows: int
    batches: int
    began: float
    submitted: float
    taken: float
    finished: float


class Tracing:
    """Makes spans with an OpenTelemetry TracerProvider, which `close` shuts down."""

    def __init__(self, provider: Any) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("electra_qa.server")

    def interceptors(self) -> Sequence[Any]:
        """Of the server; health checks have no spans."""
        from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

        return [aio_server_interceptor(self._provider, filters.negate(filters.health_check()))]

    def answered(self, spent: Spent) -> None:
        """The spans of a call's questions, under the span that is current: now, the answers are
        merged. Where there are no questions, nothing was queued."""
        now = time.monotonic()
        epoch = time.time() - now
        counts = {"electra_qa.windows": spent.windows, "electra_qa.batches": spent.batches}
        parts: list[tuple[str, float, float, dict[str, int]]] = [
            ("tokenize", spent.began, spent.submitted, {"electra_qa.questions": spent.questions})
        ]
        if spent.questions:
            parts += [
                ("queue", spent.submitted, spent.taken, {}),
                ("engine", spent.taken, spent.finished, counts),
                ("merge", spent.finished, now, {}),
            ]
        for name, start, end, attributes in parts:
            span = self._tracer.start_span(
                name, attributes=attributes, start_time=round((epoch + start) * 1e9)
            )
            span.end(round((epoch + end) * 1e9))

    def close(self) -> None:
        """Send what is left, and stop."""
        self._provider.shutdown()


def start_tracing() -> Tracing | None:
    """None where the environment asks for no tracing. Raises StartError."""
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "")
    is_asked_for = exporter or any(os.environ.get(name) for name in ENDPOINTS)
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_disabled or not is_asked_for or exporter == "none":
        return None
    try:
        return Tracing(_provider(exporter or "otlp"))
    except ImportError as error:
        raise StartError(
            f"tracing is asked for, but {error.name} is missing: pip install 'electra-qa[tracing]'"
        ) from error


def _provider(exporter: str) -> Any:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

    resource = Resource.create()
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "electra-qa"}))
    provider = TracerProvider(resource=resource)
    if exporter == "otlp":
        provider.add_span_processor(BatchSpanProcessor(_otlp_exporter()))
    elif exporter == "console":
        provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter()))
    else:
        raise StartError(f"OTEL_TRACES_EXPORTER must be otlp, console or none, got {exporter}")
    return provider


def _otlp_exporter() -> Any:
    protocol = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or os.environ.get(
        "OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"
    )
    if protocol == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        return OTLPSpanExporter()
    if protocol == "http/protobuf":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
            OTLPSpanExporter as HttpSpanExporter,
        )

        return HttpSpanExporter()
    raise StartError(f"OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf, got {protocol}")
