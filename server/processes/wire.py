"""Messages over a Unix socket: each is its length, and then its bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from struct import Struct
from typing import cast

_LENGTH = Struct("<I")


class Peer(asyncio.Protocol):
    """One end. Make one inside a running event loop.

    on_message: called with each message. on_open: called when it is connected. on_end: called when
        the other end has gone.
    """

    def __init__(
        self,
        on_message: Callable[[bytes], None],
        on_open: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_message = on_message
        self._on_open = on_open
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiting: list[bytes] = []
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True
        self._on_open()

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at, end = 0, len(received)
        while end - at >= _LENGTH.size:
            first = at + _LENGTH.size
            last = first + _LENGTH.unpack_from(received, at)[0]
            if last > end:
                break
            self._on_message(bytes(memoryview(received)[first:last]))
            at = last
        if at:
            del received[:at]

    def connection_lost(self, _: Exception | None) -> None:
        self.is_open = False
        self._waiting.clear()
        self._on_end()

    def send(self, message: bytes) -> None:
        """What is sent in one turn of the event loop goes in one piece. Where the other end has
        gone it goes nowhere."""
        if not self.is_open:
            return
        if not self._waiting:
            self._loop.call_soon(self._flush)
        self._waiting += (_LENGTH.pack(len(message)), message)

    def _flush(self) -> None:
        if self._waiting and self._transport is not None:
            self._transport.write(b"".join(self._waiting))
            self._waiting.clear()

    def close(self) -> None:
        """What was sent before goes out first."""
        self._flush()
        if self._transport is not None:
            self._transport.close()
