"""Which weights learn how fast, and when."""

from __future__ import annotations

import re
from typing import Any

import torch

from .model import QaModel
from .settings import FinetuneSettings

# The first number in a weight's name is its layer's; in ALBERT that of layers that share it.
_LAYER = re.compile(r"\.(\d+)\.")


def make_optimizer(model: QaModel, settings: FinetuneSettings) -> torch.optim.AdamW:
    """AdamW whose groups have a `base_lr`, the learning rate at its highest.

    Biases and layer norms have no weight decay. With `layerwise_lr_decay` d the head learns at the
    full rate, the top layer at d times it, the one below at d², and so on to the embeddings.
    Layers that share their weights count as one.
    """
    network = model.network
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    found = [_LAYER.search(name) for name, _ in network.named_parameters()]
    layers = 1 + max(int(layer[1]) for layer in found if layer)
    for name, weight in network.named_parameters():
        decays = weight.dim() > 1  # else it is a bias or of a norm
        depth = _depth(name, layers, network.base_model_prefix)
        groups.setdefault((depth, decays), []).append(weight)
    parameters: list[dict[str, Any]] = [
        {
            "params": weights,
            "base_lr": settings.learning_rate * settings.layerwise_lr_decay**depth,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (depth, decays), weights in groups.items()
    ]
    return torch.optim.AdamW(parameters, lr=0.0, eps=settings.adam_epsilon, fused=True)


def _depth(name: str, layers: int, encoder: str) -> int:
    """How many layers are above a weight's, with the head as the one on top.

    encoder: what the names of the encoder's weights begin with; a norm behind its last layer is
    the head's.
    """
    if not name.startswith(f"{encoder}.") or name.startswith(f"{encoder}.final_norm."):
        return 0
    layer = _LAYER.search(name)
    return layers - int(layer[1]) if layer else layers + 1


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, total_steps: int, warmup_proportion: float
) -> float:
    """For the step with this index: up to `base_lr` in the warm-up, then straight down to 0.

    Returns the share of `base_lr`, in [0, 1].
    """
    warmup = round(warmup_proportion * total_steps)
    if step < warmup:
        share = (step + 1) / warmup
    else:
        share = (total_steps - step) / max(1, total_steps - warmup)
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * share
    return share
