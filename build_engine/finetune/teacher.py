"""The logits of a larger model, computed once for all epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RustTokenizer

from electra_qa.engines import batches_by_length, steps

from ..errors import BuildError
from .batches import LENGTH_STEP, Batch, collate
from .data import Feature
from .model import QaModel, load_model, longest_input, span_logits
from .settings import Autocast
from .state import TEACHER

TOKENS = 4096


def teacher_logits(
    teacher: str,
    tokenizer: str,
    features: Sequence[Feature],
    *,
    pad_id: int,
    max_length: int,
    autocast: Autocast,
    device: torch.device,
    output: Path,
    console: Console,
) -> list[torch.Tensor]:
    """float16 [length, 2] for each window: the start and end logits of a checkpoint.

    They are kept in the folder `output` for a run that is resumed. Raises BuildError where the
    teacher can't be loaded, has another vocabulary, or too few positions.
    """
    file = output / TEACHER
    lengths = [feature.length for feature in features]
    if file.is_file():
        kept = load_file(file)["logits"]
        if len(kept) != sum(lengths):
            raise BuildError(f"{file.name} is of other windows: --overwrite_output_dir")
        return list(kept.split(lengths))
    model, its_tokenizer = load_model(teacher)
    if _vocabulary(its_tokenizer) != _vocabulary(tokenizer):
        raise BuildError(f"{teacher} has another vocabulary than the model")
    if max_length > longest_input(model):
        raise BuildError(
            f"max_seq_length must be at most {longest_input(model)}, the positions of the teacher, "
            f"got {max_length}"
        )
    torch.nn.Module.to(model, device)
    torch.nn.Module.eval(model)
    # A tensor for each window would lie between the blocks that a batch frees, and keep the C
    # library from giving them to the next one: gigabytes in the end.
    kept = torch.empty(sum(lengths), 2, dtype=torch.float16)
    logits = list(kept.split(lengths))
    buckets = steps(LENGTH_STEP, max_length)
    with Progress(console=console) as progress, torch.inference_mode():
        task = progress.add_task("Asking the teacher", total=len(features))
        for _, places in batches_by_length(lengths, buckets, TOKENS):
            batch = collate([features[place] for place in places], pad_id, max_length)
            found = _forward(model, batch.to(device), autocast)
            for place, row in zip(places, found, strict=True):
                logits[place].copy_(row[: lengths[place]])
            progress.advance(task, len(places))
    unfinished = file.with_suffix(".unfinished")
    save_file({"logits": kept}, unfinished)
    unfinished.rename(file)
    return logits


def _forward(model: QaModel, batch: Batch, autocast: Autocast) -> torch.Tensor:
    logits = span_logits(
        model, batch.input_ids, batch.attention_mask, batch.token_type_ids, autocast
    )
    # Beyond float16's range nothing changes in a softmax.
    return logits.clamp(-60_000, 60_000).half().cpu()


def pad_logits(logits: Sequence[torch.Tensor], length: int) -> torch.Tensor:
    """float32 [windows, length, 2]; what is padding doesn't matter."""
    padded = torch.zeros(len(logits), length, 2)
    for row, values in zip(padded, logits, strict=True):
        row[: len(values)] = values
    return padded


def _vocabulary(tokenizer: str) -> dict[str, int]:
    vocabulary: dict[str, int] = RustTokenizer.from_str(tokenizer).get_vocab()
    return vocabulary
