"""A server in a process of its own, and what it should answer."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle, write_bundle

from .report import Figures, write

REPORT = Path(__file__).parents[2] / "build" / "chaos"


@pytest.fixture(scope="session")
def tiny_bundle(
    tiny_checkpoint: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """Random weights: compiled and warm in a moment."""
    from rich.console import Console

    from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle

    settings = BuildSettings(max_seq_length=64, doc_stride=16, max_query_length=16)
    output = tmp_path_factory.mktemp("tiny-bundle")
    quiet = Console(file=io.StringIO())
    return build_bundle(str(tiny_checkpoint()), output, settings, BuildData(), quiet)


@pytest.fixture(scope="session")
def other_tiny_bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same files, but answers of one or two tokens."""
    files = {name: (tiny_bundle.path / name).read_bytes() for name in tiny_bundle.manifest.files}
    manifest = replace(tiny_bundle.manifest, max_answer_length=2)
    return write_bundle(tmp_path_factory.mktemp("other-tiny-bundle"), manifest, files)


class Server:
    """`electra-qa serve` with its log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def logs(self, text: str, timeout_s: float = 60) -> None:
        """Return once `text` is in the log."""
        give_up = time.monotonic() + timeout_s
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < give_up, self.log
            time.sleep(0.02)

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def server(folder: Path, *arguments: str, program: str | None = None) -> Iterator[Server]:
    """program: Python to run instead of `-m electra_qa`."""
    log = folder / "log"
    how = ["-m", "electra_qa"] if program is None else ["-c", program]
    command = [sys.executable, *how, "serve", *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def _report() -> Iterator[list[Figures]]:
    figures: list[Figures] = []
    yield figures
    write(figures, REPORT)


@pytest.fixture
def figures(_report: list[Figures], request: pytest.FixtureRequest) -> Figures:
    """Those of one test, for the report."""
    made = Figures(request.node.name)
    _report.append(made)
    return made
