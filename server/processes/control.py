"""What the supervisor and its processes say to each other: JSON over a pair of sockets."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Awaitable, Callable, Mapping
from itertools import count
from socket import socket
from typing import Any

from ..errors import ReloadError, RequestError
from .wire import Peer

ENDED = "the process ended"

# Takes what is told, and gives what is answered where it was asked.
Handler = Callable[[Any], Any | Awaitable[Any]]


class Control:
    """One end. handlers: by the name of what is told or asked; errors of theirs that are
    RequestErrors are the asker's ReloadErrors."""

    def __init__(self, handlers: Mapping[str, Handler]) -> None:
        self._handlers = handlers
        self._peer = Peer(self._received, on_end=self._ended)
        self._numbers = count()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._answering: set[asyncio.Task[None]] = set()

    async def open(self, end: socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: self._peer, sock=end)

    def tell(self, what: str, value: Any = None) -> None:
        self._peer.send(json.dumps({"what": what, "value": value}).encode())

    async def ask(self, what: str) -> Any:
        """Raises ReloadError, also where the other process ends meanwhile."""
        if not self._peer.is_open:
            raise ReloadError(ENDED)
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._peer.send(json.dumps({"what": what, "number": number}).encode())
        try:
            return await self._asked[number]
        finally:
            del self._asked[number]

    def close(self) -> None:
        """What was told before goes out first."""
        self._peer.close()

    def _received(self, raw: bytes) -> None:
        said = json.loads(raw)
        if "what" in said:
            task = asyncio.ensure_future(self._handle(said))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
            return
        asked = self._asked.get(said["number"])
        if asked is None or asked.done():
            return
        if "error" in said:
            asked.set_exception(ReloadError(said["error"]))
        else:
            asked.set_result(said["value"])

    async def _handle(self, said: dict[str, Any]) -> None:
        answer = {"number": said.get("number")}
        try:
            value = self._handlers[said["what"]](said.get("value"))
            answer["value"] = await value if inspect.isawaitable(value) else value
        except RequestError as error:
            answer["error"] = str(error)
        except Exception:
            answer["error"] = "it failed; the server's log has the reason"
        if "number" in said:
            self._peer.send(json.dumps(answer).encode())

    def _ended(self) -> None:
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ReloadError(ENDED))
