"""Checkpoints of a run in training, from which it goes on to the same result.

No pickle: the tensors lie in safetensors files, the rest in JSON. The order of the windows and the
random numbers of a step depend on the seed and the step alone, so that they need no state.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import BuildError

RUN = "run.json"
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STEP = "step.json"
# The logits of a teacher, which the run waited for.
TEACHER = "teacher.safetensors"
# Which heads and neurons were not pruned.
KEPT = "kept.json"
PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class Learner:
    """What changes from step to step."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler


def check(output: Path, run: dict[str, Any], *, resume: bool) -> Path | None:
    """The checkpoint in the folder `output` to go on from, if there is one.

    run: what must be the same for a run to go on. Raises BuildError where `output` holds another
    run, holds one without `resume`, or holds none with it.
    """
    found = sorted(output.glob(f"{PREFIX}*"), key=lambda p: int(p.name.removeprefix(PREFIX)))
    note = output / RUN
    if resume:
        if not note.is_file():
            raise BuildError(f"{output.name} has no run to resume")
        before = json.loads(note.read_text(encoding="utf-8"))
        other = sorted(key for key in before | run if before.get(key) != run.get(key))
        if other:
            raise BuildError(f"can't resume: this run differs in {', '.join(other)}")
        return found[-1] if found else None
    if note.is_file():
        raise BuildError(f"{output.name} holds a run: --resume it, or --overwrite_output_dir")
    return None


def begin(output: Path, run: dict[str, Any]) -> None:
    """From here on `output` holds this run."""
    output.mkdir(parents=True, exist_ok=True)
    (output / RUN).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def clear(output: Path) -> None:
    """Remove what a run left for being resumed."""
    for checkpoint in output.glob(f"{PREFIX}*"):
        shutil.rmtree(checkpoint)
    for name in (RUN, TEACHER, KEPT):
        (output / name).unlink(missing_ok=True)


def save(output: Path, step: int, learner: Learner) -> None:
    """Write checkpoint-`step` and remove the ones before it. One that has its name is complete."""
    unfinished = output / "unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    save_file(_contiguous(learner.model.state_dict()), unfinished / MODEL)
    save_file(
        {
            f"{index}.{name}": tensor
            for index, tensors in learner.optimizer.state_dict()["state"].items()
            for name, tensor in _contiguous(tensors).items()
        },
        unfinished / OPTIMIZER,
    )
    content = {"step": step, "scaler": learner.scaler.state_dict()}
    (unfinished / STEP).write_text(json.dumps(content), encoding="utf-8")
    before = list(output.glob(f"{PREFIX}*"))
    unfinished.rename(output / f"{PREFIX}{step}")
    for checkpoint in before:
        shutil.rmtree(checkpoint)


def load(checkpoint: Path, learner: Learner) -> int:
    """Put a checkpoint into `learner`; the number of steps that were done."""
    learner.model.load_state_dict(load_file(checkpoint / MODEL))
    tensors: dict[int, dict[str, torch.Tensor]] = {}
    for key, tensor in load_file(checkpoint / OPTIMIZER).items():
        index, _, name = key.partition(".")
        tensors.setdefault(int(index), {})[name] = tensor
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": tensors, "param_groups": groups})
    content = json.loads((checkpoint / STEP).read_text(encoding="utf-8"))
    learner.scaler.load_state_dict(content["scaler"])
    return int(content["step"])


def _contiguous(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
