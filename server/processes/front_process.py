"""A process that speaks gRPC, tokenizes and merges, for engines in other processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from electra_qa.bundle import BundleError

from ..errors import StartError
from ..front.health import Health
from ..front.models import Models
from ..lifecycle import SERVICES, listening
from ..observe.metrics import Metrics
from ..observe.tracing import start_tracing
from ..security.access import make_security
from ..settings import ServerSettings
from .remote import Engines


@asynccontextmanager
async def front_end(
    engines: Sequence[str],
    metrics: Metrics,
    settings: ServerSettings,
    on_end: Callable[[], None] = lambda: None,
    on_ready: Callable[[Models, bool], None] = lambda *_: None,
) -> AsyncIterator[str]:
    """A gRPC server inside the block, on a port that others of its kind share; gives its address.

    engines: the Unix sockets of engines, which it waits for.
    on_end: as that of `lifecycle.started`. on_ready: told whether it is ready, when that may have
        changed.

    Leaving the block drains it, as `lifecycle.running` does. Raises StartError.
    """
    readiness = Health(SERVICES)

    async def tell_health() -> None:
        works = models.current.works
        await readiness.set_ready(works)
        on_ready(models, works)

    async with AsyncExitStack() as stack:
        security = make_security(settings, metrics)
        tracing = start_tracing()
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        behind = Engines(engines)
        await stack.enter_async_context(behind.connected())
        try:
            parts = await behind.first()
        except (BundleError, ValueError) as error:
            raise StartError(str(error)) from error
        models = Models(parts, None, settings, metrics, tracing, tell_health)
        stack.push_async_callback(models.close)
        following = asyncio.create_task(behind.follow(models.change))
        stack.callback(following.cancel)
        address = await stack.enter_async_context(
            listening(models, readiness, security, tracing, metrics, settings, on_end, shared=True)
        )
        await tell_health()
        yield address
