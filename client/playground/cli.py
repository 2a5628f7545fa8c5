"""`electra-qa playground`."""

from __future__ import annotations

from pathlib import Path

import click

from electra_qa.credentials import Credentials
from electra_qa.credentials_options import credentials_options

from ..cli import reported
from ..private import connect
from .page import build_page, serve_page


def _host_and_port(
    ctx: click.Context,  # noqa: ARG001
    parameter: click.Parameter,  # noqa: ARG001
    value: str,
) -> tuple[str, int]:
    host, colon, port = value.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 65536):
        raise click.BadParameter(f"must be HOST:PORT, with a port of 1 to 65535, got {value}")
    return host, int(port)


@click.command()
@click.option("--server", help="Ask the server at HOST:PORT or unix:/PATH.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=0.0,
    help="Seconds to wait for that server to be ready.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Start a private server on this bundle.  [default: the one in the package]",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Of the private server.",
)
@click.option(
    "--address",
    default="127.0.0.1:7860",
    show_default=True,
    callback=_host_and_port,
    help="Where the page is, as HOST:PORT. Whoever reaches it can ask.",
)
@credentials_options
def playground(
    server: str | None,
    wait: float,
    bundle: Path | None,
    device: str,
    address: tuple[str, int],
    credentials: Credentials,
) -> None:
    """Try it in a browser: the answer in the passage, the n best, the null score, the times.

    The page asks a running server, or a private one that it starts, and ends with Ctrl-C.
    """
    if server is not None and bundle is not None:
        raise click.UsageError("--server and --bundle: set one, not both")
    if server is None and credentials != Credentials():
        raise click.UsageError("TLS and tokens are for a --server")
    choice = connect(server, bundle, wait_s=wait, device=device, credentials=credentials)
    with reported(), choice as client:
        page = build_page(client, client.info(), server or "a private server")
        try:
            url = serve_page(page, *address)
        except OSError as error:
            host, port = address
            raise click.ClickException(f"can't listen on {host}:{port}") from error
        click.echo(f"electra-qa playground: {url}")
        page.block_thread()
