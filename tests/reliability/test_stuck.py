"""What never ends does not keep the server from going on, nor from ending."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import Client

from .serving import Server, server

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend. "

# Every load from the `electra_qa_stuck`th on reads a FIFO that nobody writes to, as one on a mount
# that hangs does, as long as there is one.
STUCK = """
import itertools, os, sys
from pathlib import Path
import electra_qa.server.cli as cli
from electra_qa.cli import main

first, fifo = int(os.environ["electra_qa_stuck"]), Path(os.environ["electra_qa_fifo"])
numbers, load = itertools.count(1), cli.find_and_load

def stuck(*args):
    if next(numbers) >= first and fifo.exists():
        fifo.read_bytes()
    return load(*args)

cli.find_and_load = stuck
sys.argv[0] = "electra-qa"
main()
"""


@pytest.fixture
def options(tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setenv("electra_qa_fifo", str(tmp_path / "fifo"))
    monkeypatch.setenv("electra_qa_stuck", "2")
    options = ["--bundle", str(tiny_bundle.path), "--address", f"unix:{tmp_path}/socket"]
    return [*options, "--engine", "null", "--warm-up-lengths", "none"]


def opened(fifo: Path, serving: Server) -> int:
    """To write, once the server reads it."""
    while True:
        try:
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            assert serving.process.poll() is None, serving.log
            time.sleep(0.02)


def begin_a_reload(serving: Server) -> None:
    serving.logs("serving ")
    serving.process.send_signal(signal.SIGHUP)
    serving.logs("reloading the bundle")


def test_a_stuck_reload_does_not_keep_the_server_from_ending(
    options: list[str], tmp_path: Path
) -> None:
    with server(tmp_path, *options, program=STUCK) as serving:
        begin_a_reload(serving)
        serving.process.send_signal(signal.SIGHUP)
        with Client(f"unix:{tmp_path}/socket") as client:
            assert client.answer("who?", CONTEXT).answers
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 0, serving.log
    assert "Traceback" not in serving.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_is_the_last(
    options: list[str], tmp_path: Path, number: signal.Signals
) -> None:
    with server(tmp_path, *options, program=STUCK) as serving:
        begin_a_reload(serving)
        serving.process.send_signal(number)
        serving.logs("stopping")
        serving.process.send_signal(number)
        assert serving.process.wait(60) == 128 + number


def test_reloads_after_a_stuck_one_go_on(options: list[str], tmp_path: Path) -> None:
    admin = f"unix:{tmp_path}/admin"
    options += ["--reload-timeout-s", "1", "--admin-address", admin]
    with server(tmp_path, *options, program=STUCK) as serving:
        begin_a_reload(serving)
        serving.logs("the reload took longer than 1 s (reload_timeout_s)")
        (tmp_path / "fifo").unlink()  # the one who reads it does so still
        command = [sys.executable, "-m", "electra_qa", "reload", "--address", admin]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(60) == 0, serving.log


def test_a_signal_during_the_start_ends_it(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("electra_qa_stuck", "1")
    with server(tmp_path, *options, program=STUCK) as serving:
        serving.logs("bundle is ")
        serving.process.send_signal(signal.SIGTERM)
        try:
            code = serving.process.wait(60)
        finally:
            log = serving.log
    assert code in (0, -signal.SIGTERM), log  # the latter before there is a handler
    assert "Traceback" not in log


def test_a_hangup_during_the_start_is_a_reload_after_it(
    options: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("electra_qa_stuck", "1")
    with server(tmp_path, *options, program=STUCK) as serving:
        # Opened by the other side once it loads: its handlers are there.
        writing = opened(tmp_path / "fifo", serving)
        (tmp_path / "fifo").unlink()
        serving.process.send_signal(signal.SIGHUP)
        os.close(writing)
        serving.logs(" is freed")
        assert serving.log.index("serving ") < serving.log.index("reloading the bundle")
