"""One question about many documents: read piece by piece, and the best answers kept.

What a call holds are the pieces under way and the best answers so far, however many documents come.
Only a caller who wants no more than the most promising ones read has all of them held.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

from electra_qa.rpc import electra_qa_pb2 as pb

from ..errors import InvalidRequestError, OverloadedError, RequestError
from ..settings import ServerSettings
from .best_answers import BestAnswers, Document
from .calls import Calls
from .handlers import parse, parsed
from .merging import Answered
from .model import Model
from .options import QuestionOptions

# Of one piece, which goes to the engine at once: so many documents, and characters of them.
PIECE_DOCUMENTS, PIECE_CHARACTERS = 64, 100_000
# Enough of them that the engine has windows of all lengths to choose from.
PIECES = 4
# Documents are numbered by a uint32.
MOST_DOCUMENTS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the first message says. options: their top_k is of one document."""

    question: str
    options: QuestionOptions
    top_k: int
    no_answer: bool
    read_top: int | None


async def answer_documents(
    raws: AsyncIterator[bytes],
    model: Model,
    calls: Calls,
    settings: ServerSettings,
    deadline: float | None,
) -> pb.AnswerDocumentsResponse:
    """deadline: by the event loop's clock, in seconds. Raises a RequestError."""
    messages = _messages(raws)
    first = await anext(messages, None)
    if first is None:
        raise InvalidRequestError("the call ended without a message")
    asked = _asked(first.content, model, settings)
    best = BestAnswers(
        asked.options.decode, asked.top_k, asked.no_answer, settings.max_response_bytes
    )
    reading = _Reading(asked, model, best, deadline)
    with ExitStack() as held:
        held.enter_context(calls.holding(first.raw))
        keep = asked.read_top is not None
        most_bytes = settings.max_inflight_bytes if keep else None
        documents = _documents(first, messages, calls, held, best, most_bytes)
        if keep:
            documents = _promising([one async for one in documents], asked, model, deadline)
        await reading.read(documents)
    return best.response(model.version)


@dataclass(frozen=True, slots=True)
class _Message:
    """raw: as it came."""

    content: pb.AnswerDocumentsRequest
    raw: bytes


async def _messages(raws: AsyncIterator[bytes]) -> AsyncIterator[_Message]:
    """Raises InvalidRequestError."""
    async for raw in raws:
        yield _Message(await parsed(partial(parse, pb.AnswerDocumentsRequest), raw), raw)


def _asked(first: pb.AnswerDocumentsRequest, model: Model, settings: ServerSettings) -> _Asked:
    """Raises InvalidRequestError."""
    options = model.options(first.options if first.HasField("options") else None)
    top_k = options.decode.top_k
    of_one = first.answers_per_document if first.HasField("answers_per_document") else 1
    if not 1 <= of_one <= settings.max_top_k:
        raise InvalidRequestError(
            f"answers_per_document must be 1 to {settings.max_top_k} (max_top_k), got {of_one}"
        )
    read_top = first.read_top if first.HasField("read_top") else None
    if read_top == 0:
        raise InvalidRequestError("read_top must be at least 1, got 0")
    model.answerer.check_question(first.question)
    decode = dataclasses.replace(options.decode, top_k=min(of_one, top_k))
    return _Asked(
        first.question,
        dataclasses.replace(options, decode=decode),
        top_k,
        first.no_answer,
        read_top,
    )


