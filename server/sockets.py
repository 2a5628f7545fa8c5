"""A Unix socket's path belongs to one server: gRPC would take it from another one in silence."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import StartError


@contextmanager
def claimed(address: str) -> Iterator[None]:
    """Hold an address of the form unix:PATH inside the block; any other is not held.

    Raises StartError where another server holds it, or somebody listens there.
    """
    if not address.startswith("unix:"):
        yield
        return
    path = Path(address.removeprefix("unix:"))
    lock = path.with_name(f"{path.name}.lock")
    try:
        descriptor = _locked(lock)
    except OSError as error:
        raise StartError(f"can't listen on {address}: {lock.name}: {error.strerror}") from error
    try:
        if descriptor is None or _is_listened_to(path):
            raise StartError(f"can't listen on {address}: another server does")
        yield
        # While it is held: who opened it meanwhile sees that it is gone, see _locked.
        lock.unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(lock: Path) -> int | None:
    """None where another process has it. Raises OSError."""
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if lock.exists() and os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it in between


def _is_listened_to(path: Path) -> bool:
    """By a program that knows nothing of the lock."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True  # somebody's, who is busy
        except OSError:
            return False
        return True
