"""INT8 post-training quantization of an encoder: what every linear layer is rounded to.

The input of a linear layer gets one scale, its weights get one for each output channel; all of it
is symmetric int8 with a zero point of 0, the form that TensorRT asks for and that OpenVINO and ONNX
Runtime take. Attention's own two products, layer norms, activation functions, span head and decode
are left alone. `graph.py` writes the result down as QuantizeLinear and DequantizeLinear.

Four steps keep the error small. In exact arithmetic the first two change nothing:

1. Split. Trained encoders have a few neurons in a feed-forward layer whose activation × weight is
   huge, and with it the scale of every weight of an output channel. Such a neuron is repeated n
   times with 1/n of its outgoing weights (Zhao et al., 2019, "Improving Neural Network Quantization
   without Retraining using Outlier Channel Splitting").
2. Smooth. Each channel of an input is multiplied by a factor that its weights are divided by (Xiao
   et al., 2023, "SmoothQuant"). Where the input is, channel by channel, a mixture or a multiple of
   what a linear layer gives, the factor goes into the scales of that layer's weights, else the
   graph has a Mul.
3. Round. Weights are rounded one input channel after the other, and the channels that follow make
   up for each error, for the inputs as they are quantized (Frantar et al., 2023, "GPTQ").
4. The mean error that is left goes into the bias.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .checkpoint import Checkpoint
from .quantized import INT8_MAX, SMALLEST, Floats, QuantizedInput, QuantizedLinear, in_float16

ROWS_AT_ONCE = 128
# What is tried where each input has a smoothing of its own, and on how many tokens.
SMOOTHINGS = (0.65, 0.8, 0.9, 0.95, 1.0)
TRIED_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Observed:
    """What calibration saw of the input of linear layers.

    reach: float32 [in], the largest magnitude over all tokens.
    sample: float32 [tokens, in], some of the tokens.
    """

    reach: Floats
    sample: Floats


@dataclass(frozen=True, slots=True)
class QuantizationSettings:
    """split_neurons: by how many each feed-forward layer grows; a multiple of 64 keeps sizes even.
    smoothing: how much of the inputs' unevenness the weights take over, from 0 to 1; None: at each
        input as much as leaves the smallest error of what is computed from the sample.
    """

    split_neurons: int = 64
    smoothing: float | None = 0.95


def sites(checkpoint: Checkpoint, layer: str | None) -> list[tuple[str, ...]]:
    """The linear layers of a layer that are quantized, grouped by the input that they share.

    layer: its name; None for what comes before the first.
    """
    if layer is not None:
        return checkpoint.family.sites(layer)
    return [("embeddings_project",)] if checkpoint.family.projects(checkpoint.architecture) else []


def quantize(
    checkpoint: Checkpoint,
    layer: str | None,
    observed: Mapping[str, Observed],
    settings: QuantizationSettings,
    on_site: Callable[[], None],
) -> dict[str, QuantizedLinear]:
    """The quantized linear layers of a layer, by name.

    layer: as of `sites`.
    observed: what calibration saw, by the name of the first linear layer of each site.
    on_site: called once a site is done.
    """
    groups = sites(checkpoint, layer)
    weights = {
        name: np.ascontiguousarray(checkpoint.weights[f"{name}.weight"].T, dtype=np.float32)
        for group in groups
        for name in group
    }
    biases = {name: _bias(checkpoint, name, weights[name].shape[1]) for name in weights}
    seen = dict(observed)
    scaled_before: Mapping[str, str] = {}
    if layer is not None:
        feed_forward = checkpoint.family.feed_forward(layer)
        _split(feed_forward, weights, biases, seen, settings.split_neurons)
        scaled_before = checkpoint.family.scaled_before(layer)
    linears: dict[str, QuantizedLinear] = {}
    for group in groups:
        together = np.concatenate([weights[name] for name in group], axis=1)
        how = _smooth(together, seen[group[0]], settings.smoothing)
        if (before := scaled_before.get(group[0])) is not None:
            linears[before], how = _fold(linears[before], how, seen[group[0]].reach)
        linears |= _quantize_site(group, together, biases, seen[group[0]], how)
        on_site()
    return linears


def _bias(checkpoint: Checkpoint, name: str, size: int) -> Floats:
    if f"{name}.bias" not in checkpoint.weights:
        return np.zeros(size, np.float32)
    return checkpoint.weights[f"{name}.bias"].astype(np.float32)


def _split(
    feed_forward: tuple[tuple[str, ...], str],
    weights: dict[str, Floats],
    biases: dict[str, Floats],
    observed: dict[str, Observed],
    extra: int,
) -> None:
    """Repeat the neurons that press hardest on the weights' scales, `extra` times in all."""
    before, after = feed_forward
    seen = observed[after]
    pressure = seen.reach * np.abs(weights[after]).max(axis=1)
    times = np.ones(len(pressure), dtype=np.int64)
    for _ in range(extra):
        times[np.argmax(pressure / times)] += 1
    index = np.repeat(np.arange(len(times)), times)
    for name in before:
        weights[name] = weights[name][:, index]
        biases[name] = biases[name][index]
    weights[after] = (weights[after] / times[:, None]).astype(np.float32)[index]
    observed[after] = Observed(seen.reach[index], seen.sample[:, index])


