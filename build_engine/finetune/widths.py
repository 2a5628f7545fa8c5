"""How many heads and neurons each layer keeps, and which."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Scores = npt.NDArray[np.float64]


def most_important(
    scores: Sequence[Scores], share: float, multiple: int
) -> tuple[tuple[int, ...], ...]:
    """Which units each layer keeps, ascending: those with the highest scores over all layers.

    scores: float64 [units] of each layer, not negative. Each layer's are divided by their sum
        first: gradients of one layer are all larger than those of another. (Michel et al., 2019,
        "Are Sixteen Heads Really Better than One?", take the L2 norm; by that a layer with a few
        very large neurons loses nearly all the others.)
    share: of all units, in (0, 1].
    multiple: a layer keeps a multiple of this many, at least one, or all that it has.

    What is kept is as near to the share as the multiples allow. Of equals the first are kept.
    """
    orders = [np.argsort(-layer, kind="stable") for layer in scores]
    # A layer's units go in blocks, the best ones first: (worth, number in the layer, layer, size).
    blocks: list[tuple[float, int, int, int]] = []
    for layer, order in enumerate(orders):
        ranked = scores[layer][order] / (scores[layer].sum() or 1.0)
        starts = range(0, len(ranked), multiple)
        # The mean of equal numbers may be another by its last bit.
        worths = np.minimum.accumulate([ranked[at : at + multiple].mean() for at in starts])
        blocks += [
            (float(worth), number, layer, len(ranked[at : at + multiple]))
            for number, (at, worth) in enumerate(zip(starts, worths, strict=True))
        ]
    kept = [min(multiple, len(order)) for order in orders]
    wanted = share * sum(map(len, orders))
    others = (block for block in blocks if block[1] > 0)
    for _, _, layer, size in sorted(others, key=lambda block: (-block[0], *block[1:])):
        if abs(sum(kept) + size - wanted) >= abs(sum(kept) - wanted):
            break
        kept[layer] += size
    return tuple(
        tuple(sorted(order[:count].tolist())) for order, count in zip(orders, kept, strict=True)
    )
