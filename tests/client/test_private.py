"""The private server ends with its client, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from electra_qa.bundle import Bundle

OWNER = """
import sys, time
from electra_qa.client import PrivateServer
server = PrivateServer(sys.argv[1])
print(server.address, flush=True)
time.sleep(300)
"""


def servers_at(address: str) -> list[int]:
    """Processes that serve at an address, from /proc."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if address.encode() in arguments and b"serve" in arguments:
            found.append(int(entry.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs /proc")
def test_a_killed_client_leaves_no_server_behind(bundle: Bundle) -> None:
    command = [sys.executable, "-c", OWNER, str(bundle.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        address = owner.stdout.readline().strip()
        assert len(servers_at(address)) == 1
        os.kill(owner.pid, signal.SIGKILL)
    give_up = time.monotonic() + 60
    while servers_at(address) and time.monotonic() < give_up:
        time.sleep(0.1)
    assert servers_at(address) == []
