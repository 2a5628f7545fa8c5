"""A name server that knows one name or none (RFC 1035), for gRPC's dns://127.0.0.1:PORT/NAME."""

from __future__ import annotations

import socket
import struct
import threading
from types import TracebackType
from typing import Self

NO_SUCH_NAME = 3
A = 1
# Of a response to a query for an address, recursion desired and available.
RESPONSE = 0x8180
HEADER = 12


class NameServer:
    """known: every name is 127.0.0.1; else there is none."""

    def __init__(self) -> None:
        self.known = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, sender = self._socket.recvfrom(512)
            if not query:
                return
            end = query.index(0, HEADER) + 5
            (kind,) = struct.unpack(">H", query[end - 4 : end - 2])
            answers = int(self.known and kind == A)
            code = RESPONSE if self.known else RESPONSE | NO_SUCH_NAME
            header = query[:2] + struct.pack(">HHHHH", code, 1, answers, 0, 0)
            answer = struct.pack(">HHHIH", 0xC000 | HEADER, A, 1, 1, 4) + b"\x7f\0\0\1"
            self._socket.sendto(header + query[HEADER:end] + answer * answers, sender)
