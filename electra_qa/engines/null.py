"""An engine that computes nothing: what is left is the rest of the server, to be measured."""

from __future__ import annotations

import numpy as np

from ..bundle import Bundle
from ..spans import MASKED, DecodedWindows
from ..windows import WindowBatch
from . import CPU_LENGTH_STEP, EngineSettings, steps

BATCH_TOKENS = 16_384


class NullEngine:
    """Answers at once that the first token of every window is the answer."""

    device = "null: nothing is computed, every answer is the first token"
    slots = 1

    def __init__(self, bundle: Bundle, settings: EngineSettings) -> None:
        self.buckets = steps(CPU_LENGTH_STEP, bundle.manifest.max_seq_length_limit)
        self.batch_tokens = settings.max_batch_tokens or BATCH_TOKENS
        self._n_best_size = bundle.manifest.n_best_size

    def run(self, batch: WindowBatch) -> DecodedWindows:
        windows = len(batch.bounds)
        spans = np.zeros((windows, self._n_best_size, 2), np.int32)
        spans[:, 0] = batch.bounds[:, 2:3]  # start_first
        span_logits = np.full((windows, self._n_best_size, 2), MASKED, np.float32)
        span_logits[:, 0] = 0.0
        log_partition = np.ones((windows, 2), np.float32)
        logits = np.full((*batch.input_ids.shape, 2), -1.0, np.float32)
        logits[np.arange(windows), batch.bounds[:, 2]] = 0.0
        return DecodedWindows(spans, span_logits, logits[:, 0], log_partition, logits)

    def close(self) -> None:
        """Nothing to free."""
