"""How fast the engine is at present."""

from __future__ import annotations

HALF_LIFE_S = 2.0


class Rate:
    """Tokens that the engine computes in a second while it is busy; older batches count less."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0

    def add(self, tokens: int, seconds: float) -> None:
        """A batch kept the engine busy for `seconds` more."""
        decay = 0.5 ** (seconds / HALF_LIFE_S)
        self._tokens = self._tokens * decay + tokens
        self._seconds = self._seconds * decay + seconds

    def seconds(self, tokens: float) -> float:
        """How long so many tokens take at this rate; 0 while nothing is known."""
        return tokens * self._seconds / self._tokens if self._tokens else 0.0
