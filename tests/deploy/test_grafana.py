from __future__ import annotations

import importlib.util
import itertools
import json
from typing import Any

import pytest

from .conftest import DEPLOY, Scrape
from .queries import check

GRAFANA = DEPLOY / "grafana"
DASHBOARD: dict[str, Any] = json.loads(
    (GRAFANA / "dashboards" / "electra-qa.json").read_text(encoding="utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
# What Grafana puts in before it asks.
VARIABLES = {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}


def test_the_dashboard_is_what_the_script_writes() -> None:
    spec = importlib.util.spec_from_file_location("dashboard", GRAFANA / "dashboard.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up.
    import sys

    sys.modules["dashboard"] = module
    try:
        spec.loader.exec_module(module)
        assert module.dashboard() == DASHBOARD
    finally:
        del sys.modules["dashboard"]


def test_it_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["uid"]
    assert DASHBOARD["title"]
    # An import gives it an id; one of another Grafana would overwrite a stranger's dashboard.
    assert "id" not in DASHBOARD
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for thing in (panel, *panel["targets"]):
            assert thing["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    names = [variable["name"] for variable in DASHBOARD["templating"]["list"]]
    assert names == ["datasource", "job", "instance"]


def test_no_panel_lies_on_another() -> None:
    fields = []
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        fields += itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    assert len(set(fields)) == len(fields)


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel["title"])
def test_a_panel_asks_for_what_the_server_counts(panel: dict[str, Any], scraped: Scrape) -> None:
    for target in panel["targets"]:
        query = target["expr"]
        for variable, value in VARIABLES.items():
            query = query.replace(variable, value)
        assert "$" not in query
        check(query, scraped)


def test_the_panels_show_what_they_should() -> None:
    """One for each thing that an operator looks for."""
    queries = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    for metric in (
        "requests_total",
        "request_seconds_bucket",
        "queue_tokens",
        "queue_seconds_bucket",
        "batch_windows_bucket",
        "computed_tokens_total",
        "engine_busy_seconds_total",
        "context_cache_hits_total",
        "answer_cache_hits_total",
        "shared_windows_total",
        "null_answers_total",
        "rejections_total",
    ):
        assert f"electra_qa_{metric}" in queries
    for quantile in ("0.5", "0.95", "0.99"):
        assert f"histogram_quantile({quantile}" in queries
