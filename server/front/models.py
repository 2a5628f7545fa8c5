"""The model in force, and how another takes its place."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from electra_qa.bundle import Bundle, BundleError
from electra_qa.engines import Engine, EngineError
from electra_qa.tokenization import Tokenizer

from ..engine.warm_up import parse_lengths, warm_up
from ..errors import SHUTTING_DOWN, ReloadError
from ..observe.metrics import RELOAD_FAILED, RELOADED, Metrics
from ..observe.tracing import Tracing
from ..settings import ServerSettings
from ..threads import OwnThread, on_own_thread
from .model import EngineParts, Model, OnChange, Parts
from .tokenizer_trial import try_tokenizer

log = logging.getLogger(__name__)

Load = Callable[[], tuple[Bundle, Engine]]

# How long the end of a server waits for a reload under way and for the engine's last batch, in
# seconds.
CLOSE_TIMEOUT_S = 5.0


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
        on_change: OnChange,
    ) -> None:
        self._load = load
        self._settings = settings
        self._metrics = metrics
        self._tracing = tracing
        self._on_change = on_change
        self._changing = asyncio.Lock()
        self._next: asyncio.Task[str] | None = None
        self._closing = False
        self._retiring: set[asyncio.Task[None]] = set()
        self.current = self._made(parts)
        metrics.model_changed(parts.bundle, self.current.device)

    def reload(self) -> asyncio.Task[str]:
        """Load the bundle anew and put it into force; gives its version. Raises ReloadError.

        The model before it serves until the new one is warm, and is freed when its last call is
        done; then the task ends. Where one is under way, another follows it, since the folder may
        have changed after it was read: all who ask meanwhile share that one. What takes longer
        than `reload_timeout_s` is given up, so that none waits for ever.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._reload())
            self._next.add_done_callback(_retrieve)  # who asked for it may have gone
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
        parts = await self._loaded()
        old = self.current
        try:
            if self._closing:
                raise ReloadError(SHUTTING_DOWN)
            retiring = self._put_in_force(parts)
        except Exception:
            await on_own_thread(parts.close)
            raise
        await self._on_change()
        limit = self._settings.reload_timeout_s
        if not (await asyncio.wait([retiring], timeout=limit))[0]:
            log.warning("model %s is not freed after %g s (reload_timeout_s)", old.version, limit)

    async def change(self, parts: Parts) -> None:
        """Put what is ready into force; the model before it is freed when its last call is done."""
        self._put_in_force(parts)
        await self._on_change()

    def _put_in_force(self, parts: Parts) -> asyncio.Task[None]:
        """Gives what ends when the model before is freed."""
        old, self.current = self.current, self._made(parts)
        self._metrics.model_changed(self.current.bundle, self.current.device)
        log.info("model %s is in force, %s finishes its calls", self.current.version, old.version)
        retiring = asyncio.create_task(self._retire(old))
        self._retiring.add(retiring)
        retiring.add_done_callback(self._retiring.discard)
        return retiring

    async def _retire(self, old: Model) -> None:
        await old.retire()
        log.info("model %s is freed", old.version)

    async def _loaded(self) -> EngineParts:
        """Raises ReloadError."""
        limit = self._settings.reload_timeout_s
        loading = asyncio.create_task(on_own_thread(self._prepare))
        if (await asyncio.wait([loading], timeout=limit))[0]:
            return loading.result()
        loading.add_done_callback(_drop)
        raise ReloadError(f"the reload took longer than {limit:g} s (reload_timeout_s)")

    def _made(self, parts: Parts) -> Model:
        return Model(parts, self._settings, self._metrics, self._tracing, self._on_change)

    def _prepare(self) -> EngineParts:
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
            return warmed_up(bundle, engine, self._settings)
        except Exception as error:
            raise ReloadError("the bundle does not pass its warm-up") from error

    async def close(self) -> None:
        """Wait for a reload that is under way, and free the model in force; both together for at
        most `CLOSE_TIMEOUT_S`."""
        self._closing = True
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                async with self._changing:
                    await self.current.retire()
        except TimeoutError:
            log.warning(
                "a reload or a batch did not end within %g s: it is left where it is",
                CLOSE_TIMEOUT_S,
            )


def _retrieve(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _drop(loading: asyncio.Task[EngineParts]) -> None:
    """Of a load that was given up: free what it may bring after all."""
    if not loading.cancelled() and loading.exception() is None:
        OwnThread(target=loading.result().close, daemon=True).start()


def warmed_up(bundle: Bundle, engine: Engine, settings: ServerSettings) -> EngineParts:
    """What a model is made of, tried and ready. Raises ValueError and EngineError, and closes the
    engine then."""
    try:
        content = bundle.read_tokenizer()
        try_tokenizer(content)
        parts = EngineParts(bundle, engine, Tokenizer(content, bundle.manifest.special_tokens))
        warm_up(engine, parts.tokenizer, warm_up_lengths(settings, bundle))
    except BaseException:
        engine.close()
        raise
    return parts


def warm_up_lengths(settings: ServerSettings, bundle: Bundle) -> list[int]:
    """Raises ValueError where they are not for this bundle."""
    return parse_lengths(settings.warm_up_lengths, bundle.manifest.max_seq_length)
