"""Which format a file has, and what reads and writes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, Protocol

from .csv_files import Csv, read_csv
from .json_lines import JsonLines, columns_of, read_json_lines
from .lines import Encoding, LinesWriter
from .rows import FileError, Names, Row, Source
from .squad_files import read_squad_rows

INPUTS = ("jsonl", "csv", "parquet", "squad")
OUTPUTS = ("jsonl", "csv", "parquet")
SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
    ".json": "squad",
}
# These are read from their end, or as a whole.
NO_STREAM = ("parquet", "squad")


class Writer(Protocol):
    """rows, errors: how many are written, those of a run that was cut off among them."""

    rows: int
    errors: int

    def write(self, row: Row, added: Mapping[str, Any], *, failed: bool) -> None:
        """failed: the row has an error."""

    def close(self) -> None:
        """Before the end: what is written stays, for another run to go on with."""

    def finish(self, target: Path) -> None:
        """All rows are written: the output gets its name."""


def format_of(path: Path | None, chosen: str | None, option: str, formats: tuple[str, ...]) -> str:
    """path: None for standard input or output. Raises FileError."""
    if chosen is None:
        chosen = "jsonl" if path is None else SUFFIXES.get(path.suffix.lower())
    if chosen not in formats:
        raise FileError(f"--{option}-format must say what {path} is: one of {', '.join(formats)}")
    return chosen


def read(
    path: Path | None, file: BinaryIO, format_: str, names: Names, output_format: str
) -> Source:
    """path: None for what can be read only once, from `file`. Raises FileError."""
    if path is None:
        if format_ in NO_STREAM:
            raise FileError(f"a {format_} input must be a file, and no stream")
        if format_ == "jsonl" and output_format != "jsonl":
            raise FileError(
                f"JSON lines from a stream become JSON lines: for {output_format} all columns must "
                "be known before the first row"
            )
    size = None if path is None else path.stat().st_size
    if format_ == "csv":
        return read_csv(file, "the input" if path is None else path.name, names, size)
    if path is None or format_ == "jsonl":
        lines = read_json_lines(file, names, size)
        if path is None or output_format == "jsonl":
            return lines
        return Source(lines.rows, columns_of(path, names), size)
    if format_ == "squad":
        return read_squad_rows(path, names)
    source: Source = _parquet().read_parquet(path, names, as_parquet=output_format == "parquet")
    return source


def to_stream(file: BinaryIO, format_: str, source: Source, names: Names) -> Writer:
    """Raises FileError."""
    if format_ == "parquet":
        raise FileError("a parquet output must be a file, and no stream")
    return LinesWriter.to_stream(file, _encoding(format_, source, names))


def going_on(folder: Path, format_: str, source: Source, names: Names) -> Writer:
    """After what is in the folder already. Raises FileError."""
    if format_ == "parquet":
        writer: Writer = _parquet().ParquetWriter(folder, source.columns or {}, names)
        return writer
    return LinesWriter.going_on(folder / f"rows.{format_}", _encoding(format_, source, names))


def _encoding(format_: str, source: Source, names: Names) -> Encoding:
    if format_ == "csv":
        return Csv([*(source.columns or {}), *names.added])
    return JsonLines(names)


def _parquet() -> ModuleType:
    """Raises FileError where pyarrow is missing."""
    try:
        from . import parquet_files
    except ModuleNotFoundError as error:
        raise FileError(f"Parquet needs {error.name}: pip install 'electra-qa[parquet]'") from error
    return parquet_files
