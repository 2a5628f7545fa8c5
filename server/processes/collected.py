"""One page of metrics for all processes of a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

# name, text, type, unit, and of each sample its name, labels and value.
Family = list[Any]

# What is the same, or the first or least of all, where other numbers add up.
_LEAST = ("process_start_time_seconds", "process_max_fds")
_SUMMED_AFTER_THE_END = ("counter", "histogram")


def snapshot(registry: CollectorRegistry) -> list[Family]:
    """Of one process, as JSON holds it."""
    return [
        [
            family.name,
            family.documentation,
            family.type,
            family.unit,
            [[one.name, one.labels, one.value] for one in family.samples],
        ]
        for family in registry.collect()
    ]


def lasting(families: Iterable[Family]) -> list[Family]:
    """What still counts of a process that has ended."""
    return [
        family
        for family in families
        if family[2] in _SUMMED_AFTER_THE_END and family[0].startswith("electra_qa_")
    ]


def merged(snapshots: Iterable[list[Family]]) -> list[Family]:
    """Of several processes one: counters, histograms and gauges add up."""
    families: dict[str, Family] = {}
    samples: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for one in snapshots:
        for family in one:
            name = family[0]
            families.setdefault(name, family)
            known = samples.setdefault(name, {})
            for sample, labels, value in family[4]:
                key = sample, tuple(sorted(labels.items()))
                before = known.get(key)
                known[key] = value if before is None else _together(sample, before, value)
    return [
        [*family[:4], [[sample, dict(labels), value] for (sample, labels), value in known.items()]]
        for family, known in ((family, samples[name]) for name, family in families.items())
    ]


def _together(sample: str, one: float, other: float) -> float:
    if sample in _LEAST or sample.endswith("_created"):
        return min(one, other)
    if sample.endswith("_info"):
        return 1.0
    return one + other


class Page(Collector):
    """For a registry: what `families` gives whenever it is scraped."""

    def __init__(self, families: Any) -> None:
        self._families = families

    def describe(self) -> Iterator[Metric]:
        """Nothing: else it would be scraped here."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        for name, text, kind, unit, samples in self._families():
            family = Metric(name, text, kind, unit)
            for sample, labels, value in samples:
                family.add_sample(sample, labels, value)
            yield family
