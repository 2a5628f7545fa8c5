"""A checkpoint's `config.json`: its fields, checked, with Transformers' defaults."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import BuildError

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Config:
    """fields: as they stand in the file. defaults: of those that it may leave out."""

    fields: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def value(self, name: str) -> Any:
        """Raises BuildError for a field that is not there and has no default."""
        if name in self.fields:
            return self.fields[name]
        if name not in self.defaults:
            raise BuildError(f"{CONFIG} lacks {name!r}")
        return self.defaults[name]

    def size(self, name: str, *, lowest: int = 1) -> int:
        """Raises BuildError for what is no whole number of at least `lowest`."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, int) or value < lowest:
            raise BuildError(f"{CONFIG}: {name} is not a whole number over {lowest - 1}: {value!r}")
        return value

    def sizes(self, name: str, count: int, largest: int) -> tuple[int, ...]:
        """Raises BuildError for what is no list of `count` whole numbers from 1 to `largest`."""
        value = self.value(name)
        if (
            not isinstance(value, list)
            or len(value) != count
            or not all(type(size) is int and 1 <= size <= largest for size in value)
        ):
            raise BuildError(
                f"{CONFIG}: {name} is not a list of {count} whole numbers from 1 to {largest}: "
                f"{value!r}"
            )
        return tuple(value)

    def number(self, name: str) -> float:
        """Raises BuildError for what is no number."""
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
            raise BuildError(f"{CONFIG}: {name} is not a number: {value!r}")
        return float(value)

    def one_of(self, name: str, allowed: tuple[Any, ...]) -> Any:
        """Raises BuildError, naming what is allowed, for anything else."""
        value = self.value(name)
        if value not in allowed:
            names = ", ".join(map(repr, allowed))
            raise BuildError(f"{CONFIG}: {name} is {value!r}; this build takes {names}")
        return value


def read_json(path: Path) -> dict[str, Any]:
    """Raises BuildError for what is no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BuildError(f"{path.name} can't be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BuildError(f"{path.name} can't be read: it is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BuildError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise BuildError(f"{path.name} holds no JSON object")
    return content
