"""Where a server of a test can listen."""

from __future__ import annotations

import socket


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def free_address() -> str:
    return f"127.0.0.1:{free_port()}"
