"""A bundle of a checkpoint, built once into the user's cache.

However many ask at once, one builds and the others wait. The entry is written beside its place and
renamed into it, so that nothing half-built is ever served, whatever becomes of the build.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import Timeout
from rich.console import Console

from electra_qa import __version__
from electra_qa.bundle import BundleError, load_bundle, sha256_of
from electra_qa.bundle_cache import (
    ABOUT,
    BUNDLE,
    About,
    bundles_folder,
    locked,
    remove,
    unfinished,
)

from .build import BuildData, BuildSettings, build_bundle
from .errors import BuildError
from .hub import fetch

# What a checkpoint's folder has that a bundle may depend on.
SUFFIXES = (".bin", ".json", ".model", ".safetensors", ".txt")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a checkpoint's files are.

    checkpoint: what to build of. name: what to call it, of the hub without the revision.
    revision, commit: of the hub, as it was asked for and as it is now; None for a folder.
    """

    checkpoint: str
    name: str
    folder: Path
    revision: str | None = None
    commit: str | None = None

    def digest(self) -> str:
        """Of its content: files with the same name and the same content are the same."""
        if self.commit is not None:
            return f"{self.name}@{self.commit}"
        files = sorted(f for f in self.folder.iterdir() if f.suffix in SUFFIXES and f.is_file())
        return _digest([(file.name, sha256_of(file)) for file in files])


def find_source(folder_or_hub_id: str, *, weights: bool = True) -> Source:
    """Fetches what is on the hub. Raises BuildError."""
    fetched = fetch(folder_or_hub_id, weights=weights)
    if fetched.commit is None:
        return Source(folder_or_hub_id, fetched.source, fetched.folder)
    name, _, revision = folder_or_hub_id.partition("@")
    # What is built is this commit, whatever its branch is by then.
    pinned = f"{name}@{fetched.commit}"
    return Source(pinned, name, fetched.folder, revision or None, fetched.commit)


def cached_bundle(
    checkpoint: str,
    settings: BuildSettings,
    data: BuildData,
    console: Console,
    tokenizer: str | None = None,
) -> Path:
    """The bundle of a checkpoint (a folder, or a hub id with or without @revision) in the user's
    cache, built if it is not there or damaged. Raises BuildError."""
    try:
        source = find_source(checkpoint)
        of_tokenizer = None if tokenizer is None else find_source(tokenizer, weights=False)
        path = bundles_folder() / _name(
            source, settings, _key(source, of_tokenizer, settings, data)
        )
        if not _is_whole(path):
            with _waiting(path, console):
                if not _is_whole(path):
                    about = _about(source, tokenizer, settings)
                    _build(path, about, source, tokenizer, settings, data, console)
        # When it was last used. Another user's cache may be read only.
        with suppress(OSError):
            os.utime(path / ABOUT)
        return path / BUNDLE
    except BundleError as error:
        raise BuildError(str(error)) from error
    except OSError as error:
        raise BuildError(
            f"{error.filename}: {error.strerror}; the cache is below XDG_CACHE_HOME or ~/.cache"
        ) from error


def builder_version() -> str:
    """The version of the package, and a sum of the files that make a bundle."""
    here = Path(__file__).parent
    files = sorted(f for f in here.rglob("*") if f.is_file() and f.suffix != ".pyc")
    sums = [
        (str(file.relative_to(here)), sha256_of(file))
        for file in files
        if "finetune" not in file.parts
    ]
    return f"{__version__}+{_digest(sums)[:12]}"


def _key(source: Source, tokenizer: Source | None, settings: BuildSettings, data: BuildData) -> str:
    """Of everything that the bundle depends on."""
    return _digest(
        {
            "builder": builder_version(),
            "checkpoint": source.digest(),
            "tokenizer": None if tokenizer is None else tokenizer.digest(),
            "settings": dataclasses.asdict(settings),
            "calibration": [sha256_of(file) for file in data.calibration],
            "accuracy": None if data.accuracy is None else sha256_of(data.accuracy),
        }
    )


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _name(source: Source, settings: BuildSettings, key: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9_-]+", "-", source.name).strip("-")[:80]
    return f"{readable}-{settings.precision}-{key[:16]}"


def _is_whole(path: Path) -> bool:
    try:
        load_bundle(path / BUNDLE)
    except BundleError:
        return False
    return True


@contextmanager
def _waiting(path: Path, console: Console) -> Iterator[None]:
    try:
        with locked(path, timeout_s=0):
            yield
            return
    except Timeout:
        console.print("another process builds this bundle; waiting for it …")
    with locked(path):
        yield


def _about(source: Source, tokenizer: str | None, settings: BuildSettings) -> About:
    return About(
        model=str(source.folder.resolve()) if source.commit is None else source.name,
        revision=source.revision,
        commit=source.commit,
        tokenizer=tokenizer,
        precision=settings.precision,
        version=builder_version(),
        made=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _build(
    path: Path,
    about: About,
    source: Source,
    tokenizer: str | None,
    settings: BuildSettings,
    data: BuildData,
    console: Console,
) -> None:
    """With the lock held."""
    began = time.monotonic()
    console.print(f"building a bundle of {source.name} ({settings.precision}) into the cache …")
    # The steps are for who watches; in a log they would be lines about nothing.
    steps = console if console.is_terminal else Console(file=io.StringIO())
    beside = unfinished(path)
    if beside.exists():  # of a build that was killed
        shutil.rmtree(beside)
    try:
        build_bundle(source.checkpoint, beside / BUNDLE, settings, data, steps, tokenizer)
        (beside / ABOUT).write_text(about.to_json(), encoding="utf-8")
        if path.exists():  # damaged
            shutil.rmtree(path)
        beside.rename(path)
    except BaseException:
        with suppress(OSError):
            remove(beside)
        raise
    console.print(f"done, {time.monotonic() - began:.0f} s")
