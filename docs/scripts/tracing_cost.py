"""What tracing and the log of requests cost a call while they are off.

python docs/scripts/tracing_cost.py
"""

from __future__ import annotations

import time
import timeit

from electra_qa.client.tracing import with_trace
from electra_qa.server.observe import logs

CALLS = 200_000


def server() -> None:
    logs.request_began()
    for _ in range(3):
        time.monotonic()
    logs.questions_answered((), (), ())
    logs.request_ended("Answer", "OK", 0.1)


def client() -> None:
    with_trace(None)


for function in (server, client):
    seconds = min(timeit.repeat(function, number=CALLS, repeat=5)) / CALLS
    print(f"{function.__name__}: {seconds * 1e6:.2f} µs")
