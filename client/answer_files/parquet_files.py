"""Parquet: batches in, part files out that are joined at the end."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from electra_qa.files import written_whole

from .rows import FileError, Names, Row, Source, check_columns, row_of, text_of

# Rows, and bytes of a column, that are read at a time: a file may be a single row group.
READ_ROWS, READ_BYTES = 1024, 2**20
# Rows of a part, and how long their texts are, at most: what is in memory, and what is lost where
# the process is killed.
PART_ROWS, PART_CHARACTERS = 1000, 2**24
# Parts of a row group: the rows in it don't depend on how often the run was cut off.
GROUP_PARTS = 16

TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def read_parquet(path: Path, names: Names, *, as_parquet: bool) -> Source:
    """as_parquet: keep pyarrow's own values, for another Parquet file; else as JSON has them.

    Raises FileError.
    """
    try:
        file = pq.ParquetFile(path, buffer_size=READ_BYTES, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{path.name} is not a Parquet file: {error}") from error
    schema = file.schema_arrow
    check_columns(schema.names, names, path.name)
    for name in (names.question, names.context):
        if not _is_text(schema.field(name).type):
            raise FileError(f"{path.name}: {name} is of type {schema.field(name).type}, no text")
    rows = _rows(file, path.name, names, _scalars if as_parquet else _as_json)
    return Source(rows, {field.name: field for field in schema}, file.metadata.num_rows)


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return kind in (pa.string(), pa.large_string(), pa.string_view())


def _rows(
    file: Any, file_name: str, names: Names, values_of: Callable[[Any], list[Any]]
) -> Iterator[Row]:
    position = 0
    columns = file.schema_arrow.names
    try:
        for batch in file.iter_batches(READ_ROWS):
            questions, contexts = (_texts(batch[name]) for name in (names.question, names.context))
            values = zip(*map(values_of, batch.columns), strict=True)
            for question, context, row in zip(questions, contexts, values, strict=True):
                position += 1
                passed = dict(zip(columns, row, strict=True))
                yield row_of(passed, question, context, names, position)
    except (pa.ArrowException, OSError) as error:
        raise FileError(f"{file_name} is damaged after row {position}: {error}") from error


def _scalars(column: Any) -> list[Any]:
    return [scalar if scalar.is_valid else None for scalar in column]


def _texts(column: Any) -> list[str | None]:
    """What is not UTF-8, which Parquet's writers should see to, has surrogates."""
    try:
        texts: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        return [_text(scalar) for scalar in column]
    return texts


def _text(scalar: Any) -> str | None:
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    raw: bytes = scalar.as_buffer().to_pybytes()
    return raw.decode(errors="surrogateescape")


def _as_json(column: Any) -> list[Any]:
    kind = column.type
    if pa.types.is_temporal(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.string())  # in all digits
    elif _is_text(kind):
        return [text and text.encode(errors="replace").decode() for text in _texts(column)]
    return [_plain(value) for value in column.to_pylist()]


def _plain(value: Any) -> Any:
    """JSON has no other numbers than finite ones, no dates, and no bytes."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if value is None or isinstance(value, (str, int)):
        return value
    return value.isoformat() if isinstance(value, (datetime.date, datetime.time)) else str(value)


class ParquetWriter:
    """Writes parts into a folder, each of them whole or not there, and joins them at the end.

    rows, errors: how many are written.
    """

    def __init__(self, folder: Path, columns: Mapping[str, Any], names: Names) -> None:
        self._folder = folder
        fields = [
            kind if isinstance(kind, pa.Field) else pa.field(name, TYPES.get(kind, pa.string()))
            for name, kind in (*columns.items(), *names.added.items())
        ]
        self._schema = pa.schema(fields)
        self._mixed = {name for name, kind in columns.items() if kind is object}
        self._kept: list[Mapping[str, Any]] = []
        self._characters = 0
        self._parts = 0
        self.rows = self.errors = 0
        while (path := self._part(self._parts)).is_file():
            read = pq.read_table(path, columns=[names.error], partitioning=None)
            self.rows += len(read)
            self.errors += len(read) - read[names.error].null_count
            self._parts += 1

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number:06}.parquet"

    def write(self, row: Row, added: Mapping[str, Any], *, failed: bool) -> None:
        self._kept.append({**row.values, **added})
        self._characters += len(row.question) + len(row.context)
        self.errors += failed
        self.rows += 1
        if len(self._kept) == PART_ROWS or self._characters >= PART_CHARACTERS:
            self._write_part()

    def _write_part(self) -> None:
        arrays = [self._array(field) for field in self._schema]
        with written_whole(self._part(self._parts)) as unfinished:
            pq.write_table(pa.Table.from_arrays(arrays, schema=self._schema), unfinished)
        self._kept, self._characters = [], 0
        self._parts += 1

    def _array(self, field: Any) -> Any:
        values: Sequence[Any] = [row.get(field.name) for row in self._kept]
        if field.name in self._mixed:
            values = [None if value is None else text_of(value) for value in values]
        elif pa.types.is_float64(field.type):
            # pyarrow takes no integer that a float does not hold to the last digit.
            values = [float(value) if isinstance(value, int) else value for value in values]
        return pa.array(values, field.type)

    def close(self) -> None:
        """Drops the rows of the part that is not full: with them in a part of their own, the
        output would not be the one of a run that was not cut off."""
        self.rows -= len(self._kept)
        self._kept = []

    def finish(self, target: Path) -> None:
        """The parts as one file by this name."""
        if self._kept:
            self._write_part()
        joined = self._folder / "joined.unfinished"
        with pq.ParquetWriter(joined, self._schema) as writer:
            for first in range(0, self._parts, GROUP_PARTS):
                parts = range(first, min(first + GROUP_PARTS, self._parts))
                tables = [pq.read_table(self._part(n), partitioning=None) for n in parts]
                table = pa.concat_tables(tables)
                writer.write_table(table, row_group_size=len(table))
        joined.replace(target)
