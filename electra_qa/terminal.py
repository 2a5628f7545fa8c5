"""What a command writes, on any terminal."""

from __future__ import annotations

import io
import json
import sys
from typing import Any


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
