"""Files that are read again when they change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from electra_qa.files import MAX_TEXT_BYTES, read_regular

from ..threads import on_own_thread

log = logging.getLogger(__name__)

INTERVAL_S = 1.0


@dataclass
class WatchedFiles:
    """Some files that belong together.

    load: reads them and puts them in force; a ValueError of it says why it can't.
    """

    what: str
    paths: Sequence[str]
    load: Callable[[], None]
    _seen: list[bytes | None] = field(default_factory=list)

    def load_first(self) -> None:
        """Raises ValueError."""
        self._seen = self._contents()
        self.load()

    def load_if_changed(self) -> None:
        """What can't be loaded is logged, once, and what was in force before stays."""
        contents = self._contents()
        if contents == self._seen:
            return
        # Before loading: what changes meanwhile is a change for the next time.
        self._seen = contents
        try:
            self.load()
        except ValueError as error:
            log.warning("%s changed, and the old one stays in force: %s", self.what, error)
        else:
            log.info("%s changed, and the new one is in force", self.what)

    def _contents(self) -> list[bytes | None]:
        """Not their times: a file can change twice within a tick of the file system's clock."""
        return [_content(path) for path in self.paths]


def _content(path: str) -> bytes | None:
    try:
        return read_regular(Path(path), MAX_TEXT_BYTES)
    except OSError:
        return None


async def watch(files: Sequence[WatchedFiles]) -> None:
    """Until it is cancelled."""
    while files:
        await asyncio.sleep(INTERVAL_S)
        for watched in files:
            try:
                await on_own_thread(watched.load_if_changed)
            except Exception:
                log.exception("reading %s failed", watched.what)
