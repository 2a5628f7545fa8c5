"""Where a server that is measured can listen."""

from __future__ import annotations

import socket


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return f"127.0.0.1:{listening.getsockname()[1]}"
