"""Start a server, say when it is ready, and stop it without losing what it accepted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine
from electra_qa.tokenization import Tokenizer

from .admin import administered
from .channel_options import channel_options
from .engine.warm_up import warm_up
from .errors import StartError
from .front.calls import Calls
from .front.health import Health
from .front.model import EngineParts
from .front.models import Load, Models, warm_up_lengths
from .front.service import SERVICE, QuestionAnsweringService
from .front.tokenizer_trial import try_tokenizer
from .listen import listen
from .observe.metrics import Metrics
from .observe.metrics_port import exposed
from .observe.tracing import Tracing, start_tracing
from .open_inference.service import SERVICE as INFERENCE_SERVICE
from .open_inference.service import InferenceProtocolService
from .security.access import Security, make_security
from .security.watched import watch
from .settings import ServerSettings
from .sockets import claimed
from .threads import on_own_thread

log = logging.getLogger(__name__)

SERVICES = (SERVICE, INFERENCE_SERVICE)

COMPRESSION = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}

# After the last answer a health watcher may still hold its stream: it gets this long, in seconds.
LAST_GRACE_S = 1.0
GOODBYE_S = 0.1


@asynccontextmanager
async def running(
    bundle: Bundle, engine: Engine, settings: ServerSettings, load: Load | None = None
) -> AsyncIterator[str]:
    """A server that is up and healthy inside the block; gives its address, with the real port.

    load: what a reload serves from then on, see `Models`.

    Leaving the block drains it: health says NOT_SERVING, new calls are refused with UNAVAILABLE,
    accepted ones are finished, for at most `drain_timeout_s`. Closes the engine. Raises StartError.
    """
    async with started(bundle, engine, settings, load) as (address, _):
        yield address


@asynccontextmanager
async def started(
    bundle: Bundle,
    engine: Engine,
    settings: ServerSettings,
    load: Load | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> AsyncIterator[tuple[str, Models]]:
    """`running`, with the models that it serves. What was opened is closed, however it ends.

    on_end: called when gRPC's server has ended, which it may do by itself, after an error of its
        own.
    """
    metrics = Metrics()
    is_warm = False

    async def tell_health() -> None:
        await readiness.set_ready(is_warm and models.current.works)

    async with AsyncExitStack() as stack:
        with ExitStack() as at_failure:
            at_failure.callback(engine.close)
            lengths, content, tokenizer = prepared(bundle, settings)
            security = make_security(settings, metrics)
            tracing = start_tracing()
            parts = EngineParts(bundle, engine, tokenizer)
            models = Models(parts, load, settings, metrics, tracing, tell_health)
            at_failure.pop_all()  # from here on the models close it
        readiness = Health(SERVICES)
        if tracing is not None:
            stack.push_async_callback(asyncio.to_thread, tracing.close)
        stack.push_async_callback(models.close)
        stack.enter_context(exposed(metrics.registry, settings.metrics_address))
        await stack.enter_async_context(administered(models.reload, settings))
        address = await stack.enter_async_context(
            listening(models, readiness, security, tracing, metrics, settings, on_end)
        )
        with models.current:  # a reload meanwhile waits before it closes the engine
            await try_and_warm_up(engine, tokenizer, content, lengths)
        is_warm = True
        await tell_health()
        yield address, models


@asynccontextmanager
async def listening(
    models: Models,
    readiness: Health,
    security: Security,
    tracing: Tracing | None,
    metrics: Metrics,
    settings: ServerSettings,
    on_end: Callable[[], None],
    *,
    shared: bool = False,
) -> AsyncIterator[str]:
    """gRPC's server inside the block, which is not ready yet; gives its address. It drains when the
    block is left. Raises StartError.

    shared: with others, who listen on the same port.
    """
    calls = Calls(metrics, settings.max_inflight_bytes)
    service = QuestionAnsweringService(models, settings, calls)
    inference = InferenceProtocolService(models, settings, calls, readiness)
    server = grpc.aio.server(
        interceptors=(*(tracing.interceptors() if tracing else ()), *security.interceptors),
        options=channel_options(settings, shared=shared),
        compression=COMPRESSION[settings.compression],
    )
    server.add_generic_rpc_handlers((service.handler(), inference.handler()))
    await readiness.add_to(server)
    reflection.enable_server_reflection(
        (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    async with AsyncExitStack() as stack:
        stack.enter_context(claimed(settings.address))
        address = listen(partial(security.add_port, server), settings.address)
        await server.start()
        ending = asyncio.create_task(server.wait_for_termination())
        ending.add_done_callback(partial(_ended, on_end))
        watching = asyncio.create_task(watch(security.files))
        stack.callback(watching.cancel)
        stack.push_async_callback(_drain, server, calls, readiness, settings.drain_timeout_s)
        yield address


async def try_and_warm_up(
    engine: Engine, tokenizer: Tokenizer, content: str, lengths: list[int]
) -> None:
    """Raises StartError and EngineError. content: of the tokenizer.json."""
    trial = asyncio.create_task(on_own_thread(try_tokenizer, content))
    await on_own_thread(warm_up, engine, tokenizer, lengths)
    try:
        await trial
    except ValueError as error:
        raise StartError(str(error)) from error


def prepared(bundle: Bundle, settings: ServerSettings) -> tuple[list[int], str, Tokenizer]:
    """The lengths to warm up, the tokenizer.json and what it makes. Raises StartError."""
    if settings.max_inflight_bytes < settings.max_message_bytes:
        raise StartError(
            f"max_inflight_bytes ({settings.max_inflight_bytes}) must be at least "
            f"max_message_bytes ({settings.max_message_bytes})"
        )
    try:
        content = bundle.read_tokenizer()
        tokenizer = Tokenizer(content, bundle.manifest.special_tokens)
        return warm_up_lengths(settings, bundle), content, tokenizer
    except ValueError as error:
        raise StartError(str(error)) from error


async def serve_until(
    stop: asyncio.Event,
    hangup: asyncio.Event,
    settings: ServerSettings,
    load: Load,
    on_ready: Callable[[Bundle, Engine, str], None],
) -> None:
    """Load and serve until `stop` is set, then drain; reload when `hangup` is.

    `stop` counts while the bundle loads and warms up as well, and ends that. Raises StartError,
    and what `load` raises.
    """
    is_up, ended = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        bundle, engine = await on_own_thread(load)
        async with started(bundle, engine, settings, load, ended.set) as (address, models):
            is_up.set()
            on_ready(bundle, engine, address)
            reloading = asyncio.create_task(reload_at(hangup, models.reload))
            await _first(stop, ended)
            reloading.cancel()
            if ended.is_set():
                # Whoever looks after this process starts it again.
                raise StartError("gRPC's server ended by itself, after an error of its own")
            log.info("stopping: finishing what was accepted")

    serving = asyncio.create_task(serve())
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not is_up.is_set():
        serving.cancel()
    try:
        await serving
    except asyncio.CancelledError:
        log.info("stopped before it was ready")


def _ended(on_end: Callable[[], None], ending: asyncio.Task[Any]) -> None:
    if not ending.cancelled():
        ending.exception()  # gRPC's own log has it
        on_end()


async def _first(*events: asyncio.Event) -> None:
    """Return once one of them is set."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


async def reload_at(hangup: asyncio.Event, reload: Callable[[], Awaitable[str]]) -> None:
    """Whenever it is set, until this is cancelled."""
    while True:
        await hangup.wait()
        hangup.clear()
        with suppress(Exception):  # the log has it
            await asyncio.shield(reload())


async def _drain(
    server: grpc.aio.Server, calls: Calls, readiness: Health, timeout_s: float
) -> None:
    await readiness.drain()
    if not await calls.drain(timeout_s):
        log.warning("calls were still open after %g s (drain_timeout_s)", timeout_s)
    await calls.quiet()
    stopping = asyncio.create_task(server.stop(LAST_GRACE_S))
    # Clients are told to send nothing more on this connection, and have to hear of it before those
    # who wait are told to try again.
    await asyncio.sleep(GOODBYE_S)
    calls.tell_late()
    await stopping
