"""Pages of several processes become one."""

from __future__ import annotations

import json

from prometheus_client import CollectorRegistry, generate_latest

from electra_qa.bundle import Bundle
from electra_qa.server.observe.metrics import Metrics
from electra_qa.server.processes.collected import Page, lasting, merged, snapshot


def page(families: object) -> str:
    registry = CollectorRegistry()
    registry.register(Page(lambda: families))
    return generate_latest(registry).decode()


def test_one_process_is_the_page_that_it_has(bundle: Bundle) -> None:
    metrics = Metrics()
    metrics.model_changed(bundle, "a test")
    metrics.call_ended("Answer", "OK", 0.02)
    own = generate_latest(metrics.registry).decode().splitlines()
    of_all = page(merged([json.loads(json.dumps(snapshot(metrics.registry)))])).splitlines()

    def stable(lines: list[str]) -> list[str]:
        return sorted(line for line in lines if "process_" not in line)

    assert stable(of_all) == stable(own)
    assert any(line.startswith("process_cpu_seconds_total") for line in of_all)


def test_they_add_up_and_who_has_ended_still_counts(bundle: Bundle) -> None:
    one, other = Metrics(), Metrics()
    for metrics, calls in ((one, 2), (other, 3)):
        metrics.model_changed(bundle, "a test")
        metrics.open_calls.set(calls)
        for _ in range(calls):
            metrics.call_ended("Answer", "OK", 0.02)
    gone = lasting(snapshot(other.registry))
    text = page(merged([snapshot(one.registry), snapshot(other.registry), gone]))
    lines = text.splitlines()
    assert 'electra_qa_requests_total{code="OK",method="Answer"} 8.0' in lines
    assert 'electra_qa_request_seconds_count{method="Answer"} 8.0' in lines
    assert 'electra_qa_request_seconds_bucket{le="0.025",method="Answer"} 8.0' in lines
    assert "electra_qa_open_calls 5.0" in lines
    (model,) = [line for line in lines if line.startswith("electra_qa_model_info{")]
    assert model.endswith(" 1.0")
    assert text.count("# TYPE electra_qa_requests_total") == 1
