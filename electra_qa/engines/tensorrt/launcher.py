"""A batch on the GPU, by cuda-python: CUDA graphs, and the few calls that run one.

A thread that lets go of Python's lock may wait for it up to 5 ms (`sys.getswitchinterval`) where
the event loop is busy. cuda-python lets go in each call, and a batch that takes 1 ms would wait at
every one of them. So the calls that return at once are made with the lock held, straight to the
driver's functions, whose addresses cuda-python gives; the one that waits for the GPU lets go.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

# Which version of a function is asked for. The driver's is the same or later, and has it.
CUDA_VERSION = 12_000

# A thread that waits for such an event sleeps; on a stream of a context with default flags it would
# spin, on a core of its own for each slot.
BLOCKING_EVENT = 1 | 2  # CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING


class CudaError(Exception):
    """A call of CUDA failed, or work of before; the message names the call and CUDA's reason."""


class Bindings:
    """`cuda.bindings.driver`: its functions give a status and values; here they raise instead."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    def __call__(self, name: str, *args: Any) -> Any:
        """The value that the function gives, None where it gives none. Raises CudaError."""
        try:
            status, *values = getattr(self._driver, name)(*args)
        except RuntimeError as error:  # there is no driver, or one that lacks the function
            raise CudaError(f"{name} failed: {error}") from error
        self.check(name, status)
        return values[0] if values else None

    def check(self, name: str, status: int) -> None:
        if status:
            try:
                reason = self._driver.CUresult(status).name
            except ValueError:
                reason = f"error {status}"
            raise CudaError(f"{name} failed: {reason}")

    @property
    def constants(self) -> Any:
        return self._driver


@dataclass(frozen=True, slots=True)
class _Function:
    """One of the driver's own. Raises CudaError."""

    bindings: Bindings
    name: str
    function: Callable[..., int]

    def __call__(self, *args: Any) -> None:
        if status := self.function(*args):
            self.bindings.check(self.name, status)


class Launcher:
    """Handles are ints; that of a graph is of its executable."""

    def __init__(self, bindings: Bindings) -> None:
        """The driver is initialized. Raises CudaError."""
        self._call = bindings
        # The context that CUDA's runtime, and so TensorRT, uses too. Never released: libraries
        # that the process shares it with don't expect it to go, and it goes with the process.
        self._context = int(bindings("cuDevicePrimaryCtxRetain", bindings("cuDeviceGet", 0)))
        handle = ctypes.c_void_p
        held, released = ctypes.PYFUNCTYPE, ctypes.CFUNCTYPE
        self._push = self._function(held, "cuCtxPushCurrent", handle)
        self._pop = self._function(held, "cuCtxPopCurrent", ctypes.POINTER(handle))
        self._launch = self._function(held, "cuGraphLaunch", handle, handle)
        self._record = self._function(held, "cuEventRecord", handle, handle)
        self._synchronize = self._function(released, "cuEventSynchronize", handle)

    def _function(self, kind: Any, name: str, *arguments: Any) -> _Function:
        address = int(self._call("cuGetProcAddress", name.encode(), CUDA_VERSION, 0) or 0)
        if not address:
            raise CudaError(f"the driver has no {name}")
        return _Function(self._call, name, kind(ctypes.c_int, *arguments)(address))

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the GPU's context the calling thread's, whatever is there before and after."""
        self._push(self._context)
        try:
            yield
        finally:
            self._pop(ctypes.byref(ctypes.c_void_p()))

    def event(self) -> int:
        return int(self._call("cuEventCreate", BLOCKING_EVENT))

    def free_event(self, event: int) -> None:
        self._call("cuEventDestroy", event)

    def wait(self, stream: int, event: int) -> None:
        """Sleep until all that is on the stream is done. Raises what asynchronous work raised."""
        self._record(event, stream)
        self._synchronize(event)

    def launch(self, graph: int, stream: int) -> None:
        self._launch(graph, stream)

    def capture(self, stream: int, enqueue: Callable[[], None]) -> int:
        """The graph of what `enqueue` puts on the stream, which is not run. Raises CudaError where
        capture does not go, and what `enqueue` raises."""
        modes = self._call.constants.CUstreamCaptureMode
        # Only this thread is kept from calls that don't go with capture: others work on.
        self._call("cuStreamBeginCapture", stream, modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        try:
            enqueue()
        except BaseException:
            # Always ended: a stream that is left capturing runs nothing.
            with contextlib.suppress(CudaError):
                self._destroy(self._call("cuStreamEndCapture", stream))
            raise
        graph = self._call("cuStreamEndCapture", stream)
        try:
            return int(self._call("cuGraphInstantiate", graph, 0))
        finally:
            self._destroy(graph)

    def _destroy(self, graph: Any) -> None:
        self._call("cuGraphDestroy", graph)

    def free_graph(self, graph: int) -> None:
        self._call("cuGraphExecDestroy", graph)
