"""The options of every command that asks a server: how it knows it, and who asks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from .credentials import Credentials, CredentialsError, Tls, read_token

Command = Callable[..., Any]

FILE = click.Path(dir_okay=False, path_type=Path)
OPTIONS = (
    click.option("--insecure", is_flag=True, help="Send the token to another machine without TLS."),
    click.option("--token-file", type=FILE, help="A file with the token for the server."),
    click.option("--tls-key", type=FILE, help="The key of --tls-cert."),
    click.option("--tls-cert", type=FILE, help="A certificate of your own to show it, PEM."),
    click.option("--tls-ca", type=FILE, help="TLS with a server certified by these, PEM."),
    click.option(
        "--tls", is_flag=True, help="TLS with a server certified by a well-known authority."
    ),
)


def credentials_options(server: str = "address") -> Callable[[Command], Command]:
    """--tls, --tls-ca, --tls-cert, --tls-key, --token-file and --insecure, as one `credentials`.

    server: the name of the option that says which server they are for.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_credentials(
            *args: Any,
            tls: bool,
            tls_ca: Path | None,
            tls_cert: Path | None,
            tls_key: Path | None,
            token_file: Path | None,
            insecure: bool,
            **options: Any,
        ) -> Any:
            given = Tls(tls_ca, tls_cert, tls_key)
            try:
                credentials = Credentials(
                    given if tls or given != Tls() else None,
                    None if token_file is None else read_token(token_file),
                    insecure,
                )
            except CredentialsError as error:
                raise click.ClickException(str(error)) from error
            if credentials != Credentials() and options[server] is None:
                raise click.UsageError(f"TLS and tokens are for the server at --{server}")
            return command(*args, credentials=credentials, **options)

        decorated: Command = with_credentials
        for option in OPTIONS:
            decorated = option(decorated)
        return decorated

    return decorate
