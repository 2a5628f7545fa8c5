"""CSV with a header, as RFC 4180 has it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from .lines import Record
from .rows import FileError, Names, Row, Source, bad_row, check_columns, row_of, text_of

# Of a field. One whose quote is never closed goes on to here.
MOST_CHARACTERS = 2**24


def read_csv(file: BinaryIO, file_name: str, names: Names, size: int | None) -> Source:
    """Blank lines are no rows. Raises FileError."""
    csv.field_size_limit(MOST_CHARACTERS)
    counted = _Lines(file)
    reader = csv.reader(counted)
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise FileError(f"{file_name} is not CSV: {error}") from error
    if header is None:
        raise FileError(f"{file_name} is empty: there is no header")
    header = [_replaced(name) for name in header]
    check_columns(header, names, file_name)
    rows = _rows(reader, counted, header, names)
    return Source(rows, dict.fromkeys(header, str), size)


class _Lines:
    """Lines as texts; what is no UTF-8 is in them as surrogates.

    position: how many bytes were read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            text = line.decode("utf-8", "surrogateescape")
            yield text if self.position else text.removeprefix("\ufeff")
            self.position += len(line)


def _rows(
    reader: Iterator[list[str]], lines: _Lines, header: Sequence[str], names: Names
) -> Iterator[Row]:
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield bad_row(f"the row is not CSV: {error}", lines.position)
            continue
        if fields is None:
            return
        if fields:
            yield _row(fields, header, names, lines.position)


def _row(fields: list[str], header: Sequence[str], names: Names, position: int) -> Row:
    replaced = [_replaced(field) for field in fields]
    values = dict(zip(header, replaced, strict=False))
    if replaced != fields:
        return bad_row("the row is not UTF-8", position, values)
    if len(fields) != len(header):
        error = f"the row has {len(fields)} fields, and the header {len(header)}"
        return bad_row(error, position, values)
    return row_of(values, values[names.question], values[names.context], names, position)


def _replaced(text: str) -> str:
    if text.isascii():
        return text
    return text.encode(errors="replace").decode()


class Csv:
    """As `lines.Encoding` wants it. columns: in their order."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = columns
        self._buffer = io.StringIO(newline="")
        self._writer = csv.writer(self._buffer)
        self.header = self._encode(columns)

    def encode(self, values: Mapping[str, Any]) -> bytes:
        return self._encode([text_of(values.get(name)) for name in self._columns])

    def _encode(self, fields: Sequence[str]) -> bytes:
        self._writer.writerow(fields)
        written = self._buffer.getvalue().encode()
        self._buffer.seek(0)
        self._buffer.truncate()
        return written

    def records(self, file: BinaryIO) -> Iterator[Record]:
        end, quoted = len(self.header), False
        for line in file:
            end += len(line)
            # A quote in a field is written twice, so that an odd one opens or closes it.
            quoted ^= line.count(b'"') % 2 == 1
            if line.endswith(b"\r\n") and not quoted:
                # No error is an empty last field; none ends with a comma, but in quotes.
                yield Record(end, not line.endswith(b",\r\n"))
