"""The options of every command that asks one server, or starts a private one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from electra_qa.credentials import Credentials
from electra_qa.credentials_options import credentials_options
from electra_qa.model_options import ModelChoice, model_options

from .client import Client
from .private import PrivateServer
from .timeouts import Seconds

Command = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """Which server to ask, or on what to start one.

    address: None for a private server on `choice` and `device`.
    wait: for the server at the address to be ready, in seconds.
    credentials: for the server at the address.
    """

    address: str | None
    choice: ModelChoice
    device: str
    wait: float
    credentials: Credentials

    @contextmanager
    def connect(self) -> Iterator[Client]:
        """A client of that server."""
        if self.address is None:
            choice = self.choice
            with (
                PrivateServer(
                    choice.bundle,
                    model=choice.model,
                    revision=choice.revision,
                    precision=choice.precision,
                    device=self.device,
                ) as server,
                # Nobody else waits for it, and how long a question takes is the asker's choice.
                Client(server.address, timeout=None) as client,
            ):
                yield client
            return
        credentials = self.credentials
        with Client(
            self.address,
            tls=credentials.tls,
            token=credentials.token,
            insecure=credentials.insecure,
        ) as client:
            if self.wait:
                client.wait_until_ready(self.wait)
            yield client


def server_options(name: str = "address") -> Callable[[Command], Command]:
    """--address, --wait, --bundle, --model, --device and those of TLS and tokens, as one `server`.

    name: of the first of them.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def with_server(
            *args: Any,
            choice: ModelChoice,
            device: str,
            wait: float,
            credentials: Credentials,
            **options: Any,
        ) -> Any:
            address = options.pop(name)
            if address is not None and choice != ModelChoice():
                other = "bundle" if choice.model is None else "model"
                raise click.UsageError(f"--{name} and --{other}: set one, not both")
            server = ServerChoice(address, choice, device, wait, credentials)
            return command(*args, server=server, **options)

        decorated: Command = credentials_options(name)(with_server)
        for option in (
            model_options("Start a private server on this bundle."),
            click.option(
                "--device",
                type=click.Choice(["cpu", "gpu"]),
                default="cpu",
                show_default=True,
                help="Of the private server.",
            ),
            click.option(
                "--wait",
                type=Seconds(min=0),
                default=0.0,
                help=f"Seconds to wait for the server at --{name} to be ready.",
            ),
            click.option(f"--{name}", help="Ask the server at HOST:PORT or unix:/PATH instead."),
        ):
            decorated = option(decorated)
        return decorated

    return decorate
