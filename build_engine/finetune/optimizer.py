"""Which weights learn how fast, and when."""

from __future__ import annotations

import re
from typing import Any

import torch

from .model import QaModel
from .settings import FinetuneSettings

_LAYER = re.compile(r"\w+\.encoder\.layer\.(\d+)\.")


def make_optimizer(model: QaModel, settings: FinetuneSettings) -> torch.optim.AdamW:
    """AdamW whose groups have a `base_lr`, the learning rate at its highest.

    Biases and layer norms have no weight decay. With `layerwise_lr_decay` d the head learns at the
    full rate, the top layer at d times it, the one below at d², and so on to the embeddings.
    """
    groups: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    layers = model.config.num_hidden_layers
    for name, weight in model.named_parameters():
        decays = not (name.endswith("bias") or "LayerNorm" in name)
        groups.setdefault((_depth(name, layers), decays), []).append(weight)
    parameters: list[dict[str, Any]] = [
        {
            "params": weights,
            "base_lr": settings.learning_rate * settings.layerwise_lr_decay**depth,
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (depth, decays), weights in groups.items()
    ]
    return torch.optim.AdamW(parameters, lr=0.0, eps=settings.adam_epsilon, fused=True)


def _depth(name: str, layers: int) -> int:
    """How many layers are above a weight's, with the head as the one on top."""
    if name.startswith("qa_outputs"):
        return 0
    layer = _LAYER.match(name)
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
