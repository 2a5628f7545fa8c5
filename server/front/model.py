"""A bundle in service, with everything that belongs to it and goes with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Self

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.tokenization import Tokenizer

from ..engine.batcher import Batcher
from ..engine.check import EngineCheck
from ..observe.metrics import Metrics
from ..observe.tracing import Tracing
from ..settings import ServerSettings
from ..threads import on_own_thread
from .answerer import Answerer
from .options import QuestionOptions, parse_options


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model is made of. The engine was made of the bundle, and the model closes it."""

    bundle: Bundle
    engine: Engine
    tokenizer: Tokenizer


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
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        """on_change: called whenever `works` has changed."""
        self.bundle = parts.bundle
        self.version = parts.bundle.version
        self.device = parts.engine.device
        self._engine = parts.engine
        self._settings = settings
        self._default_options = self._parsed(pb.Options())
        self._check = EngineCheck(parts.engine, parts.tokenizer, on_change)
        self._batcher = Batcher(
            parts.engine,
            pad_id=parts.tokenizer.pad_id,
            max_queue_tokens=settings.max_queue_tokens,
            metrics=metrics,
            on_failure=self._check.start,
        )
        self.answerer = Answerer(
            parts.tokenizer, self._batcher, parts.bundle.manifest, settings, metrics, tracing
        )
        self._open_calls = 0
        self._retired = False
        self._idle = asyncio.Event()

    @property
    def works(self) -> bool:
        """False while the engine fails on everything."""
        return self._check.works

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
        await self._check.close()
        # On a thread: the batch of a call that was cancelled may still be under way.
        await on_own_thread(self._close)

    def _close(self) -> None:
        self.answerer.close()
        self._batcher.close()
        self._engine.close()
