"""A server for one client, that nobody else can reach, and that ends with it."""

from __future__ import annotations

from pathlib import Path

from electra_qa.private import ServerProcess, ServerProcessError

from .errors import ClosedError, PrivateServerError


class PrivateServer(ServerProcess):
    """`electra-qa serve` in a process of its own, on a Unix socket that only this user can open.

    bundle: the folder of the bundle to serve; by default the one in the package.
    device: "cpu" or "gpu".

    It is up when the constructor returns, and stops when it is closed, collected, or when this
    process ends in whatever way: it watches a pipe. A forked child may ask it, and ends and closes
    without it. Raises PrivateServerError with the server's own message where it does not come up.
    """

    def __init__(self, bundle: Path | str | None = None, *, device: str = "cpu") -> None:
        try:
            # One caller pays less for a cold length than for warming up all of them.
            super().__init__(bundle, device=device, arguments=["--warm-up-lengths", "none"])
        except ServerProcessError as error:
            raise PrivateServerError(str(error)) from None

    @property
    def address(self) -> str:
        """Raises ClosedError once it is closed."""
        try:
            return super().address
        except ServerProcessError as error:
            raise ClosedError(str(error)) from None
