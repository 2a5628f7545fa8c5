"""The bundles that were built of checkpoints, in the user's cache: what is there, and what may go.

    bundles/NAME/bundle/        a bundle, whole: NAME was renamed to this when it was done
    bundles/NAME/about.json     what it was built of; the time of the file is that of the last use
    bundles/NAME.unfinished/    a build under way, or what a killed one or a pruned one left
    bundles/.locks/NAME.lock    held while one is built or removed

NAME says model, precision and the key of everything that the bundle depends on. Built they are by
`build_engine/cached.py`.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from .bundle import BundleError, load_bundle
from .cache import user_cache

ABOUT = "about.json"
BUNDLE = "bundle"
UNFINISHED = ".unfinished"


@dataclass(frozen=True, slots=True)
class About:
    """What a bundle of the cache was built of.

    model: the checkpoint, as it was asked for; of a folder its full path.
    revision: of the hub, as it was asked for. commit: what that was then. None for a folder.
    version: of the builder.
    made: when, in UTC, as ISO 8601 has it.
    """

    model: str
    revision: str | None
    commit: str | None
    tokenizer: str | None
    precision: str
    version: str
    made: str

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder of the cache.

    about: None where it can't be read, and of an unfinished build.
    size: of all of its files, in bytes.
    used: when it was last served or built.
    """

    path: Path
    about: About | None
    size: int
    used: datetime

    @property
    def is_unfinished(self) -> bool:
        return self.path.name.endswith(UNFINISHED)

    def loads(self) -> bool:
        """Whether every sum is right."""
        try:
            load_bundle(self.path / BUNDLE)
        except BundleError:
            return False
        return self.about is not None and not self.is_unfinished


def bundles_folder() -> Path:
    """Raises BundleError for a user without a home."""
    try:
        return user_cache() / "bundles"
    except RuntimeError as error:
        raise BundleError(
            "there is no home to keep bundles in: set XDG_CACHE_HOME to a folder"
        ) from error


@contextmanager
def locked(path: Path, timeout_s: float = -1) -> Iterator[None]:
    """Nobody else builds or removes this entry meanwhile; the lock of a process ends with it.

    timeout_s: how long to wait for it; by default as long as it takes. Raises filelock.Timeout and
    OSError.
    """
    locks = path.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{path.name.removesuffix(UNFINISHED)}.lock", timeout_s):
        yield


def unfinished(path: Path) -> Path:
    """Where an entry is before it is whole, and when it goes."""
    return path.with_name(path.name + UNFINISHED)


def remove(path: Path) -> None:
    """With the lock held. Whoever looks at it sees all of it or nothing. Raises OSError."""
    leaving = unfinished(path.with_name(path.name.removesuffix(UNFINISHED)))
    if path != leaving:
        shutil.rmtree(leaving, ignore_errors=True)
        path.rename(leaving)
    shutil.rmtree(leaving)


def entries() -> list[Entry]:
    """By model and precision; unfinished ones are last. Raises BundleError."""
    folder = bundles_folder()
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        # One may go while it is looked at.
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.name.startswith("."):
                found.append(_entry(path))
    return sorted(found, key=lambda entry: (entry.is_unfinished, entry.path.name))


def prune(
    *, everything: bool = False, unused: timedelta | None = None, dry_run: bool = False
) -> list[Entry]:
    """Remove what does not load and what killed builds left; gives what went, or would go.

    everything: remove all the others as well. unused: those that were not used for so long.
    What is being built stays. A server that runs goes on: it has the files open. Raises
    BundleError and OSError.
    """
    now = datetime.now(UTC)
    gone = []
    for entry in entries():
        try:
            with locked(entry.path, timeout_s=0):
                old = unused is not None and now - entry.used > unused
                if not (everything or old) and entry.loads():
                    continue
                if not dry_run:
                    remove(entry.path)
                gone.append(entry)
        except Timeout:
            continue
    return gone


def _entry(path: Path) -> Entry:
    about = path / ABOUT
    files = [file.stat() for file in path.rglob("*") if file.is_file()]
    newest = (about if about.is_file() else path).stat().st_mtime
    return Entry(
        path=path,
        about=_read(about),
        size=sum(file.st_size for file in files),
        used=datetime.fromtimestamp(newest, UTC),
    )


def _read(path: Path) -> About | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return About(**content)
    except (OSError, ValueError, TypeError):
        return None
