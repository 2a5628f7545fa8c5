"""What a result depends on and does not show: the machine, the versions, the server."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from electra_qa.engines import usable_cpus
from electra_qa.rpc import electra_qa_pb2 as pb


@dataclass(frozen=True, slots=True)
class Machine:
    """The load generator's, which is the server's too unless that was somewhere else.

    cores: logical ones that this process may use.
    """

    cpu: str
    cores: int
    memory_gib: float


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What the server says of itself.

    source, precision, bundle_sha256: of the bundle that it serves.
    own: it was started for this run, on this machine, with `arguments`.
    """

    source: str
    precision: str
    bundle_sha256: str
    device: str
    version: str
    own: bool
    arguments: list[str]


def this_machine() -> Machine:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(_cpu_model(), usable_cpus(), round(memory / 2**30, 1))


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def server_info(response: pb.GetInfoResponse, own: bool, arguments: list[str]) -> ServerInfo:
    bundle = response.bundle
    return ServerInfo(
        source=bundle.source,
        precision=bundle.precision,
        bundle_sha256=bundle.sha256,
        device=response.device,
        version=response.version,
        own=own,
        arguments=arguments,
    )
