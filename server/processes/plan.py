"""What each process of a server is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from electra_qa.engines import EngineSettings
from electra_qa.model_options import ModelChoice

from ..settings import ServerSettings


@dataclass(frozen=True, slots=True)
class LogSettings:
    """As `logs.configure` takes them."""

    level: str
    form: Literal["text", "json"]
    with_text: bool


@dataclass(frozen=True, slots=True)
class Device:
    """One engine process. number: of the GPU that it sees alone; None for all of them."""

    engine: EngineSettings
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """All that they are told. devices: an engine process each."""

    choice: ModelChoice
    devices: tuple[Device, ...]
    settings: ServerSettings
    log: LogSettings
