"""The model in force, and how another takes its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from electra_qa.bundle import Bundle, BundleError
from electra_qa.engines import Engine, EngineError
from electra_qa.tokenization import Tokenizer

from .errors import SHUTTING_DOWN, ReloadError
from .metrics import RELOAD_FAILED, RELOADED, Metrics
from .model import Model, Parts
from .settings import ServerSettings
from .tracing import Tracing
from .warm_up import parse_lengths, warm_up

log = logging.getLogger(__name__)

Load = Callable[[], tuple[Bundle, Engine]]


class Models:
    """Make one inside a running event loop, and `close` it there.

    parts: of the first model.
    load: makes the bundle and its engine anew, on a thread of its own. Raises BundleError or
        EngineError. None where there is nothing to load.
    on_change: called whenever `current` or whether it works has changed.
    """

    def __init__(
        self,
        parts: Parts,
        load: Load | None,
        settings: ServerSettings,
        metrics: Metrics,
        tracing: Tracing | None,
        on_change: Callable[[], Awaitable[None]],
    ) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._on_change = on_change
        self._changing = asyncio.Lock()
        self._next: asyncio.Task[str] | None = None
        self._closing = False
        self.current = self._made(parts)
        metrics.model_changed(parts.bundle, parts.engine.device)

    def reload(self) -> asyncio.Task[str]:
        """Load the bundle anew and put it into force; gives its version. Raises ReloadError.

        The model before it serves until the new one is warm, and is freed when its last call is
        done; then the task ends. Where one is under way, another follows it, since the folder may
        have changed after it was read: all who ask meanwhile share that one.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._reload())
        return self._next

    async def _reload(self) -> str:
        async with self._changing:
            self._next = None
            try:
                await self._change()
            except Exception as error:
                self._metrics.reloads.labels(RELOAD_FAILED).inc()
                cause = error.__cause__ or error
                foreseen = isinstance(cause, BundleError | EngineError | ReloadError | ValueError)
                log.error(
                    "the reload failed, model %s goes on: %s",
                    self.current.version,
                    cause,
                    exc_info=None if foreseen else cause,
                )
                raise
            self._metrics.reloads.labels(RELOADED).inc()
            return self.current.version

    async def _change(self) -> None:
        log.info("reloading the bundle")
        parts = await asyncio.to_thread(self._prepare)
        try:
            if self._closing:
                raise ReloadError(SHUTTING_DOWN)
            new = self._made(parts)
        except Exception:
            await asyncio.to_thread(parts.engine.close)
            raise
        old, self.current = self.current, new
        self._metrics.model_changed(new.bundle, new.device)
        await self._on_change()
        log.info("model %s is in force, %s finishes its calls", new.version, old.version)
        await old.retire()
        log.info("model %s is freed", old.version)

    def _made(self, parts: Parts) -> Model:
        return Model(parts, self._settings, self._metrics, self._tracing, self._on_change)

    def _prepare(self) -> Parts:
        """Raises ReloadError: its message goes over the wire, its cause only into the log."""
        if self._closing:
            raise ReloadError(SHUTTING_DOWN)
        if self._load is None:
            raise ReloadError("this server has nothing to load a bundle from")
        try:
            bundle, engine = self._load()
        except BundleError as error:
            raise ReloadError("the bundle is missing, damaged, or not of this version") from error
        except EngineError as error:
            raise ReloadError("no engine can be made of the bundle") from error
        except Exception as error:
            raise ReloadError("the bundle can't be loaded") from error
        try:
            parts = Parts(bundle, engine, read_tokenizer(bundle))
            warm_up(engine, parts.tokenizer, warm_up_lengths(self._settings, bundle))
        except Exception as error:
            engine.close()
            raise ReloadError("the bundle does not pass its warm-up") from error
        return parts

    async def close(self) -> None:
        """Wait for a reload that is under way, and free the model in force."""
        self._closing = True
        async with self._changing:
            await self.current.retire()


def read_tokenizer(bundle: Bundle) -> Tokenizer:
    """Raises ValueError where it is none."""
    return Tokenizer(
        bundle.tokenizer_path.read_text(encoding="utf-8"), bundle.manifest.special_tokens
    )


def warm_up_lengths(settings: ServerSettings, bundle: Bundle) -> list[int]:
    """Raises ValueError where they are not for this bundle."""
    return parse_lengths(settings.warm_up_lengths, bundle.manifest.max_seq_length)
