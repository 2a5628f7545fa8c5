"""Looks at a server while others load it; a program, so that their work does not delay its own.

python sampler.py PID ADDRESS: a JSON object a line, the fields of `Sample`, until the process or
the standard input ends.
"""

from __future__ import annotations

import json
import select
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

INTERVAL_S = 0.25
# Between two questions for its health: no gap of the event loop over this is missed.
HEALTH_INTERVAL_S = 0.01
HEALTH_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Sample:
    """at_s: since the first. rss_mb, peak_mb: memory now, and at the most so far.

    gap_ms: the longest that health took to answer since the sample before. failed: how often it did
    not answer at all.
    """

    at_s: float
    rss_mb: float
    peak_mb: float
    threads: int
    files: int
    gap_ms: float
    failed: int


def sample(pid: int, at_s: float, gap_ms: float, failed: int) -> Sample:
    """Raises OSError or KeyError where the process has ended."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return Sample(
        round(at_s, 2),
        round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        round(int(fields["VmHWM"].split()[0]) / 1024, 1),
        int(fields["Threads"]),
        sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir()),
        round(gap_ms, 1),
        failed,
    )


def main(pid: int, address: str) -> None:
    began = time.monotonic()
    with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        while True:
            gap_ms, failed = 0.0, 0
            until = time.monotonic() + INTERVAL_S
            while True:
                asked = time.monotonic()
                try:
                    health.Check(health_pb2.HealthCheckRequest(), timeout=HEALTH_TIMEOUT_S)
                except grpc.RpcError:
                    failed += 1
                gap_ms = max(gap_ms, (time.monotonic() - asked) * 1e3)
                if time.monotonic() >= until:
                    break
                time.sleep(HEALTH_INTERVAL_S)
            try:
                one = sample(pid, time.monotonic() - began, gap_ms, failed)
            except (OSError, KeyError):
                return
            print(json.dumps(asdict(one)), flush=True)
            if select.select([sys.stdin], [], [], 0)[0]:
                return


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
