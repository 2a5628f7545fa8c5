"""A server in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Server:
    """`electra-qa serve` with its log in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    def logs(self, text: str, timeout_s: float = 180) -> None:
        """Return once `text` is in the log."""
        give_up = time.monotonic() + timeout_s
        while text not in self.log:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < give_up, self.log
            time.sleep(0.02)

    def children(self, kind: str) -> list[int]:
        """The process ids of its "front" or "engine" processes, the last of each number."""
        started = dict(re.findall(rf"{kind}-(\d+) is process (\d+)", self.log))
        return [int(pid) for _, pid in sorted(started.items())]

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextmanager
def server(folder: Path, *arguments: str, program: str | None = None) -> Iterator[Server]:
    """program: Python to run instead of `-m electra_qa`."""
    log = folder / "log"
    how = ["-m", "electra_qa"]
    if program is not None:
        # A file: the processes of a server begin with what their first one was.
        how = [str(folder / "program.py")]
        (folder / "program.py").write_text(program, encoding="utf-8")
    command = [sys.executable, *how, "serve", *arguments]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr)
    try:
        yield Server(process, log)
    finally:
        process.kill()
        process.wait()
