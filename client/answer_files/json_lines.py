"""JSON lines: an object a row."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from .lines import Record
from .rows import Names, Row, Source, bad_row, check_columns, row_of

# Of a row: far more than a server takes. A file without ends of lines is not read whole.
MOST_BYTES = 64 * 2**20

INT64 = range(-(2**63), 2**63)


def read_json_lines(file: BinaryIO, names: Names, size: int | None) -> Source:
    """Blank lines are no rows."""
    return Source(_rows(file, names), None, size)


def columns_of(path: Path, names: Names) -> dict[str, type]:
    """All columns of a file's rows, with the types that hold their values; `object` for a mixture.

    Raises FileError where one is named like an added one.
    """
    columns: dict[str, type | None] = {}
    with path.open("rb") as file:
        for row in _rows(file, names):
            for name, value in row.values.items():
                columns[name] = _common(columns.get(name), value)
    check_columns(columns, names, path.name, asked=False)
    return {name: kind or str for name, kind in columns.items()}


def _common(kind: type | None, value: Any) -> type | None:
    """kind: of the values before; None where there were none."""
    if value is None:
        return kind
    other = type(value)
    if other in (list, dict) or (other is int and value not in INT64):
        return object
    if kind is None or kind is other:
        return other
    return float if {kind, other} == {int, float} else object


def _rows(file: BinaryIO, names: Names) -> Iterator[Row]:
    position = 0
    while line := file.readline(MOST_BYTES):
        first, too_long = not position, False
        position += len(line)
        while len(line) == MOST_BYTES and not line.endswith(b"\n"):
            too_long = True
            line = file.readline(MOST_BYTES)
            position += len(line)
        if too_long:
            yield bad_row(f"the line has more than {MOST_BYTES} bytes", position)
        elif not line.isspace():
            yield _row(line.removeprefix(b"\xef\xbb\xbf") if first else line, names, position)


def _row(line: bytes, names: Names, position: int) -> Row:
    try:
        values = json.loads(line.decode(), parse_constant=_no_number, parse_float=_finite)
    except UnicodeDecodeError as error:
        return bad_row(f"the line is not UTF-8 (byte {error.start})", position)
    except (ValueError, RecursionError) as error:
        return bad_row(f"the line is not JSON: {error}", position)
    if not isinstance(values, dict):
        return bad_row(f"the line must be a JSON object, got {type(values).__name__}", position)
    if b"\\u" in line and (replaced := _without_surrogates(values)) is not None:
        return bad_row("the line has a lone surrogate, which is not text", position, replaced)
    if twice := values.keys() & names.added.keys():
        return bad_row(
            f"the line has the key {min(twice)} itself: choose a --prefix for what is added",
            position,
            {name: value for name, value in values.items() if name not in twice},
        )
    return row_of(values, values.get(names.question), values.get(names.context), names, position)


def _without_surrogates(values: Any) -> Any:
    """None where there are none."""
    text = json.dumps(values, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.loads(text.encode(errors="replace"))
    return None


def _no_number(name: str) -> float:
    raise ValueError(f"it has {name}")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:20]} is too large")
    return number


class JsonLines:
    """As `lines.Encoding` wants it."""

    header = b""

    def __init__(self, names: Names) -> None:
        self._no_error = f'"{names.error}": null}}\n'.encode()

    def encode(self, values: Mapping[str, Any]) -> bytes:
        return json.dumps(values, ensure_ascii=False).encode() + b"\n"

    def records(self, file: BinaryIO) -> Iterator[Record]:
        end = 0
        for line in file:
            if not line.endswith(b"\n"):
                return
            end += len(line)
            yield Record(end, not line.endswith(self._no_error))
