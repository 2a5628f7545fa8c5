"""What `--device` says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Devices:
    """Of one kind. numbers: of each, as CUDA counts them; None for the first that there is."""

    kind: Literal["cpu", "gpu"]
    numbers: tuple[int | None, ...]


def parse_devices(text: str) -> Devices:
    """Raises ValueError."""
    matches = [re.fullmatch(r"(cpu|gpu)(?::(\d+))?", part.strip()) for part in text.split(",")]
    found = [match for match in matches if match]
    kinds = {match[1] for match in found}
    if len(found) < len(matches) or len(kinds) > 1:
        raise ValueError(f"{text!r} is not cpu, gpu, or a list like gpu:0,gpu:1")
    numbers = tuple(int(match[2]) if match[2] else None for match in found)
    return Devices("gpu" if kinds == {"gpu"} else "cpu", numbers)
