"""Start a server, say when it is ready, and stop it without losing what it accepted."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from electra_qa.bundle import Bundle
from electra_qa.engines import Engine
from electra_qa.tokenization import Tokenizer

from .answerer import Answerer
from .batcher import Batcher
from .errors import StartError
from .metrics import Metrics, exposed
from .service import SERVICE, QuestionAnsweringService
from .settings import ServerSettings
from .warm_up import parse_lengths, warm_up

log = logging.getLogger(__name__)

# After the last answer a health watcher may still hold its stream: it gets this long, in seconds.
LAST_GRACE_S = 1.0

MAX_PENDING_REQUESTS = 100_000

FOR_EVER_MS = 2**31 - 1


@asynccontextmanager
async def running(bundle: Bundle, engine: Engine, settings: ServerSettings) -> AsyncIterator[str]:
    """A server that is up and healthy inside the block; gives its address, with the real port.

    Leaving the block drains it: health says NOT_SERVING, new calls are refused with UNAVAILABLE,
    accepted ones are finished, for at most `drain_timeout_s`. Raises StartError.
    """
    try:
        warm_up_lengths = parse_lengths(settings.warm_up_lengths, bundle.manifest.max_seq_length)
    except ValueError as error:
        raise StartError(str(error)) from error
    metrics = Metrics()
    metrics.serves(engine.device)
    tokenizer = Tokenizer(bundle.tokenizer_path.read_text(encoding="utf-8"))
    batcher = Batcher(
        engine,
        pad_id=tokenizer.pad_id,
        max_queue_tokens=settings.max_queue_tokens,
        metrics=metrics,
    )
    answerer = Answerer(tokenizer, batcher, settings, metrics)
    service = QuestionAnsweringService(answerer, bundle, settings, engine.device, metrics)
    health = health_aio.HealthServicer()
    server = grpc.aio.server(
        options=[
            ("grpc.max_connection_age_ms", _milliseconds(settings.max_connection_age_s)),
            # Without this a second server on the port is no error, and half of the calls go there.
            ("grpc.so_reuseport", 0),
            # Over its own limits (1,000 and 3,000) gRPC cancels calls before they are looked at.
            # Here the queue refuses them, with a status that says why and when to try again.
            ("grpc.server.max_pending_requests", MAX_PENDING_REQUESTS),
            ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING_REQUESTS),
            ("grpc.max_receive_message_length", settings.max_message_bytes),
            ("grpc.max_send_message_length", settings.max_message_bytes),
        ]
    )
    server.add_generic_rpc_handlers((service.handler(),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    await _set_health(health, health_pb2.HealthCheckResponse.NOT_SERVING)
    with exposed(metrics, settings.metrics_address):
        address = _listen(server, settings.address)
        await server.start()
        try:
            await asyncio.to_thread(warm_up, engine, tokenizer, warm_up_lengths)
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
    """Serve until `stop` is set, then drain. Raises StartError."""
    async with running(bundle, engine, settings) as address:
        on_ready(address)
        await stop.wait()
        log.info("stopping: finishing what was accepted")


def _milliseconds(seconds: float | None) -> int:
    return FOR_EVER_MS if seconds is None else round(seconds * 1e3)


def _listen(server: grpc.aio.Server, address: str) -> str:
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"can't listen on {address}: in use, or not an address here") from error
    return address if address.startswith("unix:") else f"{address.rpartition(':')[0]}:{port}"


async def _set_health(
    health: health_aio.HealthServicer, status: health_pb2.HealthCheckResponse.ServingStatus
) -> None:
    for service in ("", SERVICE):
        await health.set(service, status)
