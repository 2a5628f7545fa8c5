"""Where a model is computed."""

from __future__ import annotations

import torch

from ..errors import BuildError
from .settings import CheckpointSettings


def find_device(settings: CheckpointSettings) -> torch.device:
    """Raises BuildError where the settings ask for what is not there."""
    cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not cuda:
        raise BuildError("device is cuda, but PyTorch finds no GPU")
    if settings.device == "cpu" or not cuda:
        if settings.autocast == "fp16":
            raise BuildError("autocast fp16 is for a GPU; on a CPU take bf16")
        return torch.device("cpu")
    return torch.device("cuda")
