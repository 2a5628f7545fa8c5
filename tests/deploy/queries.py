"""What a PromQL query needs from the servers."""

from __future__ import annotations

import promql_parser as promql

from .conftest import TARGET_LABELS, Scrape

# Metrics that Prometheus writes for each target by itself.
OWN = {"up"}


def check(query: str, scrape: Scrape) -> None:
    """Fails where the query doesn't parse, or asks for a metric or a label that there isn't."""
    labels_in_use: set[str] = set()
    named: list[tuple[str, set[str]]] = []
    asked: set[str] = set()

    def visit(node: promql.Expr) -> None:
        # The parser shows a selector over time as a node of its own, with the selector in it.
        if isinstance(node, promql.MatrixSelector):
            selector = node.vector_selector
        elif isinstance(node, promql.VectorSelector):
            selector = node
        else:
            if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
                asked.update(node.modifier.labels)
            return
        named.append((selector.name, {one.name for one in selector.matchers.matchers}))

    promql.walk(promql.parse(query), visit)
    assert named, f"no metric in {query}"
    for name, matched in named:
        if name in OWN:
            continue
        assert name in scrape.labels, f"no metric {name}: {query}"
        known = scrape.labels[name] | TARGET_LABELS
        assert matched <= known, f"{name} has no label {matched - known}: {query}"
        labels_in_use |= known
    assert asked <= labels_in_use | TARGET_LABELS, f"no label {asked - labels_in_use}: {query}"
