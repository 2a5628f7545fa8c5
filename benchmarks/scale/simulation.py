"""The way of every call through a site, as discrete events.

What is not in it: the network, the cores that processes share, the age of what a router knows of
the replicas, replicas that come and go.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
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


def simulate(
    site: Site, arrivals: Sequence[float] | Floats, calls: Sequence[Sequence[int]], seed: int = 0
) -> Outcome:
    """arrivals: seconds from the start, ascending. calls: the lengths of each one's windows."""
    run = _Run(site, calls, seed)
    run.feed(enumerate(np.asarray(arrivals, dtype=np.float64).tolist()))
    run.clock.run()
    return run.outcome()


def capacity(site: Site, calls: Sequence[Sequence[int]], seed: int = 0) -> float:
    """Calls a second where all are there from the start and none has a deadline."""
    endless = replace(site, deadline_s=float("inf"), max_queue_tokens=2**62)
    return len(calls) / simulate(endless, np.zeros(len(calls)), calls, seed).seconds


class _Replica:
    def __init__(self, clock: Clock, site: Site) -> None:
        self.loop = Station(clock)
        self.fronts = [Station(clock) for _ in range(site.fronts)]
        # gRPC gives front ends connections, not calls; many connections even that out.
        self.next_front = itertools.cycle(self.fronts or [self.loop])
        self.batcher = Batcher(clock, self.loop, site.engine, site.max_queue_tokens)


class _Run:
    def __init__(self, site: Site, calls: Sequence[Sequence[int]], seed: int) -> None:
        self.clock = Clock()
        self._site, self._calls = site, calls
        self._replicas = [_Replica(self.clock, site) for _ in range(site.replicas)]
        self._proxies = [Station(self.clock) for _ in range(site.proxies)]
        self._next_proxy = itertools.cycle(self._proxies)
        self._route = ROUTERS[site.router](random.Random(seed))
        self._under_way = [0] * site.replicas
        self._latencies = np.full(len(calls), np.nan)
        self._refused = self._late = 0

    def feed(self, arrivals: Iterator[tuple[int, float]]) -> None:
        """Let the next call come when it is due, and go on with the rest then."""
        following = next(arrivals, None)
        if following is not None:
            self.clock.at(following[1], partial(self._come, *following, arrivals))

    def _come(self, number: int, came: float, arrivals: Iterator[tuple[int, float]]) -> None:
        proxy = next(self._next_proxy) if self._proxies else None
        if proxy is None:
            self._to_replica(number, came, None)
        else:
            proxy.work(self._site.proxy_s / 2, partial(self._to_replica, number, came, proxy))
        self.feed(arrivals)

    def _to_replica(self, number: int, came: float, proxy: Station | None) -> None:
        site, place = self._site, self._route(self._under_way)
        self._under_way[place] += 1
        replica = self._replicas[place]
        front = next(replica.next_front)

        def ended(is_answered: bool) -> None:
            front.work(site.front_s / 2, partial(leave, is_answered))

        def leave(is_answered: bool) -> None:
            self._under_way[place] -= 1
            if proxy is None:
                self._end(number, came, is_answered)
            else:
                proxy.work(site.proxy_s / 2, partial(self._end, number, came, is_answered))

        call = Call(self._calls[number], came + site.deadline_s, ended)
        submit = partial(replica.batcher.submit, call)
        queue_s = site.engine.host_window_s * len(call.lengths)
        if site.fronts:
            front.work(site.front_s / 2, partial(replica.loop.work, queue_s, submit))
        else:
            front.work(site.front_s / 2 + queue_s, submit)

    def _end(self, number: int, came: float, is_answered: bool) -> None:
        latency = self.clock.now - came
        if not is_answered:
            self._refused += 1
        elif latency > self._site.deadline_s:
            self._late += 1
        else:
            self._latencies[number] = latency

    def outcome(self) -> Outcome:
        replicas, seconds = self._replicas, self.clock.now
        parts = {
            "proxy": self._proxies,
            "front": [front for replica in replicas for front in replica.fronts],
            "engine process" if self._site.fronts else "one process": [r.loop for r in replicas],
            "device": [replica.batcher.device for replica in replicas],
        }
        busy = {
            name: max(station.busy_s for station in stations) / seconds
            for name, stations in parts.items()
            if stations and seconds
        }
        computed = sum(replica.batcher.computed_tokens for replica in replicas)
        tokens = sum(replica.batcher.tokens for replica in replicas)
        padding = 1 - tokens / computed if computed else 0.0
        return Outcome(self._latencies, self._refused, self._late, seconds, busy, padding)
