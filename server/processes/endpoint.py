"""The engine's end of the sockets: front ends bring windows, and have them back decoded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from ..engine.backend import EngineBackend
from ..engine.batcher import Outcome
from ..errors import RequestError
from ..front.handlers import INTERNAL_ERROR
from ..front.model import Model
from . import messages
from .messages import Announced, Call, Queue
from .wire import Peer

log = logging.getLogger(__name__)

# How often front ends are told how much waits, where it has changed.
STATUS_S = 0.05


class Endpoint:
    """What front ends are told of an engine's models.

    is_warm: whether the first model is. A front end that was told of a model is in it until it
    lets go, as a call is: so a reload waits for them.
    """

    def __init__(self, current: Callable[[], Model], is_warm: Callable[[], bool]) -> None:
        self._current = current
        self._is_warm = is_warm
        self._fronts: set[_Front] = set()
        self._announced: tuple[Model, bytes] | None = None
        self._generation = 0

    @property
    def generation(self) -> int:
        """Of the model in force."""
        return self._generation

    async def changed(self) -> None:
        """Which model is in force, or whether one works."""
        for front in self._fronts:
            front.announce()
            front.tell()

    def announcement(self) -> tuple[Model, bytes]:
        current = self._current()
        if self._announced is None or self._announced[0] is not current:
            self._generation += 1
            bundle = current.bundle
            announced = Announced(
                self._generation,
                current.device,
                bundle.sha256,
                bundle.manifest.to_json(),
                current.tokenizer.serialized,
            )
            self._announced = current, messages.pack_model(announced)
        return self._announced

    def works(self, model: Model) -> bool:
        return self._is_warm() and model.works

    @asynccontextmanager
    async def listening(self, path: str) -> AsyncIterator[None]:
        """At the Unix socket `path` inside the block."""
        server = await asyncio.get_running_loop().create_unix_server(self._connected, path)
        telling = asyncio.create_task(self._tell())
        try:
            yield
        finally:
            telling.cancel()
            server.close()
            for front in tuple(self._fronts):
                front.close()

    def _connected(self) -> Peer:
        front = _Front(self, self._fronts.discard)
        self._fronts.add(front)
        return front.peer

    async def _tell(self) -> None:
        while True:
            await asyncio.sleep(STATUS_S)
            for front in self._fronts:
                front.tell()


class _Front:
    """One front end that is connected."""

    def __init__(self, endpoint: Endpoint, on_end: Callable[[_Front], None]) -> None:
        self._endpoint = endpoint
        self._on_end = on_end
        self.peer = Peer(self._received, self._opened, self._ended)
        self._held: dict[int, Model] = {}
        self._calls: dict[int, asyncio.Future[list[Outcome]]] = {}
        self._told: dict[int, bytes] = {}

    def _opened(self) -> None:
        self.announce()
        self.tell()

    def announce(self) -> None:
        """The model in force, once."""
        if not self.peer.is_open:
            return
        model, message = self._endpoint.announcement()
        generation = self._endpoint.generation
        if generation not in self._held:
            self._held[generation] = model.__enter__()
            self.peer.send(message)

    def tell(self) -> None:
        """How the models are that it holds, where that has changed."""
        for generation, model in self._held.items():
            message = messages.pack_status(generation, self._endpoint.works(model), _queue(model))
            if self._told.get(generation) != message:
                self._told[generation] = message
                self.peer.send(message)

    def close(self) -> None:
        self.peer.close()

    def _received(self, raw: bytes) -> None:
        match raw[0]:
            case messages.CALL:
                self._call(messages.unpack_call(raw))
            case messages.CANCEL:
                _, number = messages.unpack_of_call(raw)
                if (called := self._calls.get(number)) is not None:
                    called.cancel()
            case messages.RELEASE:
                generation, _ = messages.unpack_of_call(raw)
                self._told.pop(generation, None)
                if (model := self._held.pop(generation, None)) is not None:
                    model.__exit__()

    def _call(self, call: Call) -> None:
        model = self._held[call.generation]
        try:
            future = _backend(model).submit(call.requests, call.deadline)
        except Exception as error:
            self._refuse(call, error)
            return
        self._calls[call.number] = future
        future.add_done_callback(partial(self._done, call, model))

    def _done(self, call: Call, model: Model, future: asyncio.Future[list[Outcome]]) -> None:
        del self._calls[call.number]
        if future.cancelled() or not self.peer.is_open:
            if not future.cancelled():
                future.exception()
            return
        if (error := future.exception()) is not None:
            self._refuse(call, error)
            return
        self.peer.send(messages.pack_answer(call, future.result(), _queue(model)))

    def _refuse(self, call: Call, error: BaseException) -> None:
        if not isinstance(error, RequestError):
            log.error("a call failed", exc_info=error)
            error = RequestError(INTERNAL_ERROR)
        self.peer.send(messages.pack_refusal(call.generation, call.number, error))

    def _ended(self) -> None:
        self._on_end(self)
        for future in tuple(self._calls.values()):
            future.cancel()
        for model in self._held.values():
            model.__exit__()
        self._held.clear()


def _queue(model: Model) -> Queue:
    backend = _backend(model)
    return Queue(backend.queued_tokens, backend.queue_s)


def _backend(model: Model) -> EngineBackend:
    assert isinstance(model.backend, EngineBackend)
    return model.backend
