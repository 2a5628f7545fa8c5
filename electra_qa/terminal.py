"""What a command writes, on any terminal."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import suppress
from typing import Any

# What an error of it names, like that of a file.
STANDARD_OUTPUT = "standard output"


class _StandardOutput(io.FileIO):
    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            error.filename = STANDARD_OUTPUT
            _let_go_of_standard_output()
            raise


def name_standard_output() -> None:
    """From now on its errors are known by their `filename`."""
    try:
        file = _StandardOutput(sys.stdout.fileno(), "wb", closefd=False)
    except (AttributeError, OSError, ValueError):  # there is none, or it is no file
        return
    sys.stdout.flush()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(file),
        encoding=sys.stdout.encoding,
        errors=sys.stdout.errors,
        line_buffering=sys.stdout.isatty() or sys.stdout.write_through,
    )


def _let_go_of_standard_output() -> None:
    """What Python holds of it would be written once more at the end, and fail once more: with an
    exit code and a text of its own."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def tolerate_any_encoding() -> None:
    """Write what an ASCII or Latin-1 terminal has no character for as an escape, like \\u2026."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def as_json(value: Any) -> str:
    """On one line, in letters that standard output has; the escapes are JSON's own."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return json.dumps(value)
    return text
