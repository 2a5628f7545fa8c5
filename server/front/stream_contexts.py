"""The context of a stream's question, where it is that of the question before."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from electra_qa.rpc import electra_qa_pb2 as pb

from ..errors import InvalidRequestError


class StreamContexts:
    """Of one stream. Its questions are worked on side by side, and read in their order."""

    def __init__(self) -> None:
        self._last: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._last.set_result(None)

    def turn(self) -> Turn:
        """Of the next question; to be asked for in their order."""
        before, self._last = self._last, asyncio.get_running_loop().create_future()
        return Turn(before, self._last)


class Turn:
    """A question's place in the stream. Leaving the block lets the one behind it go on, with the
    context that this one had, or with that of the one before where this one had none."""

    def __init__(self, before: asyncio.Future[str | None], own: asyncio.Future[str | None]) -> None:
        self._before = before
        self._own = own

    async def context(self, request: pb.AnswerStreamRequest) -> str:
        """Of this question: one string for all that share it, however many are under way.

        Raises InvalidRequestError where there is none before.
        """
        context: str | None = request.request.context
        if request.same_context:
            if context:
                raise InvalidRequestError("context must be empty with same_context")
            context = await self._before
            if context is None:
                raise InvalidRequestError("same_context: no message before has a context")
        self._own.set_result(context)
        return context or ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._own.done():
            self._before.add_done_callback(self._pass_on)

    def _pass_on(self, before: asyncio.Future[str | None]) -> None:
        if not before.cancelled() and not self._own.done():
            self._own.set_result(before.result())
