"""Random weights for the models that tests make."""

from __future__ import annotations

from typing import Any


def randomize(model: Any) -> None:
    """What Transformers starts from is too tame to test with: biases of 0, logits near 0."""
    import torch

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            mean = 1.0 if "norm.weight" in name.lower() else 0.0
            parameter.normal_(mean, 0.3, generator=generator)