async def _documents(
    first: _Message,
    messages: AsyncIterator[_Message],
    calls: Calls,
    held: ExitStack,
    best: BestAnswers,
    most_bytes: int | None,
) -> AsyncIterator[Document]:
    """Of all messages, in their order.

    most_bytes: that they may hold together, where they are kept until the call ends; None where
        each goes when it has been worked on.
    """
    index, size = 0, len(first.raw)
    message: _Message | None = first
    while message is not None:
        for document in message.content.documents:
            if index > MOST_DOCUMENTS:
                raise InvalidRequestError(f"a call has at most {MOST_DOCUMENTS} documents")
            best.came(1)
            yield Document(index, document.id, document.text)
            index += 1
        if most_bytes is None:
            held.close()
        message = await anext(messages, None)
        if message is not None:
            if message.content.question or message.content.HasField("options"):
                raise InvalidRequestError(
                    "question and options are of the first message; later ones have documents alone"
                )
            size += len(message.raw)
            if most_bytes is not None and size > most_bytes:
                # Not for want of room: it would be so each time.
                raise InvalidRequestError(
                    f"with read_top all documents are held: over {most_bytes} bytes of them "
                    "(max_inflight_bytes); give fewer, or leave read_top out"
                )
            await _hold(message, calls, held, waits=most_bytes is None)


async def _hold(message: _Message, calls: Calls, held: ExitStack, *, waits: bool) -> None:
    """waits: for room, where the call holds nothing that others could wait for; what it has done
    would be lost. Else raises OverloadedError."""
    while True:
        try:
            held.enter_context(calls.holding(message.raw))
            return
        except OverloadedError as error:
            if not waits or error.retry_delay_s is None:
                raise
            await asyncio.sleep(error.retry_delay_s)


async def _promising(
    documents: Sequence[Document],
    asked: _Asked,
    model: Model,
    deadline: float | None,
) -> AsyncIterator[Document]:
    """The `read_top` most promising ones."""
    assert asked.read_top is not None
    texts = [document.text for document in documents]
    for place in await model.answerer.most_promising(
        asked.question, texts, asked.read_top, deadline
    ):
        yield documents[place]


class _Reading:
    """Pieces on their way through the engine."""

    def __init__(
        self, asked: _Asked, model: Model, best: BestAnswers, deadline: float | None
    ) -> None:
        self._asked = asked
        self._model = model
        self._best = best
        self._deadline = deadline
        self._room = asyncio.Semaphore(PIECES)
        # Pieces that the engine has taken in, done or not.
        self._taken = 0

    async def read(self, documents: AsyncIterator[Document]) -> None:
        """Raises a RequestError."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for piece in _pieces(documents):
                    await self._room.acquire()
                    tasks.create_task(self._read_piece(piece))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    async def _read_piece(self, piece: Sequence[Document]) -> None:
        try:
            again = self._keep(piece, await self._answer(piece))
            for document in again:
                self._keep([document], await self._answer([document]))
        finally:
            self._room.release()

    async def _answer(self, piece: Sequence[Document]) -> list[Answered | RequestError]:
        """Waits while the server has no room: it took in what came before."""
        asked = self._asked
        texts = [document.text for document in piece]
        questions = [(asked.question, index) for index in range(len(piece))]
        while True:
            self._taken += 1
            try:
                return await self._model.answerer.answer_batch(
                    texts, questions, asked.options, self._deadline
                )
            except RequestError as error:
                self._taken -= 1
                if error.retry_delay_s is None or not self._taken:
                    raise
                await asyncio.sleep(error.retry_delay_s)

    def _keep(
        self, piece: Sequence[Document], answered: Sequence[Answered | RequestError]
    ) -> list[Document]:
        """Those that may be answered alone."""
        again = []
        for document, one in zip(piece, answered, strict=True):
            if isinstance(one, Answered):
                self._best.add(document, one)
            elif one.in_a_smaller_call and len(piece) > 1:
                again.append(document)
            else:
                self._best.failed(document, one)
        return again


async def _pieces(documents: AsyncIterator[Document]) -> AsyncIterator[list[Document]]:
    piece: list[Document] = []
    room = PIECE_CHARACTERS
    async for document in documents:
        if piece and (len(piece) == PIECE_DOCUMENTS or len(document.text) > room):
            yield piece
            piece, room = [], PIECE_CHARACTERS
        piece.append(document)
        room -= len(document.text)
    if piece:
        yield piece
