"""A TCP proxy that goes wrong when it is told to: toxiproxy's kinds, as far as tests need them."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

PIECE = 65_536
# Closing resets the connection instead of ending it.
LINGER_0 = struct.pack("ii", 1, 0)


@dataclass(eq=False)
class Connection:
    """A client's, and the one to the server that goes with it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    silent: bool = False

    def reset(self) -> None:
        for side in (self.client, self.server):
            if side is not None:
                raw = side.get_extra_info("socket")
                if raw.fileno() >= 0 and raw.family != socket.AF_UNIX:
                    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_0)
                side.transport.abort()


class Proxy:
    """Between clients and `upstream` (HOST:PORT or unix:/PATH), on a thread of its own.

    address: where it listens.
    latency_s: how long every piece of data is held, either way.
    slow_close_s: how long the end of one side takes to reach the other.
    refusing: new connections are reset.
    taken: when each connection came, by `time.monotonic`.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.address = ""
        self.latency_s = 0.0
        self.slow_close_s = 0.0
        self.refusing = False
        self.taken: list[float] = []
        self._open: set[Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(starting, self._loop).result(10)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._do(self._server.close)
        self.cut()
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def silence(self) -> None:
        """The connections that are there carry nothing any more, and don't end; new ones work."""
        self._each(lambda connection: setattr(connection, "silent", True))

    def cut(self) -> None:
        """Reset the connections that are there."""
        self._each(Connection.reset)

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _each(self, change: Callable[[Connection], None]) -> None:
        self._do(lambda: [change(connection) for connection in list(self._open)])

    def _do(self, job: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (job(), done.set()))
        assert done.wait(10), "the proxy stands still"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.taken.append(time.monotonic())
        connection = Connection(writer)
        if self.refusing:
            connection.reset()
            return
        self._open.add(connection)
        try:
            if self.upstream.startswith("unix:"):
                opening = asyncio.open_unix_connection(self.upstream.removeprefix("unix:"))
            else:
                host, _, port = self.upstream.rpartition(":")
                opening = asyncio.open_connection(host, int(port))
            server_reader, connection.server = await opening
            await asyncio.gather(
                self._carry(connection, reader, connection.server),
                self._carry(connection, server_reader, writer),
            )
        except (OSError, asyncio.CancelledError):  # the latter where the proxy itself ends
            connection.reset()
        finally:
            self._open.discard(connection)
            for side in (connection.client, connection.server):
                if side is not None:
                    side.close()

    async def _carry(
        self, connection: Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter
    ) -> None:
        while piece := await source.read(PIECE):
            await asyncio.sleep(self.latency_s)
            if not connection.silent:
                target.write(piece)
                await target.drain()
        await asyncio.sleep(self.slow_close_s)
        if connection.silent:
            await asyncio.Event().wait()  # until the test ends
        target.close()
