"""A GPU that isn't there: memory with addresses, streams, and one stack of contexts a thread.

It refuses what CUDA refuses. What CUDA lets pass and answers with wrong numbers or a crash later is
written down in `violations`, which the `gpu` fixture holds to be empty.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
ALIGNMENT = 256
FRESH, FREED = 0xCD, 0xDD


class IllegalAddressError(Exception):
    """Work on a stream touched memory that isn't allocated."""


@dataclass
class Faults:
    """What is to go wrong. Tests set these."""

    no_gpu: bool = False
    build_error: str | None = None
    context_error: str | None = None
    enqueue: bool = False
    asynchronous: bool = False
    capture: bool = False
    pop: bool = False
    allocation_limit: int | None = None


@dataclass(eq=False)
class Stream:
    device: FakeDevice
    handle: int
    thread: threading.Thread
    work: list[Callable[[], None]] = field(default_factory=list)
    captured: list[Callable[[], None]] | None = None
    scratch_in_use: set[int] = field(default_factory=set)

    def push(self, work: Callable[[], None]) -> None:
        self.device.check_owner(self.thread, "a stream")
        (self.work if self.captured is None else self.captured).append(work)

    def synchronize(self) -> None:
        """Only now is anything done. Raises IllegalAddressError."""
        self.device.check_owner(self.thread, "a stream")
        work, self.work = self.work, []
        try:
            for step in work:
                step()
        finally:
            self.scratch_in_use.clear()


@dataclass
class FakeDevice:
    name: str = "NVIDIA Fake 4090"
    compute_capability: tuple[int, int] = (8, 9)
    tensorrt_version: str = "11.4.0.106"
    faults: Faults = field(default_factory=Faults)
    violations: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    memory: dict[int, Bytes] = field(default_factory=dict)
    pinned: dict[int, Bytes] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    stacks: dict[threading.Thread, list[Any]] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    fault: str | None = None

    def __post_init__(self) -> None:
        self._addresses = itertools.count(0x7F0000000000, 1 << 24)
        self._handles = itertools.count(0x5000)
        self._lock = threading.RLock()

    def violate(self, what: str) -> None:
        with self._lock:
            self.violations.append(f"{threading.current_thread().name}: {what}")

    def note(self, event: str) -> None:
        with self._lock:
            self.events.append(event)

    def count(self, event: str) -> int:
        return self.events.count(event)

    def alive(self, kind: str, change: int) -> None:
        with self._lock:
            self.live[kind] = self.live.get(kind, 0) + change

    def check_owner(self, thread: threading.Thread, what: str) -> None:
        if threading.current_thread() is not thread:
            self.violate(f"uses {what} of {thread.name}")

    @property
    def stack(self) -> list[Any]:
        with self._lock:
            return self.stacks.setdefault(threading.current_thread(), [])

    def has_context(self, what: str) -> bool:
        if not self.stack:
            self.violate(f"{what} with no context")
        return bool(self.stack)

    def left(self) -> dict[str, int]:
        """What is still allocated or alive, and threads that never popped their context."""
        with self._lock:
            unpopped = sum(len(stack) for stack in self.stacks.values())
            counts = {
                "memory": len(self.memory),
                "pinned": len(self.pinned),
                "streams": len(self.streams),
                "contexts pushed": unpopped,
                **self.live,
            }
        return {what: n for what, n in counts.items() if n}

    def allocate(self, size: int) -> int:
        with self._lock:
            address = next(self._addresses)
            self.memory[address] = np.full(size, FRESH, np.uint8)
            return address

    def free(self, address: int) -> None:
        with self._lock:
            for stream in self.streams.values():
                if stream.work:
                    self.violate("frees memory while work waits on a stream")
            self.memory.pop(address).fill(FREED)

    def bytes_at(self, address: int, size: int) -> Bytes:
        """The device's memory at an address. Raises IllegalAddressError."""
        with self._lock:
            for base, content in self.memory.items():
                if base <= address and address + size <= base + content.nbytes:
                    return content[address - base : address - base + size]
        raise IllegalAddressError(hex(address))

    def is_pinned(self, array: npt.NDArray[Any]) -> bool:
        start = array.ctypes.data
        with self._lock:
            return any(
                base <= start and start + array.nbytes <= base + content.nbytes
                for base, content in self.pinned.items()
            )

    def new_stream(self) -> Stream:
        with self._lock:
            stream = Stream(self, next(self._handles), threading.current_thread())
            self.streams[stream.handle] = stream
            return stream
