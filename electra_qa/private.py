"""`electra-qa serve` in a process of its own, for a program that wants a server to itself."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from .configuration import PREFIX

START_TIMEOUT_S = 900.0  # a GPU's first start compiles for minutes
STOP_TIMEOUT_S = 40.0  # more than the server's own drain timeout


class ServerProcessError(Exception):
    """The server did not come up; the message is its own last word."""


class ServerProcess:
    """A server on a Unix socket that only this user can open.

    bundle: the folder of the bundle to serve; by default the one in the package.
    device: "cpu" or "gpu".
    arguments: more of `electra-qa serve`.

    It is up when the constructor returns, and stops when it is closed, collected, or when this
    process ends in whatever way: it watches a pipe. Raises ServerProcessError where it does not
    come up.
    """

    def __init__(
        self,
        bundle: Path | str | None = None,
        *,
        device: str = "cpu",
        arguments: Sequence[str] = (),
    ) -> None:
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
                [*command, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                # What is set for servers that others reach is not for this one.
                env={k: v for k, v in os.environ.items() if not k.startswith(PREFIX)},
            )
        self.close = weakref.finalize(self, _stop, process, folder)
        try:
            self._wait(process, log)
        except BaseException:
            self.close()
            raise

    def _wait(self, process: subprocess.Popen[bytes], log: Path) -> None:
        give_up = time.monotonic() + START_TIMEOUT_S
        with grpc.insecure_channel(self.address) as channel:
            while True:
                if process.poll() is not None:
                    raise ServerProcessError(_last_words(log))
                try:
                    if becomes_healthy(channel, timeout_s=0.5):
                        return
                except grpc.RpcError:
                    if time.monotonic() > give_up:
                        raise ServerProcessError(
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


def becomes_healthy(channel: grpc.Channel, timeout_s: float) -> bool:
    """Wait until the server's health is SERVING; False where it ends the watch before.

    Raises grpc.RpcError, with DEADLINE_EXCEEDED where `timeout_s` seconds were not enough.
    """
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=timeout_s
    )
    try:
        return any(r.status == health_pb2.HealthCheckResponse.SERVING for r in watch)
    finally:
        watch.cancel()


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
