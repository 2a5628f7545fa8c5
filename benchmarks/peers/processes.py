"""A peer's processes: all of them that its first one started, stopped and counted together."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
GRACE_S = 5.0


def tree(pid: int) -> list[int]:
    """The process and its descendants, the process first."""
    children: dict[int, list[int]] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold anything; state and parent follow it.
            parent = (
                stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1]
            )
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = [pid]
    for process in found:
        found.extend(children.get(process, ()))
    return found


def pause(pid: int) -> None:
    """The process first, so that it does not see its children stop."""
    _signal(tree(pid), signal.SIGSTOP)


def resume(pid: int) -> None:
    _signal(reversed(tree(pid)), signal.SIGCONT)


def end(pid: int) -> None:
    """Also where it is paused. What does not end by itself is killed."""
    processes = tree(pid)
    _signal(processes, signal.SIGTERM)
    _signal(processes, signal.SIGCONT)
    give_up = time.monotonic() + GRACE_S
    while time.monotonic() < give_up and any(map(_lives, processes)):
        time.sleep(0.05)
    _signal(processes, signal.SIGKILL)


def memory_mb(pid: int) -> float:
    """Proportional set size of all of them: pages that they share are counted once."""
    total = 0
    for process in tree(pid):
        with contextlib.suppress(OSError):
            for line in (PROC / str(process) / "smaps_rollup").read_text("ascii").splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total * 1024 / 1e6


def _lives(pid: int) -> bool:
    try:
        stat = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)
