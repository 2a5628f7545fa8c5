"""More is asked than a server can answer: it says so at once, and answers as many as before."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from electra_qa.bundle import Bundle
from electra_qa.client import (
    AsyncClient,
    DeadlineExceededError,
    ElectraQAError,
    ResourceExhaustedError,
    Result,
)

from .questions import QUESTIONS
from .report import SECONDS, Figures
from .serving import server

# An engine with a speed of its own, so that the machine's does not matter: two windows in 20 ms.
SLOW = """
import sys, time
from electra_qa.cli import main
from electra_qa.engines.null import NullEngine

run = NullEngine.run

def slow(self, batch):
    time.sleep(0.02)
    return run(self, batch)

NullEngine.run = slow
if __name__ == "__main__":  # not where a process of the server's begins
    sys.argv[0] = "electra-qa"
    main()
"""
CAPACITY = 100
TIMES = (2, 5)
# Of one window each.
SHORT = [number for number in range(len(QUESTIONS)) if number % 4 == 0]
TIMEOUT_S = 0.5
# The null engine's answer to all of them.
FIRST_TOKEN = ("Rome", 0, 4)


class Overload:
    """first: a number that no other caller's questions have."""

    def __init__(self, client: AsyncClient, first: int = 0) -> None:
        self.client = client
        self.counts: Counter[str] = Counter()
        self.bad: list[object] = []
        self._asked = itertools.count(first)

    def question(self, number: int) -> tuple[str, str]:
        """One that none is the same as: what is the same would be computed once, and be no load."""
        question, context = QUESTIONS[number]
        return f"{question} {next(self._asked)}", context

    def judge(self, outcome: Result | ElectraQAError, timeout: float | None) -> None:
        self.counts["asked"] += 1
        if isinstance(outcome, Result):
            best = outcome.answers[0]
            if (best.text, best.start, best.end) == FIRST_TOKEN:
                self.counts["answered"] += 1
                return
        elif isinstance(outcome, ResourceExhaustedError) and outcome.retry_after_s is not None:
            self.counts["refused"] += 1
            return
        elif isinstance(outcome, DeadlineExceededError) and timeout is not None:
            self.counts["late"] += 1
            return
        self.bad.append(outcome)

    async def one(self, number: int, timeout: float | None) -> None:
        try:
            outcome: Result | ElectraQAError = await self.client.answer(
                *self.question(number), timeout=timeout
            )
        except ElectraQAError as error:
            outcome = error
        self.judge(outcome, timeout)

    async def batch(self, numbers: list[int]) -> None:
        outcomes: list[Result | ElectraQAError]
        try:
            outcomes = await self.client.answer_batch([self.question(number) for number in numbers])
        except ElectraQAError as error:
            outcomes = [error] * len(numbers)
        assert len(outcomes) == len(numbers)
        for outcome in outcomes:
            self.judge(outcome, None)

    async def many(self, stop: asyncio.Event) -> None:
        """The patient one has its answers in the end."""
        while not stop.is_set():
            pairs = [self.question(number) for number in SHORT]
            async for outcome in self.client.answer_many(pairs, batch_size=2, concurrency=2):
                self.judge(outcome, None)
                assert isinstance(outcome, Result), outcome

    async def offer(self, rate: float, seconds: float) -> None:
        """In time, whatever becomes of those before."""
        began = time.monotonic()
        asked, calls = 0, set[asyncio.Task[None]]()
        while (passed := time.monotonic() - began) < seconds:
            while asked < rate * passed:
                number = SHORT[asked % len(SHORT)]
                call: Coroutine[Any, Any, None] = (
                    self.batch([number] * 4)
                    if asked % 20 == 0
                    else self.one(number, TIMEOUT_S if asked % 3 == 0 else None)
                )
                asked += 4 if asked % 20 == 0 else 1
                calls.add(asyncio.create_task(call))
            await asyncio.sleep(0.005)
        async with asyncio.timeout(60):
            await asyncio.gather(*calls)


async def test_what_there_is_no_room_for_is_refused_with_a_time_to_come_back(
    tiny_bundle: Bundle, tmp_path: Path, figures: Figures
) -> None:
    address = f"unix:{tmp_path}/socket"
    options = ["--bundle", str(tiny_bundle.path), "--address", address, "--engine", "null"]
    options += ["--max-batch-tokens", "64", "--max-queue-tokens", "4000"]
    options += ["--warm-up-lengths", "none"]
    with server(tmp_path, *options, program=SLOW) as serving:
        async with AsyncClient(address) as client:
            await client.wait_until_ready(60)
            overload, stop = Overload(client), asyncio.Event()
            with figures.timed(), figures.sampling(serving.process.pid, address) as samples:
                patient = asyncio.create_task(overload.many(stop))
                for times in TIMES:
                    before = overload.counts["answered"]
                    began = time.monotonic()
                    await overload.offer(times * CAPACITY, SECONDS / len(TIMES))
                    took = time.monotonic() - began
                    answered = overload.counts["answered"] - before
                    figures.counts[f"a second at {times} times"] = round(answered / took)
                    assert answered > 0
                stop.set()
                async with asyncio.timeout(120):
                    await patient
    figures.counts += overload.counts
    assert not overload.bad
    assert overload.counts["refused"] > 0
    assert all(one.failed == 0 for one in samples)
    assert "Traceback" not in serving.log
