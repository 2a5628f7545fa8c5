"""The share of CPU time that a container, a systemd unit or a pod may use.

Version 2 has `cpu.max`, version 1 `cpu.cfs_quota_us` and `cpu.cfs_period_us`, see the kernel's
Documentation/admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst. A group has what it and all
those above it leave.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def cpu_quota(root: Path = Path("/")) -> float | None:
    """How many CPUs' time this process may use; None where nothing limits it.

    root: where /proc and /sys are.
    """
    quotas = [quota for folder in _folders(root) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _folders(root: Path) -> Iterator[Path]:
    """Of this process's groups for CPU time, and of those above them."""
    try:
        mounts = (root / "proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
        groups = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    paths = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            paths["cgroup2"] = path
        elif "cpu" in controllers.split(","):
            paths["cgroup"] = path
    for line in mounts:
        fields, _, about = line.partition(" - ")
        kind, _, options = about.split(" ", 2)
        if kind not in paths or (kind == "cgroup" and "cpu" not in options.split(",")):
            continue
        mounted, point = fields.split(" ")[3:5]
        mount = root / point.lstrip("/")
        # Inside a container the path may be the host's, of which nothing is mounted but its end.
        inside = Path(paths[kind])
        inside = inside.relative_to(mounted) if inside.is_relative_to(mounted) else Path()
        yield from (mount / above for above in (inside, *inside.parents))


def _quota(folder: Path) -> float | None:
    for names in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            words = " ".join((folder / name).read_text(encoding="ascii") for name in names).split()
            quota, period = int(words[0]), int(words[1])
        except (OSError, ValueError, IndexError):  # "max": no limit
            continue
        if quota > 0 and period > 0:  # -1: no limit
            return quota / period
    return None
