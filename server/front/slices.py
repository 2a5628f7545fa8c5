"""Work in Python that would hold up the event loop: on a thread, a slice at a time.

One thread for all of it: Python runs one at a time, and with more of them the event loop would wait
for each in turn. A call gets its next slice when every other call that waits has had one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from .waiting import Waiting

Item = TypeVar("Item")
Result = TypeVar("Result")

# Costs are in units of some 3 µs, what a span of an answer takes.
SMALL = 500
SLICE = 2_000

thread = ThreadPoolExecutor(1, thread_name_prefix="slices")


async def in_slices(
    function: Callable[[Sequence[Item]], Result],
    items: Sequence[Item],
    cost: Callable[[Item], int],
    waiting: Waiting,
) -> list[Result]:
    """What `function` makes of each slice of the items, which together are all of them, in order.

    Few items that cost little are one slice, and worked on at once. Raises DeadlineError between
    two slices where the deadline has passed, and what `function` raises.
    """
    costs = [cost(item) for item in items]
    if sum(costs) <= SMALL:
        return [function(items)]
    loop = asyncio.get_running_loop()
    results = []
    for first, stop in _cuts(costs):
        waiting.check()
        results.append(await loop.run_in_executor(thread, function, items[first:stop]))
    return results


def _cuts(costs: Sequence[int]) -> list[tuple[int, int]]:
    cuts, first, filled = [], 0, 0
    for index, cost in enumerate(costs):
        if filled and filled + cost > SLICE:
            cuts.append((first, index))
            first, filled = index, 0
        filled += cost
    return [*cuts, (first, len(costs))]
