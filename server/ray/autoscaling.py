"""How many replicas there should be: by the tokens that wait, and by how busy the engines are."""

from __future__ import annotations

import math
import time
from typing import Any

from prometheus_client import CollectorRegistry
from ray.serve.config import AutoscalingContext

QUEUED_TOKENS, BUSY = "queued_tokens", "busy"


class Load:
    """What a replica tells of itself."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._asked_at = time.monotonic()
        self._busy_s = self._value("electra_qa_engine_busy_seconds_total")

    def since_last_time(self) -> dict[str, float]:
        """queued_tokens: that wait now. busy: 0 to 1, the share of the time since the last call of
        this in which the engine had a batch."""
        now, busy_s = time.monotonic(), self._value("electra_qa_engine_busy_seconds_total")
        passed = max(now - self._asked_at, 1e-3)
        busy = min((busy_s - self._busy_s) / passed, 1.0)
        self._asked_at, self._busy_s = now, busy_s
        return {QUEUED_TOKENS: self._value("electra_qa_queue_tokens"), BUSY: busy}

    def _value(self, name: str) -> float:
        return self._registry.get_sample_value(name) or 0.0


class ByTokens:
    """Ray Serve's autoscaling policy: as many replicas as bring both under their targets.

    target_queued_tokens: that may wait for one replica.
    target_busy: the share of the time in which its engine may work. With it replicas come before a
        queue does, and go when the rest can do their work.

    Ray keeps the number within min_replicas and max_replicas, and waits upscale_delay_s and
    downscale_delay_s.
    """

    def __init__(self, target_queued_tokens: float = 16_384, target_busy: float = 0.7) -> None:
        self._target_queued_tokens = target_queued_tokens
        self._target_busy = target_busy

    def __call__(self, context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
        metrics = context.aggregated_metrics or {}
        queued = sum((metrics.get(QUEUED_TOKENS) or {}).values())
        busy = metrics.get(BUSY) or {}
        if not busy:  # none has told anything yet
            return context.target_num_replicas, {}
        wanted = max(queued / self._target_queued_tokens, sum(busy.values()) / self._target_busy)
        # Of those that said nothing nobody knows whether they can go.
        unknown = max(context.current_num_replicas - len(busy), 0)
        return max(math.ceil(wanted) + unknown, 1), {}
