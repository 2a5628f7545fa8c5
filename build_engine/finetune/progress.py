"""What a run says of itself while it goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from torch.utils.tensorboard import SummaryWriter


@dataclass
class Progress:
    """Lines on the console and TensorBoard's files, every `every` steps.

    Of `first` steps that an earlier run did nothing is said.
    """

    console: Console
    logs: Path
    every: int
    first: int
    total: int
    _losses: list[float] = field(default_factory=list)
    _tokens: int = 0

    def __post_init__(self) -> None:
        self._writer = SummaryWriter(str(self.logs), purge_step=self.first or None)
        self._began = self._since = time.monotonic()

    def step(self, done: int, loss: float, tokens: int, learning_rate: float) -> None:
        """After the step number `done`, counted from 1, with its loss and its tokens."""
        self._losses.append(loss)
        self._tokens += tokens
        if done % self.every and done != self.total:
            return
        now = time.monotonic()
        mean = sum(self._losses) / len(self._losses)
        rate = self._tokens / (now - self._since)
        left = (now - self._began) / (done - self.first) * (self.total - done)
        self.console.print(
            f"step {done:,}/{self.total:,}  loss {mean:.3f}  {rate:,.0f} tokens/s  "
            f"{left / 60:.0f} min left",
            highlight=False,
        )
        for name, value in (
            ("train/loss", mean),
            ("train/tokens_per_second", rate),
            ("train/learning_rate", learning_rate),
        ):
            self._writer.add_scalar(name, value, done)
        self._losses, self._tokens, self._since = [], 0, now

    def evaluated(self, done: int, exact: float, f1: float, threshold: float) -> None:
        """The time of an evaluation is none of the training's."""
        self.console.print(
            f"step {done:,}: held-out EM {exact:.2f}, F1 {f1:.2f} at threshold {threshold:.2f}",
            highlight=False,
        )
        for name, value in (("exact", exact), ("f1", f1), ("threshold", threshold)):
            self._writer.add_scalar(f"held_out/{name}", value, done)
        self._since = time.monotonic()

    def close(self) -> None:
        self._writer.close()
