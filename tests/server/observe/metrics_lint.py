"""Prometheus's rules for names and units, over a page of metrics.

https://prometheus.io/docs/practices/naming/, and what `promtool check metrics` looks at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

# What may be measured: base units, and what is counted in this project.
UNITS = ("seconds", "bytes", "tokens", "windows")
NOT_BASE = re.compile(
    r"_(milliseconds|microseconds|nanoseconds|ms|us|ns|minutes|hours|days|kilobytes|megabytes|"
    r"kb|mb|kib|mib|bits|percent|percentage)(_|$)"
)
TYPES = re.compile(r"_(counter|gauge|histogram|summary)(_|$)")
NAME = re.compile(r"[a-z][a-z0-9_]*")
OURS = re.compile("electra_qa_|process_")
RESERVED = ("_total", "_sum", "_count", "_bucket")
# A label that could be a measure: every value of it is a series more.
MEASURE = re.compile(r"_(seconds|bytes|ms|total|count)$")


def lint(text: str) -> list[str]:
    """What is wrong, one line each."""
    faults = [f"{family.name}: {fault}" for family in _families(text) for fault in _faults(family)]
    # From the text, since the parser gives every counter the suffix that it should have.
    for name in re.findall(r"^# TYPE (\S+) counter$", text, re.MULTILINE):
        if not name.endswith("_total"):
            faults.append(f"{name}: a counter without _total")
    return faults


def _families(text: str) -> Iterator[Metric]:
    for family in text_string_to_metric_families(text):
        # OpenMetrics' time of creation, which the client library writes for each counter.
        if not family.name.endswith("_created"):
            yield family


def _faults(family: Metric) -> Iterator[str]:
    name = family.name
    if not OURS.match(name):
        yield "not under our prefix"
    if not NAME.fullmatch(name):
        yield "not lower case with underscores"
    if not family.documentation.strip().endswith("."):
        yield "no help text"
    if NOT_BASE.search(name):
        yield "not in a base unit"
    if TYPES.search(name):
        yield "its type is in its name"
    if family.type == "unknown":
        yield "no type"
    if name.endswith(RESERVED):
        yield "a suffix that belongs to counters or histograms"
    if family.type == "histogram" and not name.endswith(UNITS):
        yield "a histogram without a unit"
    for sample in family.samples:
        labels = set(sample.labels)
        if family.type != "histogram" and labels & {"le", "quantile"}:
            yield "a label that belongs to histograms"
        for label in labels:
            if not NAME.fullmatch(label) or MEASURE.search(label):
                yield f"label {label}"
