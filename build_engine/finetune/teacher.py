"""The logits of a larger model, computed once for all epochs.

A teacher reads the windows as it was trained to read them: the same pieces of words, under its own
ids, between its own special tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as RustTokenizer

from electra_qa.engines import batches_by_length, steps
from electra_qa.files import written_whole

from ..errors import BuildError
from .batches import LENGTH_STEP, Batch, collate
from .data import Feature
from .model import QaModel, load_model, span_logits
from .settings import Autocast
from .state import TEACHER

TOKENS = 4096


def teacher_logits(
    teacher: str,
    student: QaModel,
    features: Sequence[Feature],
    *,
    max_length: int,
    autocast: Autocast,
    device: torch.device,
    output: Path,
    console: Console,
) -> list[torch.Tensor]:
    """float16 [length, 2] for each window of the student: a checkpoint's start and end logits.

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
    model = load_model(teacher)
    tokenizer = model.make_tokenizer()
    ids = _its_ids(teacher, model, student)
    longer = model.special_tokens.separators - student.special_tokens.separators
    if max_length + longer > model.longest_input:
        raise BuildError(
            f"max_seq_length must be at most {model.longest_input - longer}, the positions of the "
            f"teacher, got {max_length}"
        )
    torch.nn.Module.to(model.network, device)
    torch.nn.Module.eval(model.network)
    # A tensor for each window would lie between the blocks that a batch frees, and keep the C
    # library from giving them to the next one: gigabytes in the end.
    kept = torch.empty(sum(lengths), 2, dtype=torch.float16)
    logits = list(kept.split(lengths))
    its_lengths = [length + longer for length in lengths]
    buckets = steps(LENGTH_STEP, max_length + longer)
    with Progress(console=console) as progress, torch.inference_mode():
        task = progress.add_task("Asking the teacher", total=len(features))
        for _, places in batches_by_length(its_lengths, buckets, TOKENS):
            windows = [
                _its_window(features[place], student, model, ids, tokenizer.sep_id)
                for place in places
            ]
            batch = collate(
                [window for window, _ in windows], tokenizer.pad_id, max_length + longer
            )
            found = _forward(model, batch.to(device), autocast)
            for place, row, (_, positions) in zip(places, found, windows, strict=True):
                logits[place].copy_(row[torch.from_numpy(positions)])
            progress.advance(task, len(places))
    with written_whole(file) as unfinished:
        save_file({"logits": kept}, unfinished)
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


def _its_ids(name: str, teacher: QaModel, student: QaModel) -> npt.NDArray[np.int32]:
    """The teacher's token id for each of the student's: int32 [tokens].

    Raises BuildError where the teacher lacks one.
    """
    tokenizer: RustTokenizer = RustTokenizer.from_str(student.tokenizer)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    theirs: dict[str, int] = RustTokenizer.from_str(teacher.tokenizer).get_vocab()
    renamed = {
        getattr(student.special_tokens, role): getattr(teacher.special_tokens, role)
        for role in ("cls", "sep", "pad", "unk")
    }
    # Such as the mask: not of words, so that a teacher may do without it.
    special = {str(t) for t in tokenizer.get_added_tokens_decoder().values() if t.special}
    ids = np.zeros(max(vocabulary.values()) + 1, dtype=np.int32)
    for piece, token_id in vocabulary.items():
        its_piece = renamed.get(piece, piece)
        if its_piece not in theirs:
            if piece not in special:
                raise BuildError(
                    f"{name} has another vocabulary than the model: it lacks {piece!r}"
                )
            its_piece = teacher.special_tokens.unk
        ids[token_id] = theirs[its_piece]
    return ids


def _its_window(
    feature: Feature,
    student: QaModel,
    teacher: QaModel,
    ids: npt.NDArray[np.int32],
    sep_id: int,
) -> tuple[Feature, npt.NDArray[np.int64]]:
    """(the window as the teacher reads it, where in it each of the student's tokens is).

    They differ in how many separators stand between question and context: where the student has
    more, they all are the teacher's last one.
    """
    ours, its = student.special_tokens.separators, teacher.special_tokens.separators
    question_end = feature.context_start - ours
    between = question_end + np.minimum(np.arange(ours), its - 1)
    positions = np.concatenate(
        (
            np.arange(question_end),
            between,
            np.arange(feature.context_start, feature.length) + its - ours,
        )
    )
    input_ids = np.full(feature.length + its - ours, sep_id, dtype=np.int32)
    input_ids[positions] = ids[feature.input_ids]
    return Feature(input_ids, feature.context_start + its - ours, 0, 0), positions