def _quantize_site(
    group: Sequence[str],
    weights: Floats,
    biases: Mapping[str, Floats],
    seen: Observed,
    how: QuantizedInput,
) -> dict[str, QuantizedLinear]:
    """weights: of all layers of the group, one after the other along the last axis."""
    smoothed: Floats = (weights / how.factor[:, None]).astype(np.float32)
    weight_scale = _weight_scale(smoothed)
    inputs = _rounded(seen.sample, how)
    rounded = _round(smoothed, weight_scale, inputs)
    # The mean error, which is that of the mean input.
    missing = _mean(seen.sample) @ weights - _mean(inputs) @ (rounded * weight_scale)

    ends = np.cumsum([len(biases[name]) for name in group])
    return {
        name: QuantizedLinear(
            how,
            rounded[:, end - len(biases[name]) : end].astype(np.int8),
            weight_scale[end - len(biases[name]) : end],
            (biases[name] + missing[end - len(biases[name]) : end]).astype(np.float32),
        )
        for name, end in zip(group, ends, strict=True)
    }


def _smooth(weights: Floats, seen: Observed, smoothing: float | None) -> QuantizedInput:
    if smoothing is None:
        smoothing = min(SMOOTHINGS, key=lambda share: _error(weights, seen, share))
    strength = np.maximum(np.abs(weights).max(axis=1), SMALLEST)
    # What the graph computes with has to be what the weights are rounded for: float16's numbers.
    factor = in_float16(strength ** (1 - smoothing) / _least(seen.reach) ** smoothing)
    return QuantizedInput(factor, _input_scale(seen.reach, factor))


def _least(reach: Floats) -> Floats:
    """A channel that hardly moves must not get a factor that float16 does not have."""
    least: Floats = np.maximum(reach, max(reach.max() / 2**12, SMALLEST))
    return least


def _input_scale(reach: Floats, factor: Floats) -> float:
    return float(in_float16((_least(reach) * factor).max() / INT8_MAX))


def _fold(
    before: QuantizedLinear, how: QuantizedInput, reach: Floats
) -> tuple[QuantizedLinear, QuantizedInput]:
    """The layer before an input with the input's factor in it, and how the input is rounded then.

    Scales are float16's numbers, so the factor is what lies between the old and the new ones.
    """
    scale = in_float16(np.maximum(before.weight_scale * how.factor, SMALLEST))
    factor: Floats = (scale / before.weight_scale).astype(np.float32)
    scaled = dataclasses.replace(before, weight_scale=scale, bias=before.bias * factor)
    return scaled, QuantizedInput(factor, _input_scale(reach, factor), folded=True)


def _weight_scale(smoothed: Floats) -> Floats:
    scale: Floats = in_float16(np.maximum(np.abs(smoothed).max(axis=0) / INT8_MAX, SMALLEST))
    return scale


def _rounded(inputs: Floats, how: QuantizedInput) -> Floats:
    """Inputs × factor, as they come out of int8."""
    steps = np.rint(inputs * how.factor / how.scale)
    rounded: Floats = (np.clip(steps, -INT8_MAX - 1, INT8_MAX) * how.scale).astype(np.float32)
    return rounded


def _error(weights: Floats, seen: Observed, smoothing: float) -> float:
    """The mean square error of the output on some of the sample, with plainly rounded weights."""
    sample = seen.sample[:: max(1, len(seen.sample) // TRIED_TOKENS)]
    how = _smooth(weights, seen, smoothing)
    smoothed: Floats = (weights / how.factor[:, None]).astype(np.float32)
    scale = _weight_scale(smoothed)
    missed = _rounded(sample, how) @ (np.rint(smoothed / scale) * scale) - sample @ weights
    return float(np.mean(np.square(missed)))


def _mean(inputs: Floats) -> npt.NDArray[np.float64]:
    mean: npt.NDArray[np.float64] = inputs.mean(axis=0, dtype=np.float64)
    return mean


def _round(weights: Floats, scale: Floats, inputs: Floats, damping: float = 0.01) -> Floats:
    """Integers q [in, out] that bring inputs @ (q × scale) close to inputs @ weights, by GPTQ.

    weights: [in, out]. scale: [out]. inputs: [tokens, in]. damping: as in the paper.
    """
    order, upper = _corrections(inputs, damping)
    rest = weights[order]
    rounded = np.empty_like(rest)
    for begin in range(0, len(rest), ROWS_AT_ONCE):
        end = min(begin + ROWS_AT_ONCE, len(rest))
        errors = np.empty_like(rest[begin:end])
        for row in range(begin, end):
            rounded[row] = np.clip(np.rint(rest[row] / scale), -INT8_MAX, INT8_MAX)
            error = errors[row - begin] = (rest[row] - rounded[row] * scale) / upper[row, row]
            rest[row + 1 : end] -= np.outer(upper[row, row + 1 : end], error)
        # All at once for the rows behind, of which there are many (the paper's "lazy batches").
        rest[end:] -= upper[begin:end, end:].T @ errors
    return rounded[np.argsort(order)]


def _corrections(inputs: Floats, damping: float) -> tuple[npt.NDArray[np.int64], Floats]:
    """The order in which input channels are rounded, and by how much of the error of each the
    ones behind it change: the upper Cholesky factor of the inverse Hessian, [in, in]."""
    hessian = inputs.T @ inputs
    order = np.argsort(-hessian.diagonal())
    ordered = hessian[np.ix_(order, order)].astype(np.float64)
    ordered[np.diag_indices_from(ordered)] += damping * np.mean(ordered.diagonal()) + 1e-12
    return order, np.linalg.cholesky(np.linalg.inv(ordered)).T.astype(np.float32)
