"""How far a run is, on standard error; nothing where that is no terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

UPDATE_EVERY_S = 0.1


class Shown:
    """rows, position: that were there before this run."""

    def __init__(self, progress: Progress, size: int | None, rows: int, position: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=size, completed=position, rows=f"{rows:,}", rate=0)
        self._before = rows
        self._began = self._updated = time.monotonic()

    def update(self, rows: int, position: int) -> None:
        now = time.monotonic()
        if self._progress.disable or now - self._updated < UPDATE_EVERY_S:
            return
        rate = (rows - self._before) / (now - self._began)
        self._progress.update(self._task, completed=position, rows=f"{rows:,}", rate=rate)
        self._updated = now

    def say(self, text: str) -> None:
        """On a line of its own, also where there is no terminal."""
        self._progress.console.print(text, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def shown(size: int | None, rows: int, position: int) -> Iterator[Shown]:
    console = Console(stderr=True)
    progress = Progress(
        TextColumn("{task.fields[rows]} rows, {task.fields[rate]:,.1f}/s"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    with progress:
        yield Shown(progress, size, rows, position)
