"""What the suite saw, in figures: `build/chaos/report.json`, and a short table beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .sampler import Sample

# Of each test under load. `make chaos` has more.
SECONDS = float(os.environ.get("CHAOS_SECONDS", "5"))
SAMPLER = Path(__file__).with_name("sampler.py")


@dataclass(slots=True)
class Figures:
    """Of one test. counts: what was asked and what became of it. samples: by server."""

    test: str
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    samples: list[list[Sample]] = field(default_factory=list)

    @contextmanager
    def timed(self) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds = round(time.monotonic() - began, 1)

    @contextmanager
    def sampling(self, pid: int, address: str) -> Iterator[list[Sample]]:
        """Looks at the server inside the block; the list is filled when it is left."""
        samples: list[Sample] = []
        self.samples.append(samples)
        command = [sys.executable, str(SAMPLER), str(pid), address]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as sampler:
            try:
                yield samples
            finally:
                said, _ = sampler.communicate()
                samples += [Sample(**json.loads(line)) for line in said.splitlines()]


def grown_mb(samples: Sequence[Sample]) -> float:
    """By how much the memory of a server is higher in the last quarter than in the one after the
    first, which fills caches and pools. Negative where it fell."""
    quarter = max(1, len(samples) // 4)
    early = max(one.rss_mb for one in samples[quarter : 2 * quarter] or samples)
    return max(one.rss_mb for one in samples[-quarter:]) - early


def more(samples: Sequence[Sample], name: str) -> int:
    """The same of a number: threads, files."""
    quarter = max(1, len(samples) // 4)
    early = max(getattr(one, name) for one in samples[quarter : 2 * quarter] or samples)
    return int(min(getattr(one, name) for one in samples[-quarter:]) - early)


def write(figures: Sequence[Figures], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = [asdict(one) | {"counts": one.counts} for one in figures]
    (folder / "report.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    lines = [
        "| test | seconds | what became of it | servers | memory, MB | at the most | threads "
        "| files | longest wait for health, ms | health failed |",
        "| --- | ---: | --- | ---: | --- | ---: | --- | --- | ---: | ---: |",
    ]
    for one in figures:
        samples = [each for server in one.samples for each in server]
        counts = ", ".join(f"{name} {count:,}" for name, count in sorted(one.counts.items()))
        ranges = ["–", "–", "–"]
        if samples:
            ranges = [
                f"{min(values):g} to {max(values):g}"
                for values in (
                    [getattr(each, name) for each in samples]
                    for name in ("rss_mb", "threads", "files")
                )
            ]
        lines.append(
            f"| {one.test} | {one.seconds:.0f} | {counts} | {len(one.samples)} | {ranges[0]} "
            f"| {max((each.peak_mb for each in samples), default=0):g} | {ranges[1]} | {ranges[2]} "
            f"| {max((each.gap_ms for each in samples), default=0):g} "
            f"| {sum(each.failed for each in samples)} |"
        )
    (folder / "report.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
