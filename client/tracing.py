"""The caller's trace goes on in the server: W3C's `traceparent`, as metadata of the call."""

from __future__ import annotations

import sys

Metadata = tuple[tuple[str, str], ...]


def with_trace(metadata: Metadata | None) -> Metadata | None:
    """`metadata` and the span that is current, where somebody imported OpenTelemetry."""
    if "opentelemetry.trace" not in sys.modules:
        return metadata
    from opentelemetry.propagate import inject

    carrier: dict[str, str] = {}
    inject(carrier)
    return (*(metadata or ()), *carrier.items()) or None
