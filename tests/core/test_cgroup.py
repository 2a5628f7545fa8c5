"""A container's share of CPU time, from files as the kernel has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from electra_qa import engines
from electra_qa.engines import EngineSettings, cgroup, cpu_threads, usable_cpus

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"


def write(root: Path, mounts: str, groups: str, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/mountinfo").write_text("22 1 8:1 / / rw - ext4 /dev/root rw\n" + mounts)
    (root / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = root / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.mark.parametrize(
    ("content", "quota"),
    [("150000 100000\n", 1.5), ("max 100000\n", None), ("5000 100000", 0.05), ("", None)],
)
def test_version_2(tmp_path: Path, content: str, quota: float | None) -> None:
    root = write(tmp_path, V2, "0::/\n", **{"cpu.max": content})
    assert cgroup.cpu_quota(root) == quota


def test_the_smallest_of_a_group_and_those_above_it(tmp_path: Path) -> None:
    files = {
        "a.slice/cpu.max": "100000 100000",
        "a.slice/b/cpu.max": "300000 100000",
        "cpu.max": "max 100000",
        "other/cpu.max": "1000 100000",
    }
    root = write(tmp_path, V2, "0::/a.slice/b\n", **files)
    assert cgroup.cpu_quota(root) == 1


@pytest.mark.parametrize(
    ("root", "path"),
    [("/", "/pod/one"), ("/docker/x", "/docker/x/pod/one"), ("/docker/x", "/docker/x")],
)
@pytest.mark.parametrize(("quota", "cpus"), [("250000", 2.5), ("-1", None)])
def test_version_1(tmp_path: Path, root: str, path: str, quota: str, cpus: float | None) -> None:
    folder = "cpu,cpuacct" + ("/pod/one" if path.endswith("one") else "")
    files = {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000\n"}
    groups = f"5:memory:/elsewhere\n4:cpu,cpuacct:{path}\n0::/\n"
    where = write(tmp_path, MEMORY + V1.format(root=root), groups, **files)
    assert cgroup.cpu_quota(where) == cpus


def test_a_path_of_the_host_is_the_top_of_what_is_mounted(tmp_path: Path) -> None:
    root = write(tmp_path, V2, "0::/../../pods/7\n", **{"cpu.max": "200000 100000"})
    assert cgroup.cpu_quota(root) == 2


def test_nowhere_is_no_limit(tmp_path: Path) -> None:
    assert cgroup.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("quota", "cpus"), [(None, 8), (0.05, 1), (1.0, 1), (1.5, 2), (7.01, 8), (64.0, 8)]
)
def test_threads_follow_the_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float | None, cpus: int
) -> None:
    monkeypatch.setattr(engines, "cpu_quota", lambda: quota)
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda _: set(range(8)))
    assert usable_cpus() == cpus
    assert cpu_threads(EngineSettings()) == cpus
    assert cpu_threads(EngineSettings(threads=3)) == 3
