"""A server for one client, that nobody else can reach, and that ends with it."""

from __future__ import annotations

from pathlib import Path

from electra_qa.models import ModelError, Precision, bundle_for
from electra_qa.private import ServerProcess, ServerProcessError

from .errors import ClosedError, PrivateServerError


class PrivateServer(ServerProcess):
    """`electra-qa serve` in a process of its own, on a Unix socket that only this user can open.

    bundle: the folder of the bundle to serve; by default the one in the package.
    model: instead of it a checkpoint's folder, or its id on the Hugging Face hub: a bundle is built
        of it once, into the user's cache. `revision`, `precision`, `tokenizer`, `token` and
        `local_files_only` are those of `electra_qa.models.bundle_for`.
    device: "cpu" or "gpu".

    It is up when the constructor returns, and stops when it is closed, collected, or when this
    process ends in whatever way: it watches a pipe. A forked child may ask it, and ends and closes
    without it. Raises PrivateServerError with the build's or the server's own message where it does
    not come up.
    """

    def __init__(
        self,
        bundle: Path | str | None = None,
        *,
        model: Path | str | None = None,
        revision: str | None = None,
        precision: Precision | None = None,
        tokenizer: Path | str | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        device: str = "cpu",
    ) -> None:
        if bundle is not None and model is not None:
            raise ValueError("bundle and model: set one, not both")
        try:
            if model is not None:
                bundle = bundle_for(
                    model,
                    revision=revision,
                    precision=precision,
                    tokenizer=tokenizer,
                    token=token,
                    local_files_only=local_files_only,
                    device=device,
                )
            # One caller pays less for a cold length than for warming up all of them.
            super().__init__(bundle, device=device, arguments=["--warm-up-lengths", "none"])
        except (ModelError, ServerProcessError) as error:
            raise PrivateServerError(str(error)) from None

    @property
    def address(self) -> str:
        """Raises ClosedError once it is closed."""
        try:
            return super().address
        except ServerProcessError as error:
            raise ClosedError(str(error)) from None
