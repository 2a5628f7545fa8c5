"""Ctrl-C while the blocking client asks."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from electra_qa.private import ServerProcess

# A timer's signal does to a program what Ctrl-C does, at a moment that is chosen more finely.
PROGRAM = """
import faulthandler, os, random, signal, sys
from electra_qa.client import Client

_, address, call, times = sys.argv
FOUNDED = ("Who founded Rome?", "Rome was founded by Romulus.")
calls = {
    "answer_many": lambda client: list(client.answer_many([FOUNDED] * 40, batch_size=2)),
    "answer_stream": lambda client: list(client.answer_stream([("1", FOUNDED)] * 9)),
    "wait_until_ready": lambda client: client.wait_until_ready(),
}

def interrupted(seed):
    faulthandler.dump_traceback_later(60, exit=True)
    random.seed(seed)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with Client(address) as client:
            client.info()
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.02))
            while True:
                calls[call](client)
    except KeyboardInterrupt:
        pass
    except RuntimeError as error:
        # Python's own, where the signal comes while it leaves a Condition.
        assert "un-acquired lock" in str(error), error

# Nothing of gRPC has begun here, so that it works in each child.
for seed in range(int(times)):
    child = os.fork()
    if child == 0:
        interrupted(seed)
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
print("all of it")
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    arguments = ["--engine", "null", "--warm-up-lengths", "none"]
    with ServerProcess(arguments=arguments) as server:
        yield server.address


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("call", ["answer_many", "answer_stream", "wait_until_ready"])
def test_it_ends_the_client_at_any_moment(address: str, call: str) -> None:
    """Without `electra_qa.interrupts` closing waits for ever after one in ten."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, address, call, "25"],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert ended.stdout == "all of it\n", ended.stderr
