"""A front end's end of the sockets: engines of other processes, and the models that they have."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from electra_qa.bundle import Bundle, Manifest
from electra_qa.tokenization import Tokenizer

from ..engine.backend import Backend
from ..engine.batcher import Outcome, WindowRequest, check_room
from ..errors import NoEngineError
from ..front.model import OnChange
from ..observe.metrics import Metrics
from ..settings import ServerSettings
from ..threads import on_own_thread
from . import messages
from .messages import Announced, Queue
from .wire import Peer

log = logging.getLogger(__name__)

# Between two tries to connect to an engine that is not there, in seconds.
AGAIN_S = 0.1

NO_ENGINE = "the engine's process ended, and is started again; try again"


class Line:
    """A connection to an engine's process, which ends with it.

    on_model: called with each model that the engine has put into force. on_change: called whenever
        a model's `works` has changed, or the line has ended.
    """

    def __init__(
        self,
        name: str,
        on_model: Callable[[Line, Announced], None],
        on_change: Callable[[], None],
    ) -> None:
        self.name = name
        self.ended = asyncio.Event()
        self._on_model = on_model
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self.peer = Peer(self._received, on_end=self._on_end)
        self._numbers = count()
        self._waiting: dict[int, _Waiting] = {}
        self._works: dict[int, bool] = {}
        self._queues: dict[int, Queue] = {}
        # Of the windows under way, over all models.
        self._tokens = 0

    def works(self, generation: int) -> bool:
        return self.peer.is_open and self._works.get(generation, False)

    def queue(self, generation: int) -> Queue:
        """As it was told last."""
        return self._queues.get(generation, Queue())

    @property
    def load(self) -> int:
        """Tokens that wait for the engine, or are on their way there and back."""
        return self._tokens + sum(queue.queued_tokens for queue in self._queues.values())

    def submit(
        self, generation: int, requests: Sequence[WindowRequest], deadline: float | None
    ) -> asyncio.Future[list[Outcome]]:
        number = next(self._numbers)
        tokens = sum(window.length for request in requests for window in request.windows)
        waiting = _Waiting(generation, self._loop.create_future(), tokens)
        self._waiting[number] = waiting
        self._tokens += tokens
        waiting.future.add_done_callback(lambda future: self._done(number, future.cancelled()))
        self.peer.send(messages.pack_call(generation, number, deadline, requests))
        return waiting.future

    def _done(self, number: int, cancelled: bool) -> None:
        waiting = self._waiting.pop(number)
        self._tokens -= waiting.tokens
        if cancelled:
            self.peer.send(messages.pack_of_call(messages.CANCEL, waiting.generation, number))

    def release(self, generation: int) -> None:
        """Nothing comes of this model any more."""
        self._works.pop(generation, None)
        self._queues.pop(generation, None)
        self.peer.send(messages.pack_of_call(messages.RELEASE, generation))

    def _received(self, raw: bytes) -> None:
        match raw[0]:
            case messages.ANSWER:
                answer = messages.unpack_answer(raw)
                if answer.generation in self._queues:
                    self._queues[answer.generation] = answer.queue
                if (waiting := self._open(answer.number)) is not None:
                    waiting.future.set_result(answer.outcomes)
            case messages.REFUSAL:
                number, error = messages.unpack_refusal(raw)
                if (waiting := self._open(number)) is not None:
                    waiting.future.set_exception(error)
            case messages.STATUS:
                generation, works, queue = messages.unpack_status(raw)
                if generation not in self._queues:  # released meanwhile
                    return
                changed = self._works.get(generation) != works
                self._works[generation], self._queues[generation] = works, queue
                if changed:
                    self._on_change()
            case messages.MODEL:
                model = messages.unpack_model(raw)
                self._queues[model.generation] = Queue()
                self._on_model(self, model)

    def _open(self, number: int) -> _Waiting | None:
        """A call that nobody has cancelled."""
        waiting = self._waiting.get(number)
        return None if waiting is None or waiting.future.done() else waiting

    def _on_end(self) -> None:
        for waiting in tuple(self._waiting.values()):
            if not waiting.future.done():
                waiting.future.set_exception(NoEngineError(NO_ENGINE))
        self.ended.set()
        self._on_change()


@dataclass(frozen=True, slots=True)
class _Waiting:
    """For an answer."""

    generation: int
    future: asyncio.Future[list[Outcome]]
    tokens: int


@dataclass(eq=False, slots=True)
class RemoteParts:
    """Of a model that engines of other processes have. lines: with their generation of it."""

    bundle: Bundle
    tokenizer: Tokenizer
    device: str
    lines: dict[Line, int]
    on_change: list[OnChange] = field(default_factory=list)

    def backend(self, settings: ServerSettings, metrics: Metrics, on_change: OnChange) -> Backend:
        self.on_change.append(on_change)
        return RemoteBackend(self.device, self.lines, settings.max_queue_tokens, metrics)

    def close(self) -> None:
        for line, generation in self.lines.items():
            line.release(generation)


class RemoteBackend:
    """The least loaded of the engines has the call."""

    def __init__(
        self, device: str, lines: dict[Line, int], max_queue_tokens: int, metrics: Metrics
    ) -> None:
        self.device = device
        self._lines = lines
        self._max_queue_tokens = max_queue_tokens
        self._metrics = metrics

    @property
    def works(self) -> bool:
        return any(line.works(generation) for line, generation in self._lines.items())

    def check_room(self) -> None:
        line = self._line()
        queue = line.queue(self._lines[line])
        check_room(queue.queued_tokens, self._max_queue_tokens, queue, self._metrics)

    def submit(
        self, requests: Sequence[WindowRequest], deadline: float | None = None
    ) -> asyncio.Future[list[Outcome]]:
        line = self._line()
        return line.submit(self._lines[line], requests, deadline)

    def _line(self) -> Line:
        """Raises NoEngineError."""
        there = [line for line in self._lines if line.peer.is_open]
        if not there:
            raise NoEngineError(NO_ENGINE)
        if len(there) == 1:
            return there[0]
        # Of those that fail on everything, which are soon the least loaded, only where all do.
        return min(there, key=lambda line: (not line.works(self._lines[line]), line.load))

    async def close(self) -> None:
        for line, generation in self._lines.items():
            line.release(generation)
        self._lines.clear()


class Engines:
    """Connects to the engines at these Unix sockets, again where one has ended.

    A model comes into force once all engines that are there have it: until then the one before it
    serves, which they have too.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self._lines: set[Line] = set()
        # What engines have put into force and this front end has not yet.
        self._pending: dict[Line, Announced] = {}
        self._in_force: RemoteParts | None = None
        self._changed = asyncio.Event()
        self._telling: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Inside the block."""
        tasks = [asyncio.create_task(self._keep_connected(path)) for path in self._paths]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for line in tuple(self._lines):
                line.peer.close()

    async def first(self) -> RemoteParts:
        """The model in force, once there is one. Raises BundleError or ValueError."""
        while (parts := await self._agreed()) is None:
            await self._wait()
        self._in_force = parts
        return parts

    async def follow(self, change: Callable[[RemoteParts], Awaitable[None]]) -> None:
        """Call `change` with each model that comes into force from now on, until cancelled."""
        while True:
            await self._wait()
            try:
                while (parts := await self._agreed()) is not None:
                    await self._change(parts, change)
            except Exception:
                log.exception("a model can't be put into force")

    async def _change(
        self, parts: RemoteParts, change: Callable[[RemoteParts], Awaitable[None]]
    ) -> None:
        before, self._in_force = self._in_force, parts
        try:
            await change(parts)
        except Exception:
            self._in_force = before
            parts.close()
            raise

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _keep_connected(self, path: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            line = Line(os.path.basename(path), self._announced, self._tell)  # noqa: PTH119
            with suppress(OSError):
                await loop.create_unix_connection(partial(_same, line.peer), path)
                self._lines.add(line)
                self._changed.set()
                await line.ended.wait()
                self._forget(line)
            await asyncio.sleep(AGAIN_S)

    def _forget(self, line: Line) -> None:
        self._lines.discard(line)
        self._pending.pop(line, None)
        if self._in_force is not None:
            self._in_force.lines.pop(line, None)
        self._changed.set()

    def _announced(self, line: Line, model: Announced) -> None:
        parts = self._in_force
        if parts is not None and model.sha256 == parts.bundle.sha256 and line not in parts.lines:
            parts.lines[line] = model.generation  # it is back
            return
        if (before := self._pending.get(line)) is not None:
            line.release(before.generation)
        self._pending[line] = model
        if len(self._lines) > 1:
            version = model.sha256[:12]
            log.info("%s has model %s, which waits until all engines have it", line.name, version)
        self._changed.set()

    def _tell(self) -> None:
        """Whether the model in force works may have changed."""
        if self._in_force is None:
            return
        for on_change in self._in_force.on_change:
            telling = asyncio.ensure_future(on_change())
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)

    async def _agreed(self) -> RemoteParts | None:
        """What all engines that are there have and this front end has not. Raises BundleError or
        ValueError, and lets go of it."""
        lines = [line for line in self._lines if line.peer.is_open]
        models = [self._pending[line] for line in lines if line in self._pending]
        if not models or len(models) < len(lines) or len({one.sha256 for one in models}) > 1:
            return None
        for line in lines:
            del self._pending[line]
        held = {line: one.generation for line, one in zip(lines, models, strict=True)}
        try:
            return await on_own_thread(_parts, models[0], held)
        except Exception:
            for line, generation in held.items():
                line.release(generation)
            raise


def _same(peer: Peer) -> Peer:
    return peer


def _parts(model: Announced, lines: dict[Line, int]) -> RemoteParts:
    """Raises BundleError or ValueError."""
    manifest = Manifest.from_json(model.manifest)
    # Of the files themselves nothing is asked here.
    bundle = Bundle(Path(os.devnull), manifest, model.sha256)
    tokenizer = Tokenizer(model.tokenizer, manifest.special_tokens)
    return RemoteParts(bundle, tokenizer, model.device, lines)
