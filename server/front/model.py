"""A bundle in service, with everything that belongs to it and goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, Self

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.tokenization import Tokenizer

from ..engine.backend import Backend, EngineBackend
from ..observe.metrics import Metrics
from ..observe.tracing import Tracing
from ..settings import ServerSettings
from .answerer import Answerer
from .options import QuestionOptions, parse_options

OnChange = Callable[[], Awaitable[None]]


class Parts(Protocol):
    """What a model is made of."""

    @property
    def bundle(self) -> Bundle:
        """Whose manifest and sums are asked for, and none of its files."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Of the bundle."""

    def backend(self, settings: ServerSettings, metrics: Metrics, on_change: OnChange) -> Backend:
        """Made once, inside a running event loop; the model closes it.

        on_change: called whenever whether it works has changed.
        """

    def close(self) -> None:
        """Where no backend was made of them."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """Of an engine in this process, which was made of the bundle."""

    bundle: Bundle
    engine: Engine
    tokenizer: Tokenizer

    def backend(self, settings: ServerSettings, metrics: Metrics, on_change: OnChange) -> Backend:
        return EngineBackend(self.engine, self.tokenizer, settings, metrics, on_change)

    def close(self) -> None:
        self.engine.close()


class Model:
    """Make one inside a running event loop, and `retire` it there.

    A call enters the model that it begins with, and has the answer, the options and the version of
    that one:

        with models.current as model:
            answered = await model.answerer.answer(…, model.options(options), …)
    """

    def __init__(
        self,
        parts: Parts,
        settings: ServerSettings,
        metrics: Metrics,
        tracing: Tracing | None,
        on_change: OnChange,
    ) -> None:
        """on_change: called whenever `works` has changed."""
        self.bundle = parts.bundle
        self.tokenizer = parts.tokenizer
        self.version = parts.bundle.version
        self._settings = settings
        self._default_options = self._parsed(pb.Options())
        self.backend = parts.backend(settings, metrics, on_change)
        self.device = self.backend.device
        self.answerer = Answerer(
            parts.tokenizer, self.backend, parts.bundle.manifest, settings, metrics, tracing
        )
        self._open_calls = 0
        self._retired = False
        self._idle = asyncio.Event()

    @property
    def works(self) -> bool:
        """False while the engine fails on everything."""
        return self.backend.works

    def options(self, options: pb.Options | None) -> QuestionOptions:
        """With the bundle's defaults filled in. Raises InvalidRequestError."""
        if options is None:
            return self._default_options
        return self._parsed(options)

    def _parsed(self, options: pb.Options) -> QuestionOptions:
        return parse_options(options, self.bundle.manifest, self._settings)

    def __enter__(self) -> Self:
        self._open_calls += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._open_calls -= 1
        if self._retired and not self._open_calls:
            self._idle.set()

    async def retire(self) -> None:
        """Free everything once the last call has left. None may enter any more."""
        self._retired = True
        if self._open_calls:
            await self._idle.wait()
        self.answerer.close()
        await self.backend.close()
