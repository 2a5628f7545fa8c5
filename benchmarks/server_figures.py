"""What a server counted while it was measured, from its Prometheus endpoint."""

from __future__ import annotations

import urllib.request
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class ServerFigures:
    """None where the server does not count what it takes.

    batch_windows: windows in a batch, on average.
    padding_share: of the computed tokens.
    queue_ms: how long a question waited for the engine, on average.
    engine_busy_share: of the time.
    cached_share: of the contexts, those that were found tokenized.
    """

    batch_windows: float | None
    padding_share: float | None
    queue_ms: float | None
    engine_busy_share: float | None
    cached_share: float | None


def read_counters(url: str) -> dict[str, float]:
    """{sample's name: its value, summed over its labels}. Raises OSError or ValueError."""
    # Only what a person named on the command line is opened.
    with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
        text = response.read().decode()
    totals: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] += sample.value
    return dict(totals)


def figures_between(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> ServerFigures:
    """The figures of what was counted between two readings, `seconds` apart."""

    def grown(name: str) -> float | None:
        return after[name] - before.get(name, 0.0) if name in after else None

    padding = _ratio(
        grown("electra_qa_window_tokens_total"), grown("electra_qa_computed_tokens_total")
    )
    queue_s = _ratio(grown("electra_qa_queue_seconds_sum"), grown("electra_qa_queue_seconds_count"))
    hits = grown("electra_qa_context_cache_hits_total")
    misses = grown("electra_qa_context_cache_misses_total")
    return ServerFigures(
        batch_windows=_ratio(
            grown("electra_qa_batch_windows_sum"), grown("electra_qa_batch_windows_count")
        ),
        padding_share=None if padding is None else 1.0 - padding,
        queue_ms=None if queue_s is None else 1e3 * queue_s,
        engine_busy_share=_ratio(grown("electra_qa_engine_busy_seconds_total"), seconds),
        cached_share=_ratio(hits, None if hits is None or misses is None else hits + misses),
    )


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole
