"""What letting go of Python's lock costs a batch on a GPU while an event loop is busy. No GPU.

    python benchmarks/scripts/gpu_driver_calls.py

A thread computes in Python without a pause, as an event loop under load does. Beside it a batch:
"before" hops to a thread of the GPU's and back, and makes eight calls that each let go of the lock
(two copies in, the enqueue, five copies out) before it waits; "now" makes its calls with the lock
held, and lets go of it once, to wait. The GPU is a sleep, and so is a
call.
"""

from __future__ import annotations

import argparse
import ctypes
import queue
import statistics
import threading
import time
from collections.abc import Callable

CALLS_BEFORE = 8
CALLS_NOW = 4  # push, launch, record, pop

released, held = ctypes.CDLL(None), ctypes.PyDLL(None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu_ms", type=float, default=1.0, help="what a batch takes on the GPU")
    parser.add_argument("--call_us", type=int, default=5, help="what a call takes that waits not")
    parser.add_argument("--batches", type=int, default=300)
    options = parser.parse_args()
    gpu_us = round(options.gpu_ms * 1000)
    stop = threading.Event()
    threading.Thread(target=busy, args=(stop,), daemon=True).start()
    tasks: queue.SimpleQueue[queue.SimpleQueue[None]] = queue.SimpleQueue()
    threading.Thread(target=gpu_thread, args=(tasks, gpu_us, options.call_us), daemon=True).start()
    for name, run in (
        ("before", lambda: hop(tasks)),
        ("now", lambda: batch_now(gpu_us, options.call_us)),
    ):
        times = sorted(measured(run) for _ in range(options.batches))
        median, slow = statistics.median(times), times[int(0.99 * len(times))]
        print(f"{name:>6}: {median:5.2f} ms a batch, 99 in 100 within {slow:5.2f} ms")
    stop.set()


def busy(stop: threading.Event) -> None:
    count = 0
    while not stop.is_set():
        count += sum(range(200))


def measured(run: Callable[[], None]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1000


def hop(tasks: queue.SimpleQueue[queue.SimpleQueue[None]]) -> None:
    done: queue.SimpleQueue[None] = queue.SimpleQueue()
    tasks.put(done)
    done.get()


def gpu_thread(
    tasks: queue.SimpleQueue[queue.SimpleQueue[None]], gpu_us: int, call_us: int
) -> None:
    while True:
        done = tasks.get()
        started = time.perf_counter()
        for _ in range(CALLS_BEFORE):
            released.usleep(call_us)
        # The GPU has worked since the calls were made, so less is left to wait for.
        left = gpu_us - (time.perf_counter() - started) * 1e6
        released.usleep(max(0, round(left)))
        done.put(None)


def batch_now(gpu_us: int, call_us: int) -> None:
    for _ in range(CALLS_NOW):
        held.usleep(call_us)
    released.usleep(gpu_us)


if __name__ == "__main__":
    main()
