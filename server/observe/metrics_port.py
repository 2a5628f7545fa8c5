"""/metrics over HTTP, with a bound on what callers can make of it."""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from socketserver import ThreadingMixIn
from threading import Lock, Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from ..errors import StartError

# At a time, each on a thread of its own. One that comes when there are so many ends the oldest:
# requests that stall keep nobody out.
MAX_REQUESTS = 16
# Without a byte, in seconds.
TIMEOUT_S = 5.0


class _Handler(WSGIRequestHandler):
    timeout = TIMEOUT_S

    def log_message(self, *_: object) -> None:
        """Nothing: a scrape every few seconds."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, *args: Any) -> None:
        self._open: OrderedDict[socket.socket, None] = OrderedDict()
        self._lock = Lock()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAX_REQUESTS:
                oldest, _ = self._open.popitem(last=False)
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)  # its thread sees the end of it
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, *_: object) -> None:
        """Nothing: a caller that went away, or stalled."""


@contextmanager
def exposed(registry: CollectorRegistry, address: str | None) -> Iterator[None]:
    """Serve /metrics at HOST:PORT inside the block; None for nowhere. Raises StartError."""
    if address is None:
        yield
        return
    host, _, port = address.rpartition(":")
    try:
        # IPv6 in brackets, as in every other address of a server.
        host = host.removeprefix("[").removesuffix("]")
        family, *_, where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0]
        _Server.address_family = family
        server = _Server((where[0], int(port)), _Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise StartError(f"can't serve metrics at {address}: {error}") from error
    server.set_app(make_wsgi_app(registry))
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
