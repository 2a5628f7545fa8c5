"""How fast the engine is at present."""

from __future__ import annotations

from dataclasses import dataclass

HALF_LIFE_S = 2.0
# Of the batches seen: 0 where all have windows of one length, so that nobody can tell what a token
# costs and what a window; the square of a sine. This is about a spread of a seventh.
LEAST_SPREAD = 0.02


@dataclass(frozen=True, slots=True)
class Work:
    """What there is to compute."""

    tokens: float = 0
    windows: float = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.windows + other.windows)

    def __sub__(self, other: Work) -> Work:
        return Work(self.tokens - other.tokens, self.windows - other.windows)


class Rate:
    """What a token and a window cost of the engine's time while it is busy; older batches count
    less.

    Costs are those of the least squares, none under 0. Where windows of only one length have been
    seen, calls of others get the benefit of the doubt: whoever is refused teaches nothing.
    """

    def __init__(self) -> None:
        self._tokens = self._windows = self._seconds = 0.0
        # Sums of products, for the normal equations: (tokens, windows) against seconds.
        self._tt = self._tw = self._ww = self._ts = self._ws = 0.0

    def add(self, work: Work, seconds: float) -> None:
        """A batch kept the engine busy for `seconds` more."""
        decay = 0.5 ** (seconds / HALF_LIFE_S)
        tokens, windows = work.tokens, work.windows
        self._tokens = self._tokens * decay + tokens
        self._windows = self._windows * decay + windows
        self._seconds = self._seconds * decay + seconds
        self._tt = self._tt * decay + tokens * tokens
        self._tw = self._tw * decay + tokens * windows
        self._ww = self._ww * decay + windows * windows
        self._ts = self._ts * decay + tokens * seconds
        self._ws = self._ws * decay + windows * seconds

    def seconds(self, work: Work) -> float:
        """How long it takes at this rate; 0 while nothing is known."""
        if not self._tokens:
            return 0.0
        by_tokens = work.tokens * self._seconds / self._tokens
        by_windows = work.windows * self._seconds / self._windows
        determinant = self._tt * self._ww - self._tw**2
        if determinant < LEAST_SPREAD * self._tt * self._ww:
            return min(by_tokens, by_windows)
        a_token = (self._ts * self._ww - self._ws * self._tw) / determinant
        a_window = (self._ws * self._tt - self._ts * self._tw) / determinant
        if a_token < 0:
            return by_windows
        if a_window < 0:
            return by_tokens
        return work.tokens * a_token + work.windows * a_window
