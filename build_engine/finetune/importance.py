"""How much each attention head and each feed-forward neuron matters to a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress

from .batches import Batch, collate
from .data import Feature
from .losses import span_loss
from .model import QaModel, span_logits
from .narrowing import layer_names
from .settings import FinetuneSettings
from .widths import Scores

# As many as a minute or two of a CPU allow; Michel et al. too take a part of the training set.
WINDOWS = 1024


@dataclass(frozen=True, slots=True)
class Importance:
    """heads: float64 [heads] of each layer. neurons: float64 [neurons] of each layer."""

    heads: list[Scores]
    neurons: list[Scores]


def importance(
    model: QaModel,
    features: Sequence[Feature],
    pad_id: int,
    settings: FinetuneSettings,
    console: Console,
) -> Importance:
    """The change of the loss, to the first order, where one of them is taken out.

    Its output is multiplied by a gate of 1, and what is summed over the windows is the magnitude
    of the gate's gradient: |output · gradient|, of all tokens of a window together (Michel et al.,
    2019, of heads; McCarley et al., 2019, of both). The loss is the span loss, whoever the teacher
    is: how far a model is from itself has no gradient. In float32, without dropout, on up to
    WINDOWS windows drawn by the seed.
    """
    names = layer_names(model.architecture)
    heads = model.architecture.attention_heads_by_layer
    neurons = model.architecture.intermediate_size_by_layer
    parts = {name.attention_output: count for name, count in zip(names, heads, strict=True)}
    parts |= {name.output: count for name, count in zip(names, neurons, strict=True)}
    totals = {name: torch.zeros(count, dtype=torch.float64) for name, count in parts.items()}
    batches = _batches(features, settings)
    torch.nn.Module.eval(model.network)
    with ExitStack() as hooks, Progress(console=console) as progress:
        task = progress.add_task("Asking what matters", total=sum(map(len, batches)))
        gates: dict[str, torch.Tensor] = {}
        for name, count in parts.items():
            linear = model.network.get_submodule(name)
            hooks.enter_context(linear.register_forward_pre_hook(_Gate(name, count, gates)))
        for indices in batches:
            windows = [features[index] for index in indices]
            batch = collate(windows, pad_id, settings.max_seq_length)
            gradients = torch.autograd.grad(
                _summed_loss(model, batch.to(model.network.device)), list(gates.values())
            )
            for name, gradient in zip(gates, gradients, strict=True):
                totals[name] += gradient.abs().sum(dim=0).flatten().double().cpu()
            progress.advance(task, len(indices))
    return Importance(
        [totals[name.attention_output].numpy() for name in names],
        [totals[name.output].numpy() for name in names],
    )


@dataclass(frozen=True, slots=True)
class _Gate:
    """Before a linear layer: its input in `parts` of one size, each times a number of its own for
    each window, which is left in `gates`."""

    name: str
    parts: int
    gates: dict[str, torch.Tensor]

    def __call__(self, _module: torch.nn.Module, inputs: tuple[Any, ...]) -> torch.Tensor:
        (x,) = inputs
        gate = torch.ones(len(x), 1, self.parts, 1, device=x.device, requires_grad=True)
        self.gates[self.name] = gate
        gated: torch.Tensor = (x.unflatten(-1, (self.parts, -1)) * gate).flatten(-2)
        return gated


def _summed_loss(model: QaModel, batch: Batch) -> torch.Tensor:
    """Over the windows, so that the gradient of a window's gate is of its own loss alone."""
    logits = span_logits(
        model, batch.input_ids, batch.attention_mask, batch.token_type_ids, autocast="no"
    )
    return span_loss(logits, batch) * len(batch.input_ids)


def _batches(features: Sequence[Feature], settings: FinetuneSettings) -> list[list[int]]:
    """Indices of the sample, like lengths together."""
    drawn = np.random.default_rng(settings.seed).permutation(len(features))[:WINDOWS]
    ordered = sorted(drawn.tolist(), key=lambda index: features[index].length)
    size = settings.per_gpu_train_batch_size
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]
