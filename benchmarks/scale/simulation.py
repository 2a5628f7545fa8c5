"""The way of every call through a site, as discrete events.

What is not in it: the network, the cores that processes share, the age of what a router knows of
the replicas, replicas that come and go.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..load import Floats
from .batching import Batcher, Call
from .clock import Clock, Station
from .routing import ROUTERS
from .site import Site


@dataclass(frozen=True, slots=True)
class Outcome:
    """latencies: in seconds, NaN for a call that was refused, expired, or answered after its
        deadline, float64 [calls].
    refused: calls that failed; late: those that were answered, but too late.
    seconds: until the last call had ended.
    busy: {part: the share of that time in which the busiest of its kind worked}.
    padding: of the tokens that were computed, the share.
    """

    latencies: Floats
    refused: int
    late: int
    seconds: float
    busy: dict[str, float]
    padding: float

    def percentile(self, percent: float, since: int = 0) -> float:
        """Of the calls answered in time, those before number `since` left out; NaN for none."""
        answered = self.latencies[since:][~np.isnan(self.latencies[since:])]
        return float(np.percentile(answered, percent)) if len(answered) else float("nan")

    def good_share(self, since: int = 0) -> float:
        """Of the calls, those answered in time."""
        return float(np.mean(~np.isnan(self.latencies[since:])))


class _Replica:
    def __init__(self, clock: Clock, site: Site) -> None:
        loop = Station(clock)
        self.loop = loop
        self.fronts = [Station(clock) for _ in range(site.fronts)]
        # gRPC gives connections to front ends, not calls; many connections even that out.
        self.next_front = itertools.cycle(self.fronts or [loop])
        self.batcher = Batcher(clock, loop, site.engine, site.max_queue_tokens)


def simulate(
    site: Site, arrivals: Sequence[float] | Floats, calls: Sequence[Sequence[int]], seed: int = 0
) -> Outcome:
    """arrivals: seconds from the start, ascending. calls: the lengths of each one's windows."""
    clock = Clock()
    replicas = [_Replica(clock, site) for _ in range(site.replicas)]
    proxies = [Station(clock) for _ in range(site.proxies)]
    next_proxy = itertools.cycle(proxies) if proxies else None
    route = ROUTERS[site.router](random.Random(seed))
    under_way = [0] * site.replicas
    latencies = np.full(len(calls), np.nan)
    refused = late = 0

    def come(number: int, came: float) -> None:
        proxy = next(next_proxy) if next_proxy else None
        if proxy is None:
            to_replica(number, came, None)
        else:
            proxy.work(site.proxy_s / 2, partial(to_replica, number, came, proxy))

    def to_replica(number: int, came: float, proxy: Station | None) -> None:
        place = route(under_way)
        under_way[place] += 1
        replica = replicas[place]
        front = next(replica.next_front)

        def ended(is_answered: bool) -> None:
            front.work(site.front_s / 2, partial(back, is_answered))

        def back(is_answered: bool) -> None:
            under_way[place] -= 1
            if proxy is None:
                done(number, came, is_answered)
            else:
                proxy.work(site.proxy_s / 2, partial(done, number, came, is_answered))

        call = Call(calls[number], came + site.deadline_s, ended)
        front.work(site.front_s / 2, partial(replica.batcher.submit, call))

    def done(number: int, came: float, is_answered: bool) -> None:
        nonlocal refused, late
        latency = clock.now - came
        if not is_answered:
            refused += 1
        elif latency > site.deadline_s:
            late += 1
        else:
            latencies[number] = latency

    feed = iter(enumerate(np.asarray(arrivals, dtype=np.float64).tolist()))

    def arrive() -> None:
        following = next(feed, None)
        if following is not None:
            number, came = following
            clock.at(came, partial(_and_next, arrive, partial(come, number, came)))

    arrive()
    clock.run()
    parts = {
        "proxy": proxies,
        "front": [front for replica in replicas for front in replica.fronts],
        "engine process" if site.fronts else "one process": [r.loop for r in replicas],
        "device": [replica.batcher.device for replica in replicas],
    }
    computed = sum(replica.batcher.computed_tokens for replica in replicas)
    tokens = sum(replica.batcher.tokens for replica in replicas)
    return Outcome(
        latencies,
        refused,
        late,
        clock.now,
        {
            name: max(station.busy_s for station in stations) / clock.now
            for name, stations in parts.items()
            if stations and clock.now
        },
        1 - tokens / computed if computed else 0.0,
    )


def _and_next(arrive: Callable[[], None], come: Callable[[], None]) -> None:
    come()
    arrive()


def capacity(site: Site, calls: Sequence[Sequence[int]], seed: int = 0) -> float:
    """Calls a second where all are there from the start and none has a deadline."""
    endless = replace(site, deadline_s=float("inf"), max_queue_tokens=2**62)
    return len(calls) / simulate(endless, np.zeros(len(calls)), calls, seed).seconds
