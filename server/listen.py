"""Where a server listens."""

from __future__ import annotations

from collections.abc import Callable

from .errors import StartError


def listen(add_port: Callable[[str], int], address: str) -> str:
    """Open it with `add_port`; the address with the real port. Raises StartError."""
    try:
        port = add_port(address)
    except RuntimeError as error:
        raise StartError(f"can't listen on {address}: in use, or not an address here") from error
    if address.startswith(("unix:", "unix-abstract:")):
        return address
    return f"{address.rpartition(':')[0]}:{port}"
