"""Files that are read whole, and nothing else that a path may stand for."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Of a file with certificates, tokens or settings: far more than any holds.
MAX_TEXT_BYTES = 2**20


@contextmanager
def open_regular(path: Path) -> Iterator[io.BufferedReader]:
    """A regular file, to be read. A FIFO or a device, which might never end, is not waited for.

    Raises OSError.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "Not a regular file")
        yield file


def _open_at_once(path: str, flags: int) -> int:
    """Opening a FIFO blocks until somebody writes to it, but for this flag."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Where to write a file, which is at `path` once the block has ended well: what a killed
    process leaves has another name. Raises OSError."""
    unfinished = path.with_suffix(".unfinished")
    yield unfinished
    unfinished.replace(path)


def read_regular(path: Path, max_bytes: int) -> bytes:
    """The content of a regular file. Raises OSError, also where it is larger than `max_bytes`."""
    with open_regular(path) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise OSError(errno.EFBIG, f"Larger than {max_bytes} bytes")
    return content
