"""A file of questions, through a server, to a file of answers."""

from __future__ import annotations

import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from electra_qa.bundle import sha256_of

from ..errors import ElectraQAError
from ..messages import Options
from .asking import Asked, answered
from .formats import Writer, going_on, read, to_stream
from .interrupts import interrupts
from .partial import partial_folder, remove
from .progress import Shown, shown
from .rows import FileError, Names, Source, answer_values


@dataclass(frozen=True, slots=True)
class Job:
    """input, output: None for standard input and output."""

    input: Path | None
    input_format: str
    output: Path | None
    output_format: str
    names: Names
    options: Options


@dataclass(frozen=True, slots=True)
class Done:
    """Of the whole output; rows_before: those that an earlier run wrote.

    first_error: of this run; None where it had none.
    """

    rows: int
    errors: int
    rows_before: int
    seconds: float
    first_error: str | None


class CutOffError(Exception):
    """The run ended before its input. rows: that are written. again: whether the same command goes
    on after them."""

    def __init__(self, message: str, rows: int, *, again: bool) -> None:
        super().__init__(message)
        self.rows = rows
        self.again = again


def run(job: Job, client: Asked, stdin: BinaryIO, stdout: BinaryIO, *, retry_for: float) -> Done:
    """Raises FileError, CutOffError, and an ElectraQAError where no row is written yet.

    retry_for: how long a server may be away, in seconds.
    """
    path = job.input if job.input is not None and _is_regular(job.input) else None
    with _opened(job.input, stdin) as file:
        source = read(path, file, job.input_format, job.names, job.output_format)
        if job.output is None:
            writer = to_stream(stdout, job.output_format, source, job.names)
            return _write_all(job, client, source, writer, retry_for, again=False)
        with partial_folder(job.output, _identity(job, path, client)) as folder:
            writer = going_on(folder, job.output_format, source, job.names)
            try:
                again = path is not None
                done = _write_all(job, client, source, writer, retry_for, again=again)
                writer.finish(job.output)
            finally:
                if job.output.exists() or not writer.rows:
                    remove(folder)
    return done


def _write_all(
    job: Job, client: Asked, source: Source, writer: Writer, retry_for: float, *, again: bool
) -> Done:
    before = writer.rows
    first_error = None
    position = 0
    for row in islice(source.rows, before):
        position = row.position
    began = time.monotonic()
    try:
        with shown(source.size, before, position) as progress, interrupts() as check:
            pauses = _Pauses(progress, check)
            rows = answered(client, source.rows, job.options, retry_for, pauses.tell)
            for row, outcome in rows:
                pauses.over()
                added = answer_values(row, outcome, job.names)
                error = added[job.names.error]
                writer.write(row, added, failed=error is not None)
                if first_error is None and error is not None:
                    first_error = f"row {writer.rows}: {error}"
                progress.update(writer.rows, row.position)
                check()
    except BaseException as error:
        writer.close()
        if writer.rows and isinstance(error, (ElectraQAError, KeyboardInterrupt)):
            message = str(error) or "interrupted"
            raise CutOffError(message, writer.rows, again=again) from error
        raise
    if job.output is None:
        writer.close()
    seconds = time.monotonic() - began
    return Done(writer.rows, writer.errors, before, seconds, first_error)


class _Pauses:
    """Says when the server goes away, and when it is back. check: raises KeyboardInterrupt."""

    def __init__(self, progress: Shown, check: Callable[[], None]) -> None:
        self._progress = progress
        self._check = check
        self._away = False

    def tell(self, failure: ElectraQAError) -> None:
        self._check()
        if not self._away:
            self._progress.say(f"the server does not answer, and is asked again: {failure}")
        self._away = True

    def over(self) -> None:
        if self._away:
            self._progress.say("the server answers again")
        self._away = False


def _identity(job: Job, path: Path | None, client: Asked) -> dict[str, object]:
    """What every row of the output depends on."""
    return {
        "input": None if path is None else sha256_of(path),
        "input format": job.input_format,
        "output format": job.output_format,
        "columns": asdict(job.names) | {"added": list(job.names.added)},
        "options": dict(job.options),
        "model": client.info().bundle.sha256,
    }


def _is_regular(path: Path) -> bool:
    """A FIFO can be read only once."""
    return stat.S_ISREG(path.stat().st_mode)


@contextmanager
def _opened(path: Path | None, stdin: BinaryIO) -> Iterator[BinaryIO]:
    if path is None:
        yield stdin
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise FileError(f"{path} can't be read: {error.strerror}") from error
    with file:
        yield file
