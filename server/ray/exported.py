"""A replica's metrics, on the page that Ray has for every node."""

from __future__ import annotations

import logging
import threading
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from ray import serve
from ray.util import metrics as ray_metrics

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
# Of this process, which Ray tells of itself.
LEFT_OUT = "process_"
_CUMULATIVE = ("_total", "_bucket", "_sum", "_count")


class Exported:
    """Copies a registry every few seconds. Ray puts `ray_` before the names, and adds the labels
    application, deployment and replica. A histogram comes as its `_bucket`, `_sum` and `_count`,
    with the names and labels that queries ask for."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        here = serve.get_replica_context()
        self._labels = {
            "application": here.app_name,
            "deployment": here.deployment,
            "replica": here.replica_tag,
        }
        self._by_name: dict[str, Any] = {}
        self._told: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
        self._closing = threading.Event()
        threading.Thread(target=self._run, name="metrics", daemon=True).start()

    def _run(self) -> None:
        while not self._closing.wait(INTERVAL_S):
            try:
                self.copy()
            except Exception:
                log.exception("the metrics could not be copied")

    def copy(self) -> None:
        for family in self._registry.collect():
            if family.name.startswith(LEFT_OUT):
                continue
            for sample in family.samples:
                if not sample.name.endswith("_created"):
                    self._copy(sample, family.type in ("counter", "histogram"))

    def _copy(self, sample: Sample, cumulative: bool) -> None:
        metric = self._metric(sample, cumulative)
        labels = self._labels | {name: _ascii(text) for name, text in sample.labels.items()}
        if not cumulative:
            metric.set(sample.value, labels)
            return
        key = (sample.name, tuple(sorted(sample.labels.items())))
        more = sample.value - self._told.get(key, 0.0)
        if more > 0:  # Ray takes no 0
            metric.inc(more, labels)
            self._told[key] = sample.value

    def _metric(self, sample: Sample, cumulative: bool) -> Any:
        metric = self._by_name.get(sample.name)
        if metric is None:
            kind = ray_metrics.Counter if cumulative else ray_metrics.Gauge
            metric = kind(
                sample.name,
                description="See docs/metrics.md.",
                tag_keys=(*self._labels, *sample.labels),
            )
            self._by_name[sample.name] = metric
        return metric

    def close(self) -> None:
        self._closing.set()


def _ascii(text: str) -> str:
    """Ray takes no other."""
    return text.replace("×", "x").encode("ascii", "backslashreplace").decode()
