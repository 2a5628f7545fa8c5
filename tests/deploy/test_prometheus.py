from __future__ import annotations

import re
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from .conftest import DEPLOY, Scrape, documents, promtool
from .queries import check

RULES = DEPLOY / "prometheus" / "rules.yml"
ALERTS = [rule for group in documents(RULES)[0]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_the_server_counts(rule: dict[str, str], scraped: Scrape) -> None:
    check(rule["expr"], scraped)


@pytest.mark.parametrize(
    "query",
    [
        "rate(electra_qa_nothing_total[5m])",
        'rate(electra_qa_requests_total{status="OK"}[5m])',
        "sum by (status) (rate(electra_qa_requests_total[5m]))",
    ],
)
def test_the_check_sees_what_is_not_there(query: str, scraped: Scrape) -> None:
    with pytest.raises(AssertionError, match=r"no (metric|label)|has no label"):
        check(query, scraped)


def test_every_alert_is_tested_and_documented() -> None:
    tested = {
        one["alertname"]
        for test in documents(RULES.with_name("rules_test.yml"))[0]["tests"]
        for one in test["alert_rule_test"]
        if one.get("exp_alerts")
    }
    page = (DEPLOY.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    for rule in ALERTS:
        assert rule["alert"] in tested
        assert f"`{rule['alert']}`" in page


def test_every_metric_is_documented(scraped: Scrape) -> None:
    page = (DEPLOY.parent / "docs" / "metrics.md").read_text(encoding="utf-8")
    table = page[page.index("## The metrics") : page.index("## What to be told about")]
    for family in text_string_to_metric_families(scraped.text):
        name = family.name.removeprefix("electra_qa_")
        if name.endswith("_created"):
            continue
        documented = name + "_total" if family.type == "counter" else name
        assert re.search(rf"`{documented}[`{{]", table), f"{family.name} is not in the table"


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_takes_it(arguments: tuple[str, ...]) -> None:
    """`check config` reads the rules too; `test rules` lets each alert fire, and not fire."""
    done = subprocess.run(
        [promtool(), *arguments], cwd=RULES.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
