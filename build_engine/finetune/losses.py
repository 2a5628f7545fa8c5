"""What training makes small."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812

from .batches import Batch


def span_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """The mean of the cross entropies of start and end, over a window's tokens (scalar).

    logits: float32 [windows, length, 2]. Padding can't be chosen.
    """
    masked = logits.masked_fill(batch.attention_mask[..., None] == 0, float("-inf"))
    starts, ends = masked.unbind(-1)
    return (F.cross_entropy(starts, batch.starts) + F.cross_entropy(ends, batch.ends)) / 2


def distillation_loss(
    logits: torch.Tensor, teacher: torch.Tensor, batch: Batch, temperature: float
) -> torch.Tensor:
    """How far the student's starts and ends are from the teacher's, softened (scalar).

    logits, teacher: float32 [windows, length, 2]. The mean over windows, starts and ends of
    KL(teacher ‖ student) × temperature², as Hinton et al. (2015) have it.
    """
    real = batch.attention_mask[..., None] != 0
    hidden = torch.finfo(logits.dtype).min
    student = F.log_softmax(logits.masked_fill(~real, hidden) / temperature, dim=1)
    wanted = F.log_softmax(teacher.masked_fill(~real, hidden) / temperature, dim=1)
    apart = F.kl_div(student, wanted, reduction="none", log_target=True)
    return apart.masked_fill(~real, 0.0).sum(dim=1).mean() * temperature**2
