"""`electra-qa reload`."""

from __future__ import annotations

import click
import grpc

from electra_qa.channels import keepalive
from electra_qa.credentials import Credentials
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import AdminStub

from .errors import from_rpc
from .timeouts import Seconds, grpc_timeout, seconds_of


@click.command()
@click.option("--address", required=True, help="What the server has as --admin-address.")
@click.option(
    "--timeout",
    type=Seconds(min=0, min_open=True),
    default=900.0,
    show_default=True,
    help="Seconds to wait. The server goes on with it where that is too short.",
)
def reload(address: str, timeout: float) -> None:
    """Have a server load its bundle anew, and wait until it serves from it and from no other."""
    with Credentials().open_channel(address, keepalive()) as channel:
        try:
            response = AdminStub(channel).Reload(
                pb.ReloadRequest(), timeout=grpc_timeout(seconds_of(timeout))
            )
        except grpc.RpcError as error:
            raise click.ClickException(str(from_rpc(error))) from None
    click.echo(response.model_version)
