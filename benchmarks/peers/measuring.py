"""Every peer in turns: throughput in rounds over the same questions, then latency at one rate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from electra_qa.squad import SquadQuestion

from ..load import OK, open_loop, poisson
from .asking import Answer, Asker, AskError, Question
from .roster import REFERENCE
from .running import Running

TURN_TIMEOUT_S = 900.0
SINGLE_QUESTIONS = 24
# Of what the slowest can carry one question at a time.
RATE_SHARE = 0.6
# Whoever carries less than this share of the reference is not asked at the rate: it would leave the
# others all but idle.
TOO_SLOW = 1 / 3
# Latency is measured in this many turns each, so that a slow minute of the machine is everybody's.
LATENCY_TURNS = 3

Say = Callable[[str], None]


@dataclass(slots=True)
class Figures:
    """What was measured of a peer.

    questions_per_second: of each round.
    single_per_second: questions a second where the next is asked when the last was answered.
    memory_mb: the highest at the end of a turn.
    answers: by the question's id.
    latencies_ms: at the rate, from when a question was due, of those that were answered.
    send_lag_p99_ms: how late the driver was, at that rate.
    errors: questions without an answer, by what was said instead.
    failed: why it was left out from some turn on.
    """

    questions_per_second: list[float] = field(default_factory=list)
    single_per_second: float = 0.0
    memory_mb: float = 0.0
    answers: dict[str, Answer] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)
    send_lag_p99_ms: float = 0.0
    errors: dict[str, int] = field(default_factory=dict)
    failed: str | None = None


# What a peer is asked in one turn.
Turn = Callable[[Asker, Figures], Awaitable[None]]


class Comparison:
    """`figures` has those of every peer, by its name."""

    def __init__(self, running: Sequence[Running], say: Say) -> None:
        self.figures = {one.peer.name: Figures() for one in running}
        self._running = list(running)
        self._say = say

    async def warm_up(self, questions: Sequence[Question]) -> None:
        """All questions at once, then some of them one by one."""
        for one in list(self._running):
            await self._turn(one, self._warm_up(questions))

    def _warm_up(self, questions: Sequence[Question]) -> Turn:
        async def turn(asker: Asker, figures: Figures) -> None:
            await asker.answer_all(questions)
            singles = questions[:SINGLE_QUESTIONS]
            await asker.answer(singles[0])
            seconds = []
            for question in singles:
                started = time.perf_counter()
                await asker.answer(question)
                seconds.append(time.perf_counter() - started)
            figures.single_per_second = len(seconds) / sum(seconds)
            asker.errors.clear()

        return turn

    async def throughput(self, questions: Sequence[SquadQuestion], rounds: int) -> None:
        """The questions are cut into rounds; in each, every peer answers the same ones."""
        for number in range(rounds):
            chunk = questions[number::rounds]
            # Whoever comes after the slowest does so once, not always.
            shift = number % len(self._running) if self._running else 0
            for one in self._running[shift:] + self._running[:shift]:
                await self._turn(one, self._answer_chunk(chunk))
                speeds = self.figures[one.peer.name].questions_per_second
                if speeds:
                    self._say(
                        f"round {number + 1}/{rounds}, {one.peer.name}: {speeds[-1]:.1f} a second"
                    )

    def _answer_chunk(self, chunk: Sequence[SquadQuestion]) -> Turn:
        questions = [(q.question, q.context) for q in chunk]

        async def turn(asker: Asker, figures: Figures) -> None:
            started = time.perf_counter()
            answers = await asker.answer_all(questions)
            seconds = time.perf_counter() - started
            answered = {q.id: a for q, a in zip(chunk, answers, strict=True) if a is not None}
            figures.questions_per_second.append(len(answered) / seconds)
            figures.answers |= answered

        return turn

    def rate_for_all(self) -> float:
        """Questions a second that everybody carries who is not too slow."""
        carried = {name: _carries(self.figures[name]) for name in self._names()}
        least = TOO_SLOW * carried.get(REFERENCE, 0.0)
        return RATE_SHARE * min(speed for speed in carried.values() if speed >= least)

    def _names(self) -> list[str]:
        return [one.peer.name for one in self._running]

    async def latency(
        self,
        questions: Sequence[SquadQuestion],
        rate: float,
        seconds: float,
        *,
        everyone: bool,
        seed: int,
    ) -> None:
        """Questions come by a Poisson process, at the same instants for all.

        everyone: also those who do not carry the rate.
        """
        pairs = [(q.question, q.context) for q in questions]
        for number in range(LATENCY_TURNS):
            rng = np.random.default_rng((seed, number))
            arrivals = poisson(rate, seconds / LATENCY_TURNS, rng)
            first = int(rng.integers(len(pairs)))
            for one in list(self._running):
                if not everyone and _carries(self.figures[one.peer.name]) <= rate:
                    continue
                await self._turn(one, self._at_rate(pairs, arrivals.tolist(), first))
                self._say(f"latency {number + 1}/{LATENCY_TURNS}, {one.peer.name}")

    def _at_rate(
        self, questions: Sequence[Question], arrivals: Sequence[float], first: int
    ) -> Turn:
        async def turn(asker: Asker, figures: Figures) -> None:
            async def send(request: int) -> str:
                try:
                    await asker.answer(questions[(first + request) % len(questions)])
                except AskError as error:
                    return asker.count(error)
                return OK

            recording = await open_loop(send, arrivals)
            latencies = recording.latencies[recording.ok]
            figures.latencies_ms += [round(1e3 * value, 3) for value in latencies.tolist()]
            if len(arrivals):
                lag = 1e3 * float(np.quantile(recording.send_lags, 0.99))
                figures.send_lag_p99_ms = max(figures.send_lag_p99_ms, lag)

        return turn

    async def _turn(self, one: Running, turn: Turn) -> None:
        """A peer that fails its turn is out: the others go on."""
        figures = self.figures[one.peer.name]
        try:
            async with asyncio.timeout(TURN_TIMEOUT_S), one.turn() as asker:
                await turn(asker, figures)
                figures.memory_mb = max(figures.memory_mb, one.memory_mb())
                figures.errors = dict(asker.errors)
        except (AskError, TimeoutError, OSError) as error:
            figures.failed = f"{type(error).__name__}: {error}"
            self._running.remove(one)
            self._say(f"{one.peer.name} is out: {figures.failed}")


def _carries(figures: Figures) -> float:
    """Questions a second, whether many are there or one at a time."""
    rounds = figures.questions_per_second
    return min(figures.single_per_second, float(np.median(rounds))) if rounds else 0.0
