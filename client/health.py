"""`electra-qa health`: is a server ready? For container health checks and shell scripts."""

from __future__ import annotations

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from electra_qa.credentials import Credentials
from electra_qa.credentials_options import credentials_options

from .timeouts import Seconds, grpc_timeout, seconds_of

SERVING = health_pb2.HealthCheckResponse.SERVING


@click.command()
@click.option("--address", default="127.0.0.1:50051", show_default=True, metavar="HOST:PORT")
@click.option(
    "--timeout",
    type=Seconds(min=0, min_open=True),
    default=3.0,
    show_default=True,
    help="In seconds.",
)
@credentials_options()
def health(address: str, timeout: float, credentials: Credentials) -> None:
    """Ask gRPC's health service; exit with 0 where it says SERVING, else with 1."""
    with credentials.open_channel(address, ()) as channel:
        try:
            request = health_pb2.HealthCheckRequest()
            response = health_pb2_grpc.HealthStub(channel).Check(
                request, timeout=grpc_timeout(seconds_of(timeout))
            )
        except grpc.RpcError as error:
            raise click.ClickException(f"{address}: {error.code().name}") from error
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
    if response.status != SERVING:
        raise click.ClickException(f"{address}: {status}")
    click.echo(status)
