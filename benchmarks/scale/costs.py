"""The service times that were measured, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..environment import Machine
from .site import EngineTimes

DEFAULT = Path(__file__).with_name("costs.json")


@dataclass(frozen=True, slots=True)
class Spread:
    """Of the rounds."""

    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class EngineCosts:
    """CPU time of an engine on one thread: for a window, a token (padding included), and a run of
    any size, in µs.

    windows_per_second: of one core, the data's windows in batches sorted by length.
    batch_tokens: the token budget of a thread.
    """

    device: str
    bundle: str
    batch_tokens: int
    window_us: float
    token_us: float
    run_us: float
    windows_per_second: Spread


@dataclass(frozen=True, slots=True)
class Costs:
    """CPU time in µs.

    server_us: {way to ask: for a question, of one process with the null engine, all in all}.
    front_us: {way to ask: the same without what the batcher and padding take}.
    window_us, batch_us: what those take, for a window, and for a batch of any size.
    questions: {lengths of a question's windows, in tokens, padded to the engine's buckets, such
        as "384+272": how many questions of the data}.
    load_average: of the machine over a minute, before and after.
    """

    server_us: Mapping[str, Spread]
    front_us: Mapping[str, float]
    window_us: float
    batch_us: float
    engine: EngineCosts
    questions: Mapping[str, int]
    data: str
    machine: Machine
    load_average: tuple[float, float]
    versions: Mapping[str, str | None]
    command: str

    def engine_times(self, threads: int) -> EngineTimes:
        """Of a replica whose engine is as many times as fast as it has threads."""
        engine = self.engine
        return EngineTimes(
            window_s=engine.window_us / threads * 1e-6,
            token_s=engine.token_us / threads * 1e-6,
            run_s=engine.run_us / threads * 1e-6,
            host_window_s=self.window_us * 1e-6,
            host_batch_s=self.batch_us * 1e-6,
            batch_tokens=engine.batch_tokens * threads,
        )

    def lengths(self) -> tuple[list[tuple[int, ...]], list[float]]:
        """Of the windows of a question, and how often, as shares."""
        all_ = sum(self.questions.values())
        lengths = [tuple(int(n) for n in name.split("+")) for name in self.questions]
        return lengths, [count / all_ for count in self.questions.values()]


def write_costs(costs: Costs, path: Path) -> None:
    path.write_text(json.dumps(asdict(costs), indent=1) + "\n", encoding="utf-8")


def read_costs(path: Path) -> Costs:
    raw = json.loads(path.read_text(encoding="utf-8"))
    engine = raw["engine"]
    engine["windows_per_second"] = Spread(**engine["windows_per_second"])
    raw["engine"] = EngineCosts(**engine)
    raw["server_us"] = {way: Spread(**spread) for way, spread in raw["server_us"].items()}
    raw["machine"] = Machine(**raw["machine"])
    raw["load_average"] = tuple(raw["load_average"])
    return Costs(**raw)
