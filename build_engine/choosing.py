"""Which settings of the quantization suit a checkpoint: tried side by side, and measured.

All candidates are made in the one pass of the calibration through the layers, as many as the time
allows. Each is then asked windows that it was not calibrated on, and compared with float32.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from electra_qa.bundle import Bundle
from electra_qa.engines import batches_by_length, load_engine
from electra_qa.windows import Window, WindowBatch

from .checkpoint import Checkpoint
from .quantization import Observed, QuantizationSettings, quantize
from .quantized import QuantizedLinear

# The usual one first: where there is no time for a choice, it is taken unmeasured.
CANDIDATES = (
    QuantizationSettings(),
    QuantizationSettings(smoothing=None),
    QuantizationSettings(smoothing=0.8),
    QuantizationSettings(split_neurons=32, smoothing=None),
    QuantizationSettings(split_neurons=128, smoothing=None),
    QuantizationSettings(split_neurons=0, smoothing=None),
)
# Fewer windows say nothing about which of two candidates is better.
FEWEST_WINDOWS = 50

Linears = dict[str, QuantizedLinear]


@dataclass(frozen=True, slots=True)
class Answers:
    """What a graph says of windows.

    diffs: float32 [windows], the null score less that of the best span.
    spans: int32 [windows, 2], the best span.
    """

    diffs: npt.NDArray[np.float32]
    spans: npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Measured:
    """How far a candidate is from float32.

    null_score_diff_rms: the root mean square difference of null_score_diff, in logits.
    same_best_span: the share of windows with the same best span.
    """

    settings: QuantizationSettings
    null_score_diff_rms: float
    same_best_span: float

    def to_json(self) -> dict[str, Any]:
        return {
            **dataclasses.asdict(self.settings),
            "null_score_diff_rms": round(self.null_score_diff_rms, 4),
            "same_best_span": round(self.same_best_span, 4),
        }


def quantize_candidates(
    checkpoint: Checkpoint,
    layers: Iterable[tuple[str | None, dict[str, Observed]]],
    count: int,
    seconds: float,
    on_site: Callable[[], None],
) -> dict[QuantizationSettings, Linears]:
    """The linear layers of as many candidates as `seconds` allow, of the first one always.

    layers: as `observe` gives them, `count` in all; each is emptied once it is done.
    on_site: called once a site of the first candidate is done.

    How long a candidate takes is seen at the first layer of the encoder; the others that don't fit
    are given up there.
    """
    made: dict[QuantizationSettings, Linears] = {CANDIDATES[0]: {}}
    if seconds > 0:
        made |= {settings: {} for settings in CANDIDATES[1:]}
    for number, (layer, observed) in enumerate(layers):
        if number == 1:
            spent = dict.fromkeys(made, 0.0)
        for settings in list(made):
            started = time.monotonic()
            first = settings == CANDIDATES[0]
            made[settings] |= quantize(
                checkpoint, layer, observed, settings, on_site if first else _nothing
            )
            if number == 1:
                spent[settings] = time.monotonic() - started
                if not first and sum(spent.values()) * (count - 1) > seconds:
                    del made[settings], spent[settings]
        observed.clear()  # before the next layer is run
    return made


def _nothing() -> None:
    pass


def answers(bundle: Bundle, windows: Sequence[Window], pad_id: int) -> Answers:
    """Ask a bundle on this machine's CPU. Raises EngineError."""
    longest = bundle.manifest.max_answer_length
    diffs = np.empty(len(windows), np.float32)
    spans = np.empty((len(windows), 2), np.int32)
    with closing(load_engine(bundle)) as engine:
        lengths = [window.length for window in windows]
        for length, places in batches_by_length(lengths, engine.buckets, engine.batch_tokens):
            batch = [windows[place] for place in places]
            found = engine.run(
                WindowBatch.pad(batch, [longest] * len(batch), length=length, pad_id=pad_id)
            )
            diffs[places] = found.null_logits.sum(axis=1) - found.span_logits[:, 0].sum(axis=1)
            spans[places] = found.spans[:, 0]
    return Answers(diffs, spans)


def compare(settings: QuantizationSettings, said: Answers, wanted: Answers) -> Measured:
    apart = said.diffs.astype(np.float64) - wanted.diffs
    return Measured(
        settings,
        float(np.sqrt(np.mean(np.square(apart)))),
        float(np.mean((said.spans == wanted.spans).all(axis=1))),
    )


def best(measured: Sequence[Measured], windows: int) -> Measured:
    """The one with the smallest error of null_score_diff, the steadier of the two measures, among
    those whose share of best spans is within two standard errors of the highest."""
    highest = max(one.same_best_span for one in measured)
    chance = 2 * math.sqrt(highest * (1 - highest) / windows)
    good = [one for one in measured if one.same_best_span >= highest - chance]
    return min(good, key=lambda one: one.null_score_diff_rms)


def report(
    chosen: QuantizationSettings, measured: Sequence[Measured], windows: int
) -> dict[str, Any]:
    """For the manifest; without `measured`, of settings that nothing was compared with."""
    settings = dataclasses.asdict(chosen)
    if not measured:
        return settings
    return settings | {"windows": windows, "candidates": [one.to_json() for one in measured]}
