"""A server for one client, that nobody else can reach, and that ends with it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from .client import Client
from .errors import DeadlineExceededError, PrivateServerError

START_TIMEOUT_S = 900.0  # a GPU's first start compiles for minutes
STOP_TIMEOUT_S = 40.0  # more than the server's own drain timeout


class PrivateServer:
    """`electra-qa serve` in a process of its own, on a Unix socket that only this user can open.

    bundle: the folder of the bundle to serve; by default the one in the package.
    device: "cpu" or "gpu".

    It is up when the constructor returns, and stops when it is closed, collected, or when this
    process ends in whatever way: it watches a pipe. Raises PrivateServerError with the server's own
    message where it does not come up.
    """

    def __init__(self, bundle: Path | str | None = None, *, device: str = "cpu") -> None:
        folder = tempfile.TemporaryDirectory(prefix="electra-qa-")
        log = Path(folder.name) / "log"
        self.address = f"unix:{Path(folder.name) / 'socket'}"
        # -P: a file of the caller's that is named like a module must not be taken for it.
        command = [sys.executable, "-P", "-m", "electra_qa", "serve", "--until-stdin-closes"]
        command += ["--address", self.address, "--log-level", "warning"]
        command += ["--device", device]
        if bundle is not None:
            command += ["--bundle", str(bundle)]
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=stderr
            )
        self.close = weakref.finalize(self, _stop, process, folder)
        try:
            self._wait(process, log)
        except BaseException:
            self.close()
            raise

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        with Client(self.address) as client:
            while True:
                if process.poll() is not None:
                    raise PrivateServerError(_last_words(log))
                try:
                    client.wait_until_ready(timeout=0.5)
                    return
                except DeadlineExceededError:
                    if time.monotonic() > give_up:
                        raise PrivateServerError(
                            f"the server was not ready after {START_TIMEOUT_S:g} s"
                        ) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


@contextmanager
def connect(
    address: str | None,
    bundle: Path | str | None,
    *,
    wait_s: float = 0.0,
    device: str = "cpu",
) -> Iterator[Client]:
    """A client of the server at `address`, or, without one, of a private server on `bundle`.

    wait_s: how long to wait for the server at `address` to be ready, in seconds.
    device: of the private server.
    """
    if address is not None:
        with Client(address) as client:
            if wait_s:
                client.wait_until_ready(wait_s)
            yield client
    else:
        with PrivateServer(bundle, device=device) as server, Client(server.address) as client:
            yield client


def _stop(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.cleanup()


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else "the server ended without a word"
