"""A GPU that isn't there, and its driver: memory with addresses, streams, events, graphs, and one
stack of contexts a thread.

It refuses what CUDA refuses. What CUDA lets pass and answers with wrong numbers or a crash later is
written down in `violations`, which the `gpu` fixture holds to be empty.
"""

from __future__ import annotations

import ctypes
import enum
import itertools
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Work = Callable[[], None]
ALIGNMENT = 256
FRESH, FREED = 0xCD, 0xDD
PRIMARY_CONTEXT = 0xC0DE


class CUresult(enum.IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_OUT_OF_MEMORY = 2
    CUDA_ERROR_NOT_INITIALIZED = 3
    CUDA_ERROR_NO_DEVICE = 100
    CUDA_ERROR_INVALID_CONTEXT = 201
    CUDA_ERROR_INVALID_HANDLE = 400
    CUDA_ERROR_ILLEGAL_ADDRESS = 700
    CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900
    CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901
    CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD = 908
    CUDA_ERROR_UNKNOWN = 999


class DriverError(Exception):
    def __init__(self, code: CUresult) -> None:
        super().__init__(code.name)
        self.code = code


class IllegalAddressError(Exception):
    """Work on a stream touched memory that isn't allocated."""


@dataclass
class Faults:
    """What is to go wrong. Tests set these."""

    no_driver: bool = False
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
    """Nothing on it is done before somebody waits for it."""

    handle: int
    work: deque[Work] = field(default_factory=deque)
    pushed: int = 0
    done: int = 0
    captured: list[Work] | None = None
    capturing: threading.Thread | None = None
    invalid: bool = False
    scratch_in_use: set[int] = field(default_factory=set)

    def push(self, work: Work) -> None:
        if self.captured is not None:
            self.captured.append(work)
        else:
            self.work.append(work)
            self.pushed += 1

    def run(self, until: int) -> None:
        """Raises IllegalAddressError."""
        try:
            while self.done < until:
                self.done += 1
                self.work.popleft()()
        except IllegalAddressError:
            self.work.clear()
            self.done = self.pushed
            raise
        finally:
            if not self.work:
                self.scratch_in_use.clear()


@dataclass(eq=False)
class Event:
    flags: int
    stream: Stream | None = None
    mark: int = 0


@dataclass
class FakeDevice:
    """The methods that are named like functions of the driver raise DriverError."""

    name: str = "NVIDIA Fake 4090"
    compute_capability: tuple[int, int] = (8, 9)
    total_memory: int = 24 * 2**30
    gpus: int = 1
    tensorrt_version: str = "11.4.0.106"
    faults: Faults = field(default_factory=Faults)
    violations: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)
    memory: dict[int, Bytes] = field(default_factory=dict)
    pinned: dict[int, Bytes] = field(default_factory=dict)
    streams: dict[int, Stream] = field(default_factory=dict)
    cuda_events: dict[int, Event] = field(default_factory=dict)
    graphs: dict[int, list[Work]] = field(default_factory=dict)
    graph_execs: dict[int, list[Work]] = field(default_factory=dict)
    stacks: dict[threading.Thread, list[int]] = field(default_factory=dict)
    live: dict[str, int] = field(default_factory=dict)
    threads: set[threading.Thread] = field(default_factory=set)
    fault: CUresult | None = None
    initialized: bool = False

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

    def released(self, call: str) -> None:
        """A call lets go of Python's lock."""
        self.note(f"released by {call}")

    def count(self, event: str) -> int:
        return self.events.count(event)

    def alive(self, kind: str, change: int) -> None:
        with self._lock:
            self.live[kind] = self.live.get(kind, 0) + change

    @property
    def stack(self) -> list[int]:
        """Of the driver's contexts, the calling thread's."""
        with self._lock:
            return self.stacks.setdefault(threading.current_thread(), [])

    def has_context(self, what: str) -> bool:
        if not self.stack:
            self.violate(f"{what} with no context")
        return bool(self.stack)

    def left(self) -> dict[str, int]:
        """What is still allocated or alive, and threads that never popped their context."""
        with self._lock:
            counts = {
                "memory": len(self.memory),
                "pinned": len(self.pinned),
                "streams": len(self.streams),
                "events": len(self.cuda_events),
                "graphs": len(self.graphs),
                "graph execs": len(self.graph_execs),
                "contexts pushed": sum(len(stack) for stack in self.stacks.values()),
                **self.live,
            }
        return {what: n for what, n in counts.items() if n}

    def bytes_at(self, address: int, size: int) -> Bytes:
        """The device's memory at an address. Raises IllegalAddressError."""
        with self._lock:
            for base, content in self.memory.items():
                if base <= address and address + size <= base + content.nbytes:
                    return content[address - base : address - base + size]
        raise IllegalAddressError(hex(address))

    # The driver.

    def _guard(self, *, context: bool = True, unsafe: bool = False) -> None:
        """Every call of CUDA's: after a fault each of them says so.

        unsafe: as cuThreadExchangeStreamCaptureMode has it, prohibited in a thread that captures.
        """
        with self._lock:
            self.threads.add(threading.current_thread())
        if not self.initialized:
            raise DriverError(CUresult.CUDA_ERROR_NOT_INITIALIZED)
        if context and not self.stack:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        if self.fault is not None:
            raise DriverError(self.fault)
        if unsafe:
            for stream in self.streams.values():
                if stream.capturing is threading.current_thread():
                    stream.invalid = True
                    raise DriverError(CUresult.CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED)

    def init(self) -> None:
        if self.faults.no_gpu:
            raise DriverError(CUresult.CUDA_ERROR_NO_DEVICE)
        self.initialized = True

    def retain_primary_context(self) -> int:
        self._guard(context=False)
        return PRIMARY_CONTEXT

    def push_context(self, context: int) -> None:
        self._guard(context=False)
        if context != PRIMARY_CONTEXT:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        self.stack.append(context)

    def pop_context(self) -> int:
        if self.faults.pop:
            raise DriverError(CUresult.CUDA_ERROR_ILLEGAL_ADDRESS)
        if not self.stack:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_CONTEXT)
        return self.stack.pop()

    def create_stream(self, flags: int) -> int:
        self._guard()
        assert flags == 1, "a blocking stream waits for the default stream"
        with self._lock:
            handle = next(self._handles)
            self.streams[handle] = Stream(handle)
        return handle

    def destroy_stream(self, handle: int) -> None:
        self._guard()
        self.stream(handle)
        del self.streams[handle]

    def stream(self, handle: int) -> Stream:
        found = self.streams.get(handle)
        if found is None:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)
        return found

    def create_event(self, flags: int) -> int:
        self._guard()
        with self._lock:
            handle = next(self._handles)
            self.cuda_events[handle] = Event(flags)
        return handle

    def destroy_event(self, handle: int) -> None:
        self._guard()
        if self.cuda_events.pop(handle, None) is None:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_HANDLE)

    def record_event(self, event: int, stream: int) -> None:
        self._guard()
        found = self.stream(stream)
        if found.captured is not None:
            self.violate("records an event while its stream captures")
        recorded = self.cuda_events[event]
        recorded.stream, recorded.mark = found, found.pushed

    def synchronize_event(self, event: int) -> None:
        self._guard(unsafe=True)
        recorded = self.cuda_events[event]
        if not recorded.flags & 1:
            self.violate("spins for an event")
        if recorded.stream is None:
            return
        try:
            recorded.stream.run(recorded.mark)
        except IllegalAddressError as error:
            self.fault = CUresult.CUDA_ERROR_ILLEGAL_ADDRESS
            raise DriverError(self.fault) from error

    def allocate(self, size: int) -> int:
        self._guard(unsafe=True)
        if size == 0:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
        with self._lock:
            limit = self.faults.allocation_limit
            if limit is not None and len(self.memory) >= limit:
                raise DriverError(CUresult.CUDA_ERROR_OUT_OF_MEMORY)
            address = next(self._addresses)
            self.memory[address] = np.full(size, FRESH, np.uint8)
            return address

    def free(self, address: int) -> None:
        self._guard(unsafe=True)
        with self._lock:
            if any(stream.work for stream in self.streams.values()):
                self.violate("frees memory while work waits on a stream")
            if address not in self.memory:
                raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
            self.memory.pop(address).fill(FREED)

    def allocate_pinned(self, size: int) -> int:
        self._guard(unsafe=True)
        content = np.full(size, FREED, np.uint8)
        self.pinned[content.ctypes.data] = content
        return int(content.ctypes.data)

    def free_pinned(self, address: int) -> None:
        self._guard(unsafe=True)
        if address not in self.pinned:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
        self._freed = self.pinned.pop(address)  # the last one stays readable, as garbage
        self._freed.fill(FREED)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._guard()
        host = self._host(source, size)
        self.note("copy to the GPU")
        self.stream(stream).push(lambda: np.copyto(self.bytes_at(target, size), host))

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self._guard()
        host = self._host(target, size)
        self.note("copy to the host")
        self.stream(stream).push(lambda: np.copyto(host, self.bytes_at(source, size)))

    def _host(self, address: int, size: int) -> Bytes:
        with self._lock:
            for base, content in self.pinned.items():
                if base <= address and address + size <= base + content.nbytes:
                    return content[address - base : address - base + size]
        self.violate("copies from or to memory that is not pinned")
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def begin_capture(self, handle: int) -> None:
        self._guard()
        stream = self.stream(handle)
        assert stream.captured is None
        if stream.work:
            self.violate("captures a stream with work on it")
        stream.captured, stream.capturing = [], threading.current_thread()
        stream.invalid = self.faults.capture

    def end_capture(self, handle: int) -> int:
        stream = self.stream(handle)
        if stream.capturing is not threading.current_thread():
            raise DriverError(CUresult.CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD)
        work, invalid = stream.captured, stream.invalid
        stream.captured, stream.capturing, stream.invalid = None, None, False
        if invalid or work is None:
            raise DriverError(CUresult.CUDA_ERROR_STREAM_CAPTURE_INVALIDATED)
        return self._keep(self.graphs, work)

    def _keep(self, table: dict[int, list[Work]], work: list[Work]) -> int:
        with self._lock:
            handle = next(self._handles)
            table[handle] = work
        return handle

    def instantiate_graph(self, graph: int) -> int:
        self._guard()
        self.note("captured")
        return self._keep(self.graph_execs, list(self.graphs[graph]))

    def destroy_graph(self, graph: int) -> None:
        self._guard(context=False)
        del self.graphs[graph]

    def destroy_graph_exec(self, graph: int) -> None:
        self._guard()
        del self.graph_execs[graph]

    def launch_graph(self, graph: int, handle: int) -> None:
        self._guard()
        work, stream = self.graph_execs.get(graph), self.stream(handle)
        if work is None:
            raise DriverError(CUresult.CUDA_ERROR_INVALID_VALUE)
        self.note("graph launch")
        for step in work:
            stream.push(step)
