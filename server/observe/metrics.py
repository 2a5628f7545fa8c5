"""What a server counts, for Prometheus. Names and units follow its rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
)

from electra_qa import __version__
from electra_qa.bundle import Bundle

Metric = TypeVar("Metric", Counter, Histogram)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
RELOADED, RELOAD_FAILED = "ok", "failed"
REJECTION_REASONS = ("queue", "deadline", "bytes", "token", "rate")
WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """One server's own registry, so that two servers in a process do not share their numbers.

    The share of padding is 1 − window_tokens / computed_tokens.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        # Memory, CPU time, open files and start of the process: nothing is counted between scrapes.
        ProcessCollector(registry=self.registry)
        self._build = Info(
            "electra_qa_build", "What is served, and on what.", registry=self.registry
        )
        self._children: dict[tuple[object, tuple[str, ...]], Any] = {}
        self.requests = self._counter("requests", "Calls that ended.", "method", "code")
        self.request_seconds = self._seconds("request_seconds", "How long calls took.", "method")
        self.open_calls = self._gauge("open_calls", "Calls under way.")
        self.inflight_bytes = self._gauge(
            "inflight_bytes", "Of the requests under way, as they came."
        )
        self.inflight_limit_bytes = self._gauge(
            "inflight_limit_bytes", "Requests that would be over it together are refused."
        )
        self.questions = self._counter("questions", "Questions that ended.", "code")
        self.null_answers = self._counter("null_answers", "Questions that have no answer.")
        self.rejections = self._counter("rejections", "Calls refused, by why.", "reason")
        for reason in REJECTION_REASONS:
            # A series that begins with its first rejection has no rate for it.
            self.rejections.labels(reason)
        self.queue_seconds = self._seconds(
            "queue_seconds", "From when a question is queued until its first window is taken."
        )
        self.queue_tokens = self._gauge("queue_tokens", "Tokens that wait for the engine.")
        # During a reload there are two queues.
        self.queues: list[Callable[[], float]] = []
        self.queue_tokens.set_function(lambda: sum(queue() for queue in tuple(self.queues)))
        self.queue_limit_tokens = self._gauge(
            "queue_limit_tokens", "While more than these wait, calls are refused."
        )
        self.windows = self._counter("windows", "Windows that the engine computed.")
        self.shared_windows = self._counter(
            "shared_windows", "Windows that waited with the same one and have its result."
        )
        self.batches = self._counter("batches", "Batches, by what they are padded to.", "length")
        self.batch_windows = Histogram(
            "electra_qa_batch_windows",
            "Windows in a batch.",
            registry=self.registry,
            buckets=WINDOWS,
        )
        self.window_tokens = self._counter("window_tokens", "Tokens of windows computed.")
        self.computed_tokens = self._counter(
            "computed_tokens", "Tokens computed, with the padding."
        )
        self.engine_seconds = self._seconds(
            "engine_seconds", "From when a batch is dispatched until it is back."
        )
        self.engine_busy_seconds = self._counter(
            "engine_busy_seconds", "Time with a batch under way."
        )
        self.cache_hits = self._counter("context_cache_hits", "Contexts found tokenized.")
        self.cache_misses = self._counter("context_cache_misses", "Contexts tokenized anew.")
        self.cache_bytes = self._gauge("context_cache_bytes", "Held by tokenized contexts.")
        self.answer_hits = self._counter("answer_cache_hits", "Questions whose answer was kept.")
        self.answer_misses = self._counter(
            "answer_cache_misses", "Questions looked for among the answers kept, and not found."
        )
        self.answer_bytes = self._gauge("answer_cache_bytes", "Held by answers that are kept.")
        self.reloads = self._counter("reloads", "Reloads of the bundle that ended.", "status")
        for status in (RELOADED, RELOAD_FAILED):  # so that a rate over them sees the first
            self.reloads.labels(status)
        self._model = Info("electra_qa_model", "The bundle in force.", registry=self.registry)

    def model_changed(self, bundle: Bundle, device: str) -> None:
        self._model.info({"version": bundle.version, "precision": bundle.manifest.precision})
        self._build.info({"version": __version__, "device": device})

    def call_ended(self, method: str, code: str, seconds: float) -> None:
        self._child(self.requests, method, code).inc()
        self._child(self.request_seconds, method).observe(seconds)

    def question_ended(self, code: str, questions: int = 1) -> None:
        self._child(self.questions, code).inc(questions)

    def batch_dispatched(self, length: int, windows: int, tokens: int, shared: int) -> None:
        """shared: windows that are not in it, since the same is."""
        self._child(self.batches, str(length)).inc()
        self.batch_windows.observe(windows)
        self.windows.inc(windows)
        self.shared_windows.inc(shared)
        self.window_tokens.inc(tokens)
        self.computed_tokens.inc(length * windows)

    def _child(self, metric: Metric, *labels: str) -> Metric:
        """`metric.labels(*labels)`, remembered: the look-up costs more than the counting."""
        child = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"electra_qa_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(f"electra_qa_{name}", text, registry=self.registry)

    def _seconds(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"electra_qa_{name}", text, labels, registry=self.registry, buckets=SECONDS
        )
