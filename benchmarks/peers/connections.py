"""As much of an HTTP/1.1 client as takes little from the cores that the servers need."""

from __future__ import annotations

import asyncio

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class HttpConnections:
    """Connections to one server, kept open between requests."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._free: list[Connection] = []

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a JSON body.

        Raises OSError or asyncio.IncompleteReadError where the connection does not last, and
        KeyError for an answer without a length.
        """
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        message = head.encode() + body
        while self._free:
            # A server may have closed a connection that was idle; then nothing of this was read.
            try:
                return await self._exchange(self._free.pop(), message)
            except (OSError, asyncio.IncompleteReadError):
                continue
        return await self._exchange(await asyncio.open_connection(self._host, self._port), message)

    async def _exchange(self, connection: Connection, message: bytes) -> tuple[int, bytes]:
        reader, writer = connection
        try:
            writer.write(message)
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines if line)
            body = await reader.readexactly(int(headers["content-length"]))
        except BaseException:
            writer.close()
            raise
        if headers.get("connection") == "close":
            writer.close()
        else:
            self._free.append(connection)
        return int(status_line.split(" ", 2)[1]), body

    def drop(self) -> None:
        """Close what is not in use."""
        for _, writer in self._free:
            writer.close()
        self._free.clear()
