"""The messages of a stream, worked on many at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from ..errors import SHUTTING_DOWN, ShuttingDownError
from .calls import END, Calls

Response = TypeVar("Response")


async def responses(
    raws: AsyncIterator[bytes],
    respond: Callable[[bytes], Coroutine[Any, Any, Response]],
    calls: Calls,
    *,
    limit: int,
    in_order: bool,
) -> AsyncGenerator[Response]:
    """What `respond` makes of each message: in the messages' order, or as soon as each is there.

    Reads on while at most `limit` are under way or wait to be taken. Raises ShuttingDownError,
    after the responses to what was read, where draining cut the reading short.
    """
    room = asyncio.Semaphore(limit)
    ready: asyncio.Queue[asyncio.Task[Response] | None] = asyncio.Queue()

    async def read_all() -> bool:
        try:
            async with asyncio.TaskGroup() as tasks:
                while (await room.acquire()) and not calls.draining:
                    raw = await calls.next_message(raws)
                    if not isinstance(raw, bytes):
                        return raw is END
                    task = tasks.create_task(respond(raw))
                    if in_order:
                        ready.put_nowait(task)
                    else:
                        task.add_done_callback(ready.put_nowait)
            return False
        finally:
            ready.put_nowait(None)

    reader = asyncio.create_task(read_all())
    try:
        while (task := await ready.get()) is not None:
            yield await task
            room.release()
        if not await reader:
            raise ShuttingDownError(SHUTTING_DOWN)
    finally:
        reader.cancel()
