"""`electra-qa playground`."""

from __future__ import annotations

import click

from ..cli import reported
from ..server_options import ServerChoice, server_options
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
@server_options("server")
@click.option(
    "--address",
    default="127.0.0.1:7860",
    show_default=True,
    callback=_host_and_port,
    help="Where the page is, as HOST:PORT. Whoever reaches it can ask.",
)
def playground(server: ServerChoice, address: tuple[str, int]) -> None:
    """Try it in a browser: the answer in the passage, the n best, the null score, the times.

    The page asks a running server, or a private one that it starts, and ends with Ctrl-C.
    """
    with reported(), server.connect() as client:
        page = build_page(client, client.info(), server.address or "a private server")
        try:
            url = serve_page(page, *address)
        except OSError as error:
            host, port = address
            raise click.ClickException(f"can't listen on {host}:{port}") from error
        click.echo(f"electra-qa playground: {url}")
        page.block_thread()
