"""What is there of an output that is not whole yet: a folder beside it, OUTPUT.partial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from electra_qa.files import written_whole

from .rows import FileError

# An output is gone on with only if all of this is as it was.
RUN = "run.json"


@contextmanager
def partial_folder(output: Path, run: Mapping[str, Any]) -> Iterator[Path]:
    """The folder, new or with what the same run wrote before it was cut off.

    run: what the output depends on, as JSON has it. "input" is None for one that can't be read
        again: what such a run wrote is not gone on with.

    Raises FileError where the output is there already, or another run is or was at it.
    """
    folder = output.with_name(f"{output.name}.partial")
    lock = FileLock(folder / "lock")
    try:
        if output.exists():
            raise FileError(f"{output} is there already: remove it, or choose another --output")
        folder.mkdir(exist_ok=True)
        with lock.acquire(blocking=False):
            _check(folder, run)
            yield folder
    except Timeout:
        raise FileError(f"{folder} is in use: another process writes {output}") from None


def _check(folder: Path, run: Mapping[str, Any]) -> None:
    path = folder / RUN
    if path.is_file():
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:  # the machine went down before it was on the disk
            before = {}
        others = sorted(key for key in run | before if run.get(key) != before.get(key))
        if run["input"] is None:
            others = ["input"]
        if others:
            raise FileError(
                f"{folder} is what another run wrote: it had another {', '.join(others)}. Go on "
                f"with that one, or remove the folder, or choose another --output"
            )
        return
    with written_whole(path) as unfinished:
        unfinished.write_text(json.dumps(run, indent=2, sort_keys=True), encoding="utf-8")


def remove(folder: Path) -> None:
    """Once the output is there under its own name, or nothing of it at all."""
    shutil.rmtree(folder, ignore_errors=True)
