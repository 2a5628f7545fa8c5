"""The highest rate that a server bears."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

# Rates are told apart down to this share of them.
TOLERANCE = 0.05
# Where not even this share of the first rate is borne, none is.
_LOWEST_SHARE = 1 / 1024


async def highest_rate(
    bears: Callable[[float], Awaitable[bool]], first: float, tolerance: float = TOLERANCE
) -> float | None:
    """The highest rate found to be borne, or None.

    Doubles the first rate until one is not borne, or halves it until one is, then bisects until the
    two are within `tolerance` of each other.

    bears: measures at a rate.
    """
    borne: float | None = None
    too_high: float | None = None
    rate = first
    while borne is None or too_high is None:
        if await bears(rate):
            borne = rate
            rate *= 2
        else:
            too_high = rate
            rate /= 2
            if rate < first * _LOWEST_SHARE:
                return None
    while too_high - borne > tolerance * borne:
        middle = (borne + too_high) / 2
        if await bears(middle):
            borne = middle
        else:
            too_high = middle
    return borne
