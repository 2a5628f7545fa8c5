"""What a server counted, over HTTP from a real Prometheus endpoint."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server

from electra_qa.benchmarks.server_figures import ServerFigures, figures_between, read_counters

Endpoint = tuple[str, CollectorRegistry]


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    registry = CollectorRegistry()
    server, thread = start_http_server(0, "127.0.0.1", registry)
    yield f"http://127.0.0.1:{server.server_port}/metrics", registry
    server.shutdown()
    server.server_close()
    thread.join()


def test_figures_are_of_what_was_counted_between_two_readings(endpoint: Endpoint) -> None:
    url, registry = endpoint
    batches = Counter("electra_qa_batches", "", ["length"], registry=registry)
    computed = Counter("electra_qa_computed_tokens", "", registry=registry)
    windows = Counter("electra_qa_window_tokens", "", registry=registry)
    queue = Histogram("electra_qa_queue_seconds", "", registry=registry)
    busy = Counter("electra_qa_engine_busy_seconds", "", registry=registry)
    hits = Counter("electra_qa_context_cache_hits", "", registry=registry)
    misses = Counter("electra_qa_context_cache_misses", "", registry=registry)
    sizes = Histogram("electra_qa_batch_windows", "", registry=registry, buckets=(1, 2, 4, 8))

    def batch(length: int, size: int, queue_s: float) -> None:
        batches.labels(length).inc()
        computed.inc(length * size)
        windows.inc(0.75 * length * size)
        sizes.observe(size)
        busy.inc(0.05)
        hits.inc(size - 1)
        misses.inc()
        for _ in range(size):
            queue.observe(queue_s)

    batch(384, 8, 9.0)  # the warm-up
    before = read_counters(url)
    batch(128, 4, 0.010)
    batch(256, 1, 0.030)
    after = read_counters(url)
    assert after["electra_qa_batches_total"] == 3  # over the lengths
    figures = figures_between(before, after, seconds=0.4)
    assert figures.batch_windows == pytest.approx(2.5)
    assert figures.padding_share == pytest.approx(0.25)
    assert figures.queue_ms == pytest.approx((4 * 10 + 30) / 5)
    assert figures.engine_busy_share == pytest.approx(0.25)
    assert figures.cached_share == pytest.approx(3 / 5)


def test_what_is_not_counted_is_left_out(endpoint: Endpoint) -> None:
    url, registry = endpoint
    computed = Counter("electra_qa_computed_tokens", "", registry=registry)
    sizes = Histogram("electra_qa_batch_windows", "", registry=registry)
    before = read_counters(url)
    computed.inc(100)
    figures = figures_between(before, read_counters(url), seconds=1.0)
    # There is a histogram of batches, but nothing was put into it.
    assert figures == ServerFigures(None, None, None, None, None)
    sizes.observe(3)
    figures = figures_between(before, read_counters(url), seconds=1.0)
    assert figures == ServerFigures(3.0, None, None, None, None)


def test_what_appears_first_in_the_second_reading_began_at_zero() -> None:
    after = {"electra_qa_batch_windows_sum": 6.0, "electra_qa_batch_windows_count": 2.0}
    assert figures_between({}, after, 1.0).batch_windows == 3.0


def test_an_endpoint_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(OSError, match="refused"):
        read_counters("http://127.0.0.1:9/metrics")
