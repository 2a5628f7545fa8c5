"""A forked child uses what its parent made, and leaves it alone when it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# What the children do is in their exit status; a hang ends them with SIGALRM.
PROGRAM = """
import gc, multiprocessing, os, signal, sys, threading, time
from pathlib import Path
from electra_qa.client import Client
from electra_qa.private import ServerProcess

QUESTION = ("Who founded Rome?", "Rome was founded by Romulus.")
server = ServerProcess(arguments=["--engine", "null", "--warm-up-lengths", "none"])
client = Client(server.address)
folder = Path(server.address.removeprefix("unix:")).parent

def use(how):
    signal.alarm(90)
    global server, client
    if how != "nothing":
        assert client.answer(*QUESTION, timeout=60).windows == 1
    if how == "close":
        client.close()
        server.close()
    if how == "collect":
        del server, client
        gc.collect()

go_on = threading.Event()

def stream(count):
    for number in range(count):
        if number == count // 2:
            go_on.wait()
        yield str(number), QUESTION

def child_of_fork(how, leave):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            use(how)
            status = 0
        finally:
            leave(status)
    assert os.waitpid(child, 0)[1] == 0, (how, leave)

for asked_before in (False, True):
    if asked_before:
        assert client.answer(*QUESTION).windows == 1
    for how in ("nothing", "answer", "close", "collect"):
        child_of_fork(how, sys.exit)
        child_of_fork(how, os._exit)
        process = multiprocessing.get_context("fork").Process(target=use, args=(how,))
        process.start()
        process.join()
        assert process.exitcode == 0, how
        assert client.answer(*QUESTION, timeout=60).windows == 1, how

# With a call under way, whose connection the child has as well.
answered = []
thread = threading.Thread(
    target=lambda: [answered.append(one) for one in client.answer_stream(stream(60))]
)
thread.start()
# Where another thread is within gRPC at the moment of the fork, a child that asks may end by a
# check of gRPC's own: the call is open, and nothing is on its way.
while len(answered) < 30:
    time.sleep(0.01)
time.sleep(0.5)
for how in ("answer", "close"):
    child_of_fork(how, os._exit)
go_on.set()
thread.join()
assert len(answered) == 60

# A child that lives on does not keep the server up.
child = os.fork()
if child == 0:
    time.sleep(300)
    os._exit(0)
began = time.monotonic()
server.close()
assert time.monotonic() - began < 100
assert not folder.exists()
os.kill(child, signal.SIGKILL)
print("all of it")
"""


def test_forked_children_leave_the_server_to_its_maker() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False, timeout=500
    )
    assert ended.stdout.strip() == "all of it", ended.stderr


KILLED = """
import os, sys, time
from electra_qa.private import ServerProcess
server = ServerProcess(arguments=["--engine", "null", "--warm-up-lengths", "none"])
if os.fork() == 0:
    time.sleep(60)
    os._exit(0)
print(server.address, flush=True)
time.sleep(60)
"""


def test_a_killed_maker_leaves_no_folder_behind() -> None:
    """Though a child of its lives on."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as maker:
        assert maker.stdout is not None
        folder = Path(maker.stdout.readline().strip().removeprefix("unix:")).parent
        assert (folder / "socket").exists()
        os.kill(maker.pid, signal.SIGKILL)
        maker.wait()
        give_up = time.monotonic() + 50
        while folder.exists() and time.monotonic() < give_up:
            time.sleep(0.1)
        os.killpg(maker.pid, signal.SIGKILL)
    assert not folder.exists()
