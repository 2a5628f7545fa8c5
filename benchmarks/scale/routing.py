"""Which replica gets the next call, by how many it has under way."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

# The place of a replica; under_way: calls of each.
Router = Callable[[Sequence[int]], int]


def at_random(rng: random.Random) -> Router:
    return lambda under_way: rng.randrange(len(under_way))


def round_robin(_: random.Random) -> Router:
    turn = -1

    def choose(under_way: Sequence[int]) -> int:
        nonlocal turn
        turn = (turn + 1) % len(under_way)
        return turn

    return choose


def two_choices(rng: random.Random) -> Router:
    """The one with fewer calls of two at random, as Ray Serve's (Mitzenmacher, The power of two
    choices in randomized load balancing, 2001)."""

    def choose(under_way: Sequence[int]) -> int:
        places = range(len(under_way))
        return min(rng.sample(places, min(2, len(places))), key=under_way.__getitem__)

    return choose


def least(rng: random.Random) -> Router:
    """The one with the fewest calls; of several one at random."""

    def choose(under_way: Sequence[int]) -> int:
        fewest = min(under_way)
        return rng.choice([place for place, calls in enumerate(under_way) if calls == fewest])

    return choose


ROUTERS: dict[str, Callable[[random.Random], Router]] = {
    "random": at_random,
    "round robin": round_robin,
    "two choices": two_choices,
    "least": least,
}
