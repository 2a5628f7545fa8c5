"""What the batcher costs of a window, in CPU time, with an engine that computes nothing.

Of all threads, so that another process on the machine does not count. `engine` is what the null
engine itself takes, and not in `all`; `around it` is padding, and the way to the engine's thread
and back; `loop` is what is left: futures, callbacks and the callers' tasks; `collector` is Python's
garbage collector. `all` is measured without looking at the parts. `make` (question and context to
windows) and `merge` (a question's windows to its best answer) are measured by themselves, since
they need not run in the same process.

No two windows that wait are the same, and every call has a deadline, far away. Two states of the
code are compared in turns, a process each:

python benchmarks/scripts/batcher_cost.py --checkout . --checkout ../before
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np

WAITING = 5_000
# How many windows a measurement takes, with a full queue and with an empty one.
MEASURED = {True: 30_000, False: 3_000}
# How many windows a question has, and how many questions a call.
CALLS = {"1 question": (1, 1), "32 questions": (1, 32), "100 windows": (100, 1)}
QUESTION_TOKENS = 12
# To look at the clock may cost as much as a call does: one of so many is looked at.
SAMPLED = 8


class Spent:
    """CPU seconds of a thread in functions, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(
        self, name: str, function: Callable[..., Any], *, one_of: int = 1
    ) -> Callable[..., Any]:
        self.seconds[name] = 0.0
        calls = itertools.count()

        def run(*arguments: Any) -> Any:
            if next(calls) % one_of:
                return function(*arguments)
            began = time.thread_time()
            try:
                return function(*arguments)
            finally:
                self.seconds[name] += (time.thread_time() - began) * one_of

        return run


class TimedEngine:
    """The null engine, and how long its thread took for it and for everything around it."""

    def __init__(self, engine: Any) -> None:
        self.slots = engine.slots
        self.batch_tokens = engine.batch_tokens
        self.buckets = engine.buckets
        self.device = engine.device
        self.inside = self.around = 0.0
        self._engine = engine
        self._last: float | None = None

    def run(self, batch: Any) -> Any:
        began = time.thread_time()
        if self._last is not None:
            self.around += began - self._last
        decoded = self._engine.run(batch)
        self._last = time.thread_time()
        self.inside += self._last - began
        return decoded


def round_of_all() -> dict[str, dict[str, float]]:
    """µs a window of each part, by what was measured."""
    from electra_qa.bundle import default_bundle_path, load_bundle
    from electra_qa.engines import EngineSettings, load_engine

    engine = load_engine(load_bundle(default_bundle_path()), EngineSettings(device="null"))
    requests = some_requests()
    gc.collect()
    gc.freeze()  # they are not the batcher's
    figures = {}
    for name, (windows, questions) in CALLS.items():
        calls = calls_of(requests[windows], questions)
        for full in (False, True):
            queue = f"{WAITING:,} waiting" if full else "nearly empty"
            figures[f"{name}, {queue}"] = asyncio.run(batched(engine, calls, windows, full))
    figures["make"] = {name: made(windows) for name, (windows, _) in CALLS.items()}
    figures["merge"] = {name: merged(windows) for name, (windows, _) in CALLS.items()}
    return figures


def random_ids(rng: np.random.Generator, count: int) -> Any:
    return rng.integers(1_000, 30_000, count, dtype=np.int32)


