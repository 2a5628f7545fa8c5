"""SQuAD files as commands take them: a path, or an official file by name, fetched and checked."""

from __future__ import annotations

import hashlib
import os
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import click

from .bundle import sha256_of
from .cache import user_cache
from .files import written_whole

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class OfficialFile:
    """A file that the authors of SQuAD 2.0 publish."""

    url: str
    sha256: str


_DATASET = "https://rajpurkar.github.io/SQuAD-explorer/dataset"
OFFICIAL = {
    "squad-v2-train": OfficialFile(
        f"{_DATASET}/train-v2.0.json",
        "68dcfbb971bd3e96d5b46c7177b16c1a4e7d4bdef19fb204502738552dede002",
    ),
    "squad-v2-dev": OfficialFile(
        f"{_DATASET}/dev-v2.0.json",
        "80a5225e94905956a6446d296ca1093975c4d3b3260f1d6c8f68bc2ab77182d8",
    ),
}


class DownloadError(Exception):
    """The file could not be fetched, or is not the one that it should be."""


class SquadFile(click.Path):
    """An option's value that becomes a Path: of a file that is there, or a name of OFFICIAL."""

    def __init__(self) -> None:
        super().__init__(exists=True, dir_okay=False, path_type=Path)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if value not in OFFICIAL:
            return super().convert(value, param, ctx)
        if ctx and ctx.resilient_parsing:  # a shell completes another option
            return Path(value)
        try:
            return cached(OFFICIAL[value])
        except DownloadError as error:
            raise click.ClickException(str(error)) from error


def cached(official: OfficialFile) -> Path:
    """The file in the user's cache; fetched where it is not there yet. Raises DownloadError."""
    try:
        cache = user_cache()
        path = cache / Path(official.url).name
        if path.is_file() and sha256_of(path) == official.sha256:
            return path
        cache.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as unfinished:
            unfinished.write_bytes(fetch(official))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        raise DownloadError(f"{official.url} can't be kept in the cache: {error}") from error
    return path


def fetch(official: OfficialFile) -> bytes:
    """The file's content. Raises DownloadError where it can't be fetched or is another one."""
    try:
        with urllib.request.urlopen(official.url, timeout=TIMEOUT_S) as response:
            content: bytes = response.read()
    except (OSError, HTTPException) as error:
        raise DownloadError(f"{official.url} can't be fetched: {error}") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != official.sha256:
        raise DownloadError(
            f"{official.url} has the sha256 {actual[:12]}…, expected {official.sha256[:12]}…"
        )
    return content
