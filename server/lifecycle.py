"""Start a server, say when it is ready, and stop it without losing what it accepted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowBatch, WindowSettings, make_windows

from .answerer import Answerer
from .batcher import Batcher
from .service import SERVICE, QuestionAnsweringService
from .settings import ServerSettings

log = logging.getLogger(__name__)

# After the last answer a health watcher may still hold its stream: it gets this long, in seconds.
LAST_GRACE_S = 1.0


class AddressError(Exception):
    """The address can't be listened on; the message says which."""


@asynccontextmanager
async def running(bundle: Bundle, engine: Engine, settings: ServerSettings) -> AsyncIterator[str]:
    """A server that is up and healthy inside the block; gives its address, with the real port.

    Leaving the block drains it: health says NOT_SERVING, new calls are refused with UNAVAILABLE,
    accepted ones are finished, for at most `drain_timeout_s`. Raises AddressError.
    """
    tokenizer = Tokenizer(bundle.tokenizer_path.read_text(encoding="utf-8"))
    batcher = Batcher(
        engine,
        pad_id=tokenizer.pad_id,
        max_batch_tokens=settings.max_batch_tokens,
        max_queue_tokens=settings.max_queue_tokens,
    )
    answerer = Answerer(bundle, tokenizer, batcher, settings)
    service = QuestionAnsweringService(answerer, bundle, settings, engine.device)
    health = health_aio.HealthServicer()
    server = grpc.aio.server(
        options=[
            # Without this a second server on the port is no error, and half of the calls go there.
            ("grpc.so_reuseport", 0),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
        ]
    )
    server.add_generic_rpc_handlers((service.handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await _set_health(health, health_pb2.HealthCheckResponse.NOT_SERVING)
    address = _listen(server, settings.address)
    await server.start()
    try:
        await asyncio.to_thread(_try_out, engine, tokenizer)
        await _set_health(health, health_pb2.HealthCheckResponse.SERVING)
        yield address
    finally:
        await health.enter_graceful_shutdown()
        if not await service.drain(settings.drain_timeout_s):
            log.warning(
                "calls were still open after %g s (drain_timeout_s)", settings.drain_timeout_s
            )
        await server.stop(LAST_GRACE_S)
        answerer.close()
        batcher.close()


async def serve_until(
    stop: asyncio.Event,
    bundle: Bundle,
    engine: Engine,
    settings: ServerSettings,
    on_ready: Callable[[str], None],
) -> None:
    """Serve until `stop` is set, then drain. Raises AddressError."""
    async with running(bundle, engine, settings) as address:
        on_ready(address)
        await stop.wait()
        log.info("stopping: finishing what was accepted")


def _listen(server: grpc.aio.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise AddressError(f"can't listen on {address}: in use, or not an address here") from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


def _try_out(engine: Engine, tokenizer: Tokenizer) -> None:
    """One tiny window, so that an engine that can't run fails at the start."""
    windows = make_windows(
        np.array([tokenizer.pad_id], dtype=np.int32),
        np.array([tokenizer.pad_id], dtype=np.int32),
        settings=WindowSettings(),
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    engine.run(WindowBatch.pad(windows, [1], length=engine.buckets[0], pad_id=tokenizer.pad_id))


async def _set_health(
    health: health_aio.HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus
) -> None:
    for service in ("", SERVICE):
        await health.set(service, status)
