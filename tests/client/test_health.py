"""`electra-qa health`, as a container asks it."""

from __future__ import annotations

import asyncio
from concurrent import futures

import grpc
import pytest
from click.testing import CliRunner, Result
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.cli import main
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings


def ask(address: str) -> Result:
    return CliRunner().invoke(main, ["health", "--address", address])


async def test_a_server_that_is_ready() -> None:
    bundle = load_bundle(default_bundle_path())
    engine = load_engine(bundle, EngineSettings("null"))
    settings = ServerSettings(address="127.0.0.1:0", warm_up_lengths="none")
    async with running(bundle, engine, settings) as address:
        result = await asyncio.to_thread(ask, address)
    assert (result.exit_code, result.output) == (0, "SERVING\n")


def test_a_server_that_is_not() -> None:
    """As one that warms up or drains says it."""
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        result = ask(address)
    finally:
        server.stop(None).wait()
    assert (result.exit_code, result.output) == (1, f"Error: {address}: NOT_SERVING\n")


@pytest.mark.parametrize("address", ["127.0.0.1:1", "unix:/no/such/socket"])
def test_no_server(address: str) -> None:
    result = ask(address)
    assert (result.exit_code, result.output) == (1, f"Error: {address}: UNAVAILABLE\n")
