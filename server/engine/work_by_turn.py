"""How much work waits, and until which turn."""

from __future__ import annotations

from .rate import Work

# Work is summed up by turn in steps of this many, to tell how much is ahead of a turn.
TURN_STEP = 4096


class WorkByTurn:
    """tokens, windows: of all."""

    def __init__(self) -> None:
        self.tokens = self.windows = 0
        # By step: tokens, windows.
        self._steps: dict[int, list[int]] = {}

    @property
    def all(self) -> Work:
        return Work(self.tokens, self.windows)

    @staticmethod
    def is_later(turn: int, other: int) -> bool:
        """Whether it is not counted in `until(other)`."""
        return turn // TURN_STEP > other // TURN_STEP

    def until(self, turn: int) -> Work:
        """What is to be done by then."""
        steps = [sums for step, sums in self._steps.items() if step <= turn // TURN_STEP]
        return Work(sum(tokens for tokens, _ in steps), sum(windows for _, windows in steps))

    def add(self, turn: int, tokens: int) -> None:
        """Of a window."""
        self.tokens += tokens
        self.windows += 1
        step = turn // TURN_STEP
        if (sums := self._steps.get(step)) is None:
            self._steps[step] = [tokens, 1]
        else:
            sums[0] += tokens
            sums[1] += 1

    def remove(self, turn: int, tokens: int) -> None:
        self.tokens -= tokens
        self.windows -= 1
        step = turn // TURN_STEP
        sums = self._steps[step]
        sums[0] -= tokens
        sums[1] -= 1
        if not sums[1]:
            del self._steps[step]
