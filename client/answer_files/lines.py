"""Rows that are appended to a file, and found again in one whose writer was killed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from .rows import Row

# How much work is lost where the process is killed.
FLUSH_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Record:
    """A whole row in a file. end: where the next one begins, in bytes. failed: it has an error."""

    end: int
    failed: bool


class Encoding(Protocol):
    """How rows are written. header: before the first."""

    header: bytes

    def encode(self, values: Mapping[str, Any]) -> bytes: ...

    def records(self, file: BinaryIO) -> Iterator[Record]:
        """The whole rows in a file of this encoding, which is read from after the header."""
        ...


class LinesWriter:
    """Writes to a file, or to what is no file: a pipe, a terminal.

    rows, errors: how many are written.
    """

    def __init__(self, file: BinaryIO, encoding: Encoding) -> None:
        self._file = file
        self._encoding = encoding
        self._flushed = time.monotonic()
        self.rows = self.errors = 0

    @classmethod
    def to_stream(cls, file: BinaryIO, encoding: Encoding) -> LinesWriter:
        file.write(encoding.header)
        return cls(file, encoding)

    @classmethod
    def going_on(cls, path: Path, encoding: Encoding) -> LinesWriter:
        """After the last whole row of a file, which is made where there is none."""
        path.touch()
        file = path.open("r+b")
        writer = cls(file, encoding)
        end = len(encoding.header)
        if file.read(end) == encoding.header:
            for record in encoding.records(file):
                end = record.end
                writer.rows += 1
                writer.errors += record.failed
        else:
            file.seek(0)
            file.write(encoding.header)
        file.seek(end)
        file.truncate()
        return writer

    def write(self, row: Row, added: Mapping[str, Any], *, failed: bool) -> None:
        self._file.write(self._encoding.encode({**row.values, **added}))
        self.rows += 1
        self.errors += failed
        now = time.monotonic()
        if now - self._flushed > FLUSH_EVERY_S:
            self._file.flush()
            self._flushed = now

    def close(self) -> None:
        self._file.flush()

    def finish(self, target: Path) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        Path(self._file.name).replace(target)