def some_requests() -> dict[int, list[Any]]:
    """Questions of one window with 60 to 300 tokens, and such of 100 windows, all unlike."""
    from electra_qa.server.engine.batcher import WindowRequest

    rng = np.random.default_rng(0)
    short = [random_ids(rng, int(rng.integers(60, 300))) for _ in range(3 * WAITING)]
    long = [random_ids(rng, LONG_CONTEXT) for _ in range(3 * WAITING // 100)]
    return {
        1: [WindowRequest(windows_of(random_ids(rng, QUESTION_TOKENS), c), 30) for c in short],
        100: [WindowRequest(windows_of(random_ids(rng, QUESTION_TOKENS), c), 30) for c in long],
    }


# 99 strides, and what the last window has.
LONG_CONTEXT = 99 * 128 + 384 - QUESTION_TOKENS - 3


def windows_of(question: Any, context: Any) -> list[Any]:
    from electra_qa.windows import WindowSettings, make_windows

    return make_windows(question, context, settings=WindowSettings(), cls_id=101, sep_id=102)


def calls_of(requests: list[Any], questions: int) -> Iterator[list[Any]]:
    forever = itertools.cycle(requests)
    while True:
        yield list(itertools.islice(forever, questions))


async def batched(
    engine: Any, calls: Iterator[list[Any]], windows: int, full: bool
) -> dict[str, float]:
    """µs a window: by so many callers at once that the queue is full, or by one."""
    from electra_qa.server.engine.batcher import Batcher
    from electra_qa.server.observe.metrics import Metrics

    timed = TimedEngine(engine)
    batcher = Batcher(timed, pad_id=0, max_queue_tokens=10**9, metrics=Metrics())
    of_a_call = windows * len(next(calls))
    left = 0
    deadline = asyncio.get_running_loop().time() + 1e6
    submit: Callable[..., Any] = batcher.submit

    async def caller() -> None:
        nonlocal left
        while left > 0:
            left -= of_a_call
            await submit(next(calls), deadline)

    async def run(count: int) -> float:
        nonlocal left
        left = count
        callers = -(-WAITING // of_a_call) if full else 1
        began = time.process_time()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return time.process_time() - began

    await run(MEASURED[full] // 10)
    with collector_timed() as collector:
        timed.inside = 0.0
        everything = await run(MEASURED[full]) - timed.inside
    # The parts without the collector, which comes in any of them.
    gc.disable()
    spent = Spent()
    submit = spent.timed("submit", batcher.submit, one_of=SAMPLED)
    for name in ("dispatch", "finish"):
        setattr(batcher, f"_{name}", spent.timed(name, getattr(batcher, f"_{name}")))
    timed.inside = timed.around = 0.0
    instrumented = await run(MEASURED[full]) - timed.inside
    gc.enable()
    batcher.close()
    parts = {**spent.seconds, "around it": timed.around}
    parts["loop"] = instrumented - sum(parts.values())
    parts |= {"collector": sum(collector), "all": everything, "engine": timed.inside}
    return {name: seconds / MEASURED[full] * 1e6 for name, seconds in parts.items()}


@contextmanager
def collector_timed() -> Iterator[list[float]]:
    """The CPU seconds of each of the garbage collector's runs."""
    spent: list[float] = []

    def note(phase: str, _: object) -> None:
        spent.append(time.thread_time() * (1 if phase == "stop" else -1))

    gc.callbacks.append(note)
    yield spent
    gc.callbacks.remove(note)


def repeated(function: Callable[[], object], windows: int) -> float:
    """µs a window."""
    times = max(1, 4_000 // windows)
    function()
    began = time.process_time()
    for _ in range(times):
        function()
    return (time.process_time() - began) / times / windows * 1e6


def made(windows: int) -> float:
    rng = np.random.default_rng(0)
    question = random_ids(rng, QUESTION_TOKENS)
    context = random_ids(rng, 170 if windows == 1 else LONG_CONTEXT)
    return repeated(lambda: windows_of(question, context), windows)


def merged(windows: int) -> float:
    from electra_qa.merge import merge
    from electra_qa.spans import DecodeOptions, decode, row
    from electra_qa.tokenization import TokenizedContext

    rng = np.random.default_rng(0)
    tokens = 170 if windows == 1 else LONG_CONTEXT
    cut = windows_of(random_ids(rng, QUESTION_TOKENS), random_ids(rng, tokens))
    places = np.arange(tokens, dtype=np.int32)
    offsets = np.stack((places * 5, places * 5 + 4), axis=-1)
    context = TokenizedContext("word " * tokens, random_ids(rng, tokens), offsets, places)
    decoded = []
    for window in cut:
        start, end = rng.normal(size=(2, 1, window.length)).astype(np.float32)
        decoded.append(row(decode(start, end, np.array([window.bounds(30)]), 20), 0))
    options = DecodeOptions()
    return repeated(lambda: merge(context, cut, decoded, options), windows)


def in_its_process(checkout: Path) -> dict[str, dict[str, float]]:
    ran = subprocess.run(
        [sys.executable, __file__, "--checkout", str(checkout), "--once"],
        check=True,
        capture_output=True,
    )
    figures: dict[str, dict[str, float]] = json.loads(ran.stdout)
    return figures


def import_from(checkout: Path) -> None:
    """Whatever is installed."""
    sys.path.insert(0, str(checkout))
    import electra_qa

    electra_qa.__path__.append(str(checkout))


@click.command()
@click.option(
    "--checkout",
    "checkouts",
    type=click.Path(exists=True, path_type=Path, resolve_path=True),
    multiple=True,
    default=[Path(__file__).resolve().parents[2]],
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--once", is_flag=True, hidden=True)
def main(checkouts: tuple[Path, ...], rounds: int, once: bool) -> None:
    """µs of CPU time a window: medians of the rounds."""
    if once:
        import_from(checkouts[0])
        click.echo(json.dumps(round_of_all()))
        return
    seen: dict[Path, list[dict[str, dict[str, float]]]] = {path: [] for path in checkouts}
    for _ in range(rounds):
        for path in checkouts:
            seen[path].append(in_its_process(path))
    for path, of_path in seen.items():
        click.echo(f"\n{path.name}: µs a window")
        for what, parts in of_path[0].items():
            medians = {
                part: statistics.median(figures[what][part] for figures in of_path)
                for part in parts
            }
            shown = "  ".join(f"{part} {value:.1f}" for part, value in medians.items())
            click.echo(f"{what:27} {shown}")


if __name__ == "__main__":
    main()
