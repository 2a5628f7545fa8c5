"""`electra-qa serve` in a process of its own, for a program that wants a server to itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .channels import RECONNECT
from .configuration import PREFIX
from .interrupts import begun, closed_after

START_TIMEOUT_S = 900.0  # a GPU's first start compiles for minutes
STOP_TIMEOUT_S = 40.0  # more than the server's own drain timeout

LONGEST_SOCKET = 107 if sys.platform == "linux" else 103  # bytes, see unix(7)
# What means something else in gRPC's addresses.
_NOT_IN_ADDRESSES = re.compile(r"[%#?,]")

# The ends of the pipes that private servers of this process watch.
_pipes: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


class ServerProcessError(Exception):
    """The server did not come up; the message is its own last word."""


class ServerProcess:
    """A server on a Unix socket that only this user can open.

    bundle: the folder of the bundle to serve; by default the one in the package.
    device: "cpu" or "gpu".
    arguments: more of `electra-qa serve`.

    It is up when the constructor returns, and stops when it is closed, collected, or when this
    process ends in whatever way: it watches a pipe. A forked child may ask it, and ends and closes
    without it. Raises ServerProcessError where it does not come up.
    """

    def __init__(
        self,
        bundle: Path | str | None = None,
        *,
        device: str = "cpu",
        arguments: Sequence[str] = (),
    ) -> None:
        folder = _make_folder()
        log = folder / "log"
        self._address = f"unix:{folder / 'socket'}"
        # -P: a file of the caller's that is named like a module must not be taken for it.
        command = [sys.executable, "-P", "-m", "electra_qa", "serve"]
        command += ["--until-stdin-closes", "--then-remove", str(folder)]
        command += ["--address", self._address, "--log-level", "warning"]
        command += ["--device", device]
        if bundle is not None:
            command += ["--bundle", str(bundle)]
        try:
            with log.open("wb") as stderr:
                process = subprocess.Popen(
                    [*command, *arguments],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    # What is set for servers that others reach is not for this one.
                    env={k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
                )
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        _pipes.add(process)
        self.close = weakref.finalize(self, _stop, process, folder, os.getpid())
        try:
            self._wait(process, log)
        except BaseException:
            self.close()
            raise

    @property
    def address(self) -> str:
        """Raises ServerProcessError once it is closed."""
        if not self.close.alive:
            raise ServerProcessError("the private server is closed")
        return self._address

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        with closed_after(grpc.insecure_channel(self._address, RECONNECT)) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            while True:
                if process.poll() is not None:
                    raise ServerProcessError(_last_words(log))
                try:
                    if becomes_healthy(health, timeout_s=0.5):
                        return
                except grpc.RpcError:
                    if time.monotonic() > give_up:
                        raise ServerProcessError(
                            f"the server was not ready after {START_TIMEOUT_S:g} s"
                        ) from None

    def __enter__(self) -> Self:
        self.address  # noqa: B018  raises where it is closed
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} is a process of its maker's: it can't be pickled")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def becomes_healthy(health: health_pb2_grpc.HealthStub, timeout_s: float | None) -> bool:
    """Wait until the server's health is SERVING; False where it ends the watch before.

    health: made while its channel was open; with one that is closed, making it ends the process.

    Raises grpc.RpcError, with DEADLINE_EXCEEDED where `timeout_s` seconds were not enough.
    """
    request = health_pb2.HealthCheckRequest()
    watch = begun(lambda: health.Watch(request, wait_for_ready=True, timeout=timeout_s))
    try:
        return any(r.status == health_pb2.HealthCheckResponse.SERVING for r in watch)
    finally:
        watch.cancel()


def _make_folder() -> Path:
    """A new folder, for a socket and a log. Raises ServerProcessError where no socket can be."""
    try:
        # Not a TemporaryDirectory, which a forked child removes at its end.
        folder = Path(tempfile.mkdtemp(prefix="electra-qa-"))
    except OSError as error:
        raise ServerProcessError(f"no folder for temporary files (TMPDIR): {error}") from error
    socket = folder / "socket"
    length = len(os.fsencode(socket))
    unfit = _NOT_IN_ADDRESSES.search(str(socket))
    if length <= LONGEST_SOCKET and unfit is None:
        return folder
    folder.rmdir()
    if unfit is not None:
        raise ServerProcessError(
            f"TMPDIR has a {unfit.group()!r}, which no Unix socket's address can have: {socket}"
        )
    raise ServerProcessError(
        f"TMPDIR is too long for a Unix socket: {socket} has {length} bytes, the system takes "
        f"{LONGEST_SOCKET}"
    )


def _stop(process: subprocess.Popen[bytes], folder: Path, maker: int) -> None:
    if os.getpid() != maker:  # a forked child, at its end
        return
    if process.stdin is not None:
        process.stdin.close()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


def _let_go() -> None:
    """In a forked child: while it held the pipes too, no server would see them close."""
    for process in _pipes:
        if process.stdin is not None:
            process.stdin.close()
    _pipes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1].removeprefix("Error: ") if lines else "the server ended without a word"
