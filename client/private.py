"""A server for one client, that nobody else can reach, and that ends with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from electra_qa.credentials import Credentials
from electra_qa.private import ServerProcess, ServerProcessError

from .client import Client
from .errors import PrivateServerError

NO_CREDENTIALS = Credentials()


class PrivateServer(ServerProcess):
    """`electra-qa serve` in a process of its own, on a Unix socket that only this user can open.

    bundle: the folder of the bundle to serve; by default the one in the package.
    device: "cpu" or "gpu".

    It is up when the constructor returns, and stops when it is closed, collected, or when this
    process ends in whatever way: it watches a pipe. Raises PrivateServerError with the server's own
    message where it does not come up.
    """

    def __init__(self, bundle: Path | str | None = None, *, device: str = "cpu") -> None:
        try:
            # One caller pays less for a cold length than for warming up all of them.
            super().__init__(bundle, device=device, arguments=["--warm-up-lengths", "none"])
        except ServerProcessError as error:
            raise PrivateServerError(str(error)) from None


@contextmanager
def connect(
    address: str | None,
    bundle: Path | str | None,
    *,
    wait_s: float = 0.0,
    device: str = "cpu",
    credentials: Credentials = NO_CREDENTIALS,
) -> Iterator[Client]:
    """A client of the server at `address`, or, without one, of a private server on `bundle`.

    wait_s: how long to wait for the server at `address` to be ready, in seconds.
    device: of the private server.
    credentials: for the server at `address`.
    """
    if address is not None:
        with Client(
            address,
            tls=credentials.tls,
            token=credentials.token,
            insecure=credentials.insecure,
        ) as client:
            if wait_s:
                client.wait_until_ready(wait_s)
            yield client
    else:
        with PrivateServer(bundle, device=device) as server, Client(server.address) as client:
            yield client
