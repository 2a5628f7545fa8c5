"""What is simulated: processes, and what each takes for its part. All times in seconds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """An engine and the batcher before it.

    window_s, token_s, run_s: of the device, for a window, a token (padding included), and a run of
        any size.
    host_window_s, host_batch_s: of the event loop that has the batcher, for a window and a batch.
    batch_tokens: the token budget of a run.
    slots: batches that are with the device, the one it computes included.
    """

    window_s: float
    token_s: float
    run_s: float = 0.0
    host_window_s: float = 0.0
    host_batch_s: float = 0.0
    batch_tokens: int = 1024
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Site:
    """Replicas of one engine each, and what is before them.

    front_s: gRPC, tokenizing, windows and merging of a call; a half before the engine, the other
        after it.
    fronts: processes that do so for one engine. 0: the engine's process does it itself, on the
        event loop of the batcher.
    proxies: event loops that every call passes on its way in and out, such as Ray's; 0: callers ask
        the replicas. proxy_s: what a call takes there.
    router: a name of `ROUTERS`.
    deadline_s: of a call.
    max_queue_tokens: of each replica.
    """

    engine: EngineTimes
    front_s: float
    replicas: int = 1
    fronts: int = 0
    proxies: int = 0
    proxy_s: float = 0.0
    router: str = "two choices"
    deadline_s: float = float("inf")
    max_queue_tokens: int = 262_144
