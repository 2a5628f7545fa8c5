"""A process with a bundle, its engine and the batcher, for front ends in other processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine

from ..front.model import EngineParts
from ..front.models import Load, Models
from ..lifecycle import prepared, try_and_warm_up
from ..observe.metrics import Metrics
from ..settings import ServerSettings
from .endpoint import Endpoint


@asynccontextmanager
async def engine_at(
    path: str,
    bundle: Bundle,
    engine: Engine,
    metrics: Metrics,
    settings: ServerSettings,
    load: Load | None,
) -> AsyncIterator[Models]:
    """An engine for front ends that connect to the Unix socket `path`, warm inside the block.

    They may connect while it warms up, and are told when it is done. Closes the engine. Raises
    StartError.
    """
    is_warm = False

    async def tell() -> None:
        await endpoint.changed()

    with ExitStack() as at_failure:
        at_failure.callback(engine.close)
        lengths, content, tokenizer = prepared(bundle, settings)
        parts = EngineParts(bundle, engine, tokenizer)
        models = Models(parts, load, settings, metrics, None, tell)
        at_failure.pop_all()
    endpoint = Endpoint(lambda: models.current, lambda: is_warm)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(models.close)
        await stack.enter_async_context(endpoint.listening(path))
        with models.current:
            await try_and_warm_up(engine, tokenizer, content, lengths)
        is_warm = True
        await endpoint.changed()
        yield models
