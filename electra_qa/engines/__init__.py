"""Engines run window batches through a bundle's graph. Each is a module with one class.

The libraries behind them come with an extra (`electra-qa[server]`, `electra-qa[gpu]`) and are
imported only when an engine is asked for.
"""

from __future__ import annotations

from typing import Protocol

from ..bundle import Bundle
from ..spans import DecodedWindows
from ..windows import WindowBatch


class EngineError(Exception):
    """The engine can't be made, or a run of it failed; the message says why."""


class Engine(Protocol):
    """What the server needs of an engine.

    device: what it runs on and with, for people.
    slots: how many calls of `run` keep it busy; more wait inside it.
    """

    device: str
    slots: int

    def run(self, batch: WindowBatch) -> DecodedWindows:
        """Run one batch, blocking. Safe to call from `slots` threads at once.

        Raises EngineError.
        """


def load_engine(bundle: Bundle, *, threads: int | None = None) -> Engine:
    """Compile a bundle for this machine. Raises EngineError where that can't be done.

    threads: CPU threads to use; by default all that the process may run on.
    """
    try:
        from .openvino import OpenVINOEngine
    except ImportError as error:
        raise EngineError(
            f"no engine is installed ({error.name} is missing): pip install 'electra-qa[server]'"
        ) from error
    return OpenVINOEngine(bundle, threads=threads)
