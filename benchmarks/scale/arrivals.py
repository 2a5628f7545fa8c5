"""When calls come."""

from __future__ import annotations

import numpy as np

from ..load import Floats, poisson

# Of the bursts: their rate, as a multiple of the rate between them, and how long both last on
# average, in seconds.
BURST = 4.0
BURST_S = 1.0
CALM_S = 3.0


def bursts(rate: float, duration_s: float, rng: np.random.Generator) -> Floats:
    """Seconds in [0, duration_s), ascending, of a Poisson process whose rate is switched up and
    down (a Markov-modulated one): exponential times of calm, and of bursts four times as high.

    rate: the mean over the run, whatever part of it the bursts drawn have.
    """
    edges, now = [0.0], 0.0
    in_burst: list[bool] = []
    while now < duration_s:
        in_burst.append(len(in_burst) % 2 == 1)
        now = min(now + rng.exponential(BURST_S if in_burst[-1] else CALM_S), duration_s)
        edges.append(now)
    lengths, heights = np.diff(edges), np.where(in_burst, BURST, 1.0)
    calm_rate = rate * duration_s / float(lengths @ heights)
    parts = [
        start + poisson(calm_rate * height, length, rng)
        for start, length, height in zip(edges, lengths, heights, strict=False)
    ]
    return np.concatenate(parts)


ARRIVALS = {"poisson": poisson, "bursts": bursts}
