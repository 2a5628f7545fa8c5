"""Writes dashboards/electra-qa.json, Grafana's dashboard of a server.

    python deploy/grafana/dashboard.py

Each row of the table below is a panel. `SERVERS` stands in every query for the servers that are
chosen on the page.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).parent / "dashboards" / "electra-qa.json"
SCHEMA_VERSION = 39
WIDTH, HEIGHT, COLUMNS = 8, 8, 24
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
SERVERS = 'job=~"$job",instance=~"$instance"'


@dataclass(frozen=True, slots=True)
class Panel:
    """queries: {legend: PromQL}. unit: one of Grafana's names. maximum: of the axis."""

    title: str
    text: str
    unit: str
    queries: dict[str, str]
    maximum: float | None = None


def rate(metric: str, labels: str = "") -> str:
    return f"rate(electra_qa_{metric}{{SERVERS{labels}}}[$__rate_interval])"


def quantile(share: float, metric: str, labels: str = "") -> str:
    return f"histogram_quantile({share}, sum by (le) ({rate(metric + '_bucket', labels)}))"


def quantiles(metric: str, labels: str = "") -> dict[str, str]:
    return {f"p{share * 100:g}": quantile(share, metric, labels) for share in (0.5, 0.95, 0.99)}


def mean(metric: str) -> str:
    return f"sum({rate(metric + '_sum')}) / sum({rate(metric + '_count')})"


def share(part: str, whole: str) -> str:
    return f"sum({part}) / sum({whole})"


def hits(cache: str) -> str:
    found, missed = rate(f"{cache}_hits_total"), rate(f"{cache}_misses_total")
    return f"sum({found}) / (sum({found}) + sum({missed}))"


ANSWERED = ',code="OK"'
FAILED = ',code!="OK"'

PANELS = [
    Panel(
        "Questions",
        "Answered or not, by the status that they ended with.",
        "reqps",
        {"{{code}}": f"sum by (code) ({rate('questions_total')})"},
    ),
    Panel(
        "Calls",
        "By method.",
        "reqps",
        {"{{method}}": f"sum by (method) ({rate('requests_total')})"},
    ),
    Panel(
        "Calls under way",
        "Accepted and not yet answered; a stream is one.",
        "short",
        {"{{instance}}": "electra_qa_open_calls{SERVERS}"},
    ),
    Panel(
        "Calls that failed",
        "By status. INVALID_ARGUMENT is the caller's, INTERNAL is ours.",
        "reqps",
        {"{{code}}": f"sum by (code) ({rate('requests_total', FAILED)})"},
    ),
    Panel(
        "Latency of Answer",
        "From the call to its answer.",
        "s",
        quantiles("request_seconds", ',method="Answer"'),
    ),
    Panel(
        "Time in the queue",
        "Until the engine takes a question's first window.",
        "s",
        quantiles("queue_seconds"),
    ),
    Panel(
        "Time of a batch in the engine",
        "From dispatch to result.",
        "s",
        quantiles("engine_seconds"),
    ),
    Panel(
        "Queue",
        "Tokens that wait. Over the limit calls are refused.",
        "short",
        {
            "{{instance}}": "electra_qa_queue_tokens{SERVERS}",
            "limit": "min(electra_qa_queue_limit_tokens{SERVERS})",
        },
    ),
    Panel(
        "Rejections",
        "queue: it was full. deadline: it could not be met.",
        "reqps",
        {"{{reason}}": f"sum by (reason) ({rate('rejections_total')})"},
    ),
    Panel(
        "Engine busy",
        "The share of the time with a batch under way.",
        "percentunit",
        {"{{instance}}": rate("engine_busy_seconds_total")},
        1,
    ),
    Panel(
        "Windows in a batch",
        "On average, and the 95th percentile.",
        "short",
        {"mean": mean("batch_windows"), "p95": quantile(0.95, "batch_windows")},
    ),
    Panel(
        "Padding",
        "The share of the computed tokens that is padding.",
        "percentunit",
        {"padding": f"1 - {share(rate('window_tokens_total'), rate('computed_tokens_total'))}"},
        1,
    ),
    Panel(
        "Windows",
        "That the engine computes; and those that have the result of the same one.",
        "ops",
        {
            "{{instance}}": rate("windows_total"),
            "shared, {{instance}}": rate("shared_windows_total"),
        },
    ),
    Panel(
        "Found in the caches",
        "The share of the contexts that were tokenized already, and of the questions whose answer "
        "was kept.",
        "percentunit",
        {"contexts": hits("context_cache"), "answers": hits("answer_cache")},
        1,
    ),
    Panel(
        "Questions without an answer",
        "The share of those answered. A sudden move is a change in the data, or in the model.",
        "percentunit",
        {"null": share(rate("null_answers_total"), rate("questions_total", ANSWERED))},
        1,
    ),
    Panel(
        "Memory",
        "Of the process, and of the caches in it.",
        "bytes",
        {
            "{{instance}}": "process_resident_memory_bytes{SERVERS}",
            "contexts of {{instance}}": "electra_qa_context_cache_bytes{SERVERS}",
            "answers of {{instance}}": "electra_qa_answer_cache_bytes{SERVERS}",
        },
    ),
    Panel(
        "CPU",
        "Cores in use.",
        "short",
        {"{{instance}}": "rate(process_cpu_seconds_total{SERVERS}[$__rate_interval])"},
    ),
    Panel(
        "Versions",
        "Servers by version and device.",
        "short",
        {"{{version}}, {{device}}": "count by (version, device) (electra_qa_build_info{SERVERS})"},
    ),
]


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana's JSON model."""
    return {
        "uid": "electra-qa",
        "title": "electra-qa",
        "description": "A server of extractive question answering.",
        "tags": ["electra-qa"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "annotations": {"list": []},
        "links": [],
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                },
                _variable("job", "label_values(electra_qa_build_info, job)"),
                _variable("instance", 'label_values(electra_qa_build_info{job=~"$job"}, instance)'),
            ]
        },
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _variable(name: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "type": "query",
        "datasource": DATASOURCE,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "includeAll": True,
        "multi": True,
        "current": {"text": ["All"], "value": ["$__all"]},
        "sort": 1,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    in_a_row = COLUMNS // WIDTH
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "custom": {"lineWidth": 1, "fillOpacity": 8, "showPoints": "never"},
    }
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.text,
        "datasource": DATASOURCE,
        "gridPos": {
            "x": number % in_a_row * WIDTH,
            "y": number // in_a_row * HEIGHT,
            "w": WIDTH,
            "h": HEIGHT,
        },
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        },
        "targets": [
            {
                "refId": chr(ord("A") + place),
                "datasource": DATASOURCE,
                "expr": query.replace("SERVERS", SERVERS),
                "legendFormat": legend,
                "range": True,
            }
            for place, (legend, query) in enumerate(panel.queries.items())
        ],
    }


if __name__ == "__main__":
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(dashboard(), indent=2) + "\n", encoding="utf-8")
