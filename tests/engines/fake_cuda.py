"""`pycuda.driver` and `cuda.bindings.runtime` on a FakeDevice."""

# ruff: noqa: A001, N801, N802, N815 (the names are NVIDIA's)

from __future__ import annotations

import enum
import threading
import types
from typing import Any

import numpy as np
import numpy.typing as npt
from fake_device import FREED, FakeDevice, IllegalAddressError, Stream


def make_pycuda_driver(device: FakeDevice) -> types.ModuleType:  # noqa: PLR0915
    module = types.ModuleType("pycuda.driver")

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    class MemoryError(Error):
        pass

    def guard(what: str, *, context: bool = True) -> None:
        """Every call of CUDA's: after a fault each of them says so."""
        if "init" not in device.events:
            raise LogicError(f"{what} failed: initialization error")
        if context and not device.stack:
            raise LogicError(f"{what} failed: invalid device context")
        if device.fault is not None:
            raise LogicError(f"{what} failed: {device.fault}")

    class Context:
        def __init__(self, thread: threading.Thread) -> None:
            self.thread = thread

        def push(self) -> None:
            guard("cuCtxPushCurrent", context=False)
            device.stack.append(self)

        @staticmethod
        def pop() -> None:
            if device.faults.pop:
                raise LogicError("cuCtxPopCurrent failed: an illegal memory access")
            if not device.stack:
                raise LogicError("context::pop failed: cannot pop non-current context")
            device.stack.pop()

    class Device:
        def __init__(self, number: int) -> None:
            guard("cuDeviceGet", context=False)
            assert number == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return device.name

        def compute_capability(self) -> tuple[int, int]:
            return device.compute_capability

        def total_memory(self) -> int:
            return 24 * 2**30

        def retain_primary_context(self) -> Context:
            device.note("retain primary")
            return Context(threading.current_thread())

        def make_context(self, flags: int = 0) -> Context:
            raise AssertionError(f"not the primary context ({flags})")

    def init(flags: int = 0) -> None:
        assert flags == 0
        if device.faults.no_gpu:
            raise LogicError("cuInit failed: no CUDA-capable device is detected")
        device.note("init")

    class FakeStream:
        def __init__(self, flags: int = 0) -> None:
            guard("cuStreamCreate")
            assert flags == 1, "a blocking stream waits for the default stream"
            self._stream: Stream = device.new_stream()

        @property
        def handle(self) -> int:
            return self._stream.handle

        def synchronize(self) -> None:
            guard("cuStreamSynchronize")
            if self._stream.captured is not None:
                device.violate("synchronizes a stream that captures")
                raise LogicError("cuStreamSynchronize failed: operation not permitted")
            try:
                self._stream.synchronize()
            except IllegalAddressError as error:
                device.fault = "an illegal memory access was encountered"
                raise LaunchError(f"cuStreamSynchronize failed: {device.fault}") from error

        def __del__(self) -> None:
            stream = getattr(self, "_stream", None)
            if stream is not None:
                device.check_owner(stream.thread, "(frees) a stream")
                device.has_context("frees a stream")
                device.streams.pop(stream.handle)

    class DeviceAllocation:
        def __init__(self, size: int) -> None:
            self._thread = threading.current_thread()
            self._address: int | None = device.allocate(size)

        def __int__(self) -> int:
            assert self._address is not None, "used after free"
            return self._address

        def free(self) -> None:
            if self._address is None:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            device.check_owner(self._thread, "(frees) memory")
            device.has_context("frees memory")
            device.free(self._address)
            self._address = None

        def __del__(self) -> None:
            if getattr(self, "_address", None) is not None:
                self.free()

    def mem_alloc(size: int) -> DeviceAllocation:
        guard("cuMemAlloc")
        assert type(size) is int
        if size == 0:
            raise LogicError("cuMemAlloc failed: invalid argument")
        limit = device.faults.allocation_limit
        if limit is not None and len(device.memory) >= limit:
            raise MemoryError("cuMemAlloc failed: out of memory")
        return DeviceAllocation(size)

    class PagelockedHostAllocation:
        def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            self._buffer = np.full(int(np.prod(shape)) * dtype.itemsize, FREED, np.uint8)
            self._thread = threading.current_thread()
            self._address = self._buffer.ctypes.data
            self._valid = True
            device.pinned[self._address] = self._buffer
            self.__array_interface__ = {
                "shape": shape,
                "typestr": dtype.str,
                "data": (self._address, False),
                "version": 3,
            }

        def free(self) -> None:
            if not self._valid:
                raise LogicError("pagelocked_host_allocation::free failed")
            device.check_owner(self._thread, "(frees) pinned memory")
            device.has_context("frees pinned memory")
            device.pinned.pop(self._address).fill(FREED)
            self._valid = False

        def __del__(self) -> None:
            if self._valid:
                self.free()

    def pagelocked_empty(
        shape: tuple[int, ...], dtype: npt.DTypeLike, order: str = "C", mem_flags: int = 0
    ) -> npt.NDArray[Any]:
        guard("cuMemHostAlloc")
        assert (order, mem_flags) == ("C", 0)
        array = np.asarray(PagelockedHostAllocation(tuple(shape), np.dtype(dtype)))
        assert isinstance(array.base, PagelockedHostAllocation)
        return array

    def check_copy(array: npt.NDArray[Any], address: int, stream: Any) -> None:
        assert type(address) is int
        assert isinstance(stream, FakeStream), "a copy on the default stream"
        assert array.flags.c_contiguous
        if not device.is_pinned(array):
            device.violate("copies from or to memory that is not pinned")

    def memcpy_htod_async(dest: int, src: npt.NDArray[Any], stream: Any = None) -> None:
        guard("cuMemcpyHtoDAsync")
        check_copy(src, dest, stream)

        def copy() -> None:
            device.bytes_at(dest, src.nbytes)[:] = src.reshape(-1).view(np.uint8)

        stream._stream.push(copy)

    def memcpy_dtoh_async(dest: npt.NDArray[Any], src: int, stream: Any = None) -> None:
        guard("cuMemcpyDtoHAsync")
        check_copy(dest, src, stream)
        assert dest.flags.writeable

        def copy() -> None:
            dest.reshape(-1).view(np.uint8)[:] = device.bytes_at(src, dest.nbytes)

        stream._stream.push(copy)

    for item in (Error, LogicError, LaunchError, MemoryError, Context, Device, DeviceAllocation):
        setattr(module, item.__name__, item)
    module.Stream = FakeStream  # type: ignore[attr-defined]
    for function in (init, mem_alloc, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(module, function.__name__, function)
    return module


class cudaError_t(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureInvalidated = 901


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class Graph:
    """Of cudaGraph_t and cudaGraphExec_t alike."""

    def __init__(self, work: list[Any]) -> None:
        self.work = work
        self.destroyed = False


def make_cuda_runtime(device: FakeDevice) -> types.ModuleType:
    """Every function gives a tuple that starts with a cudaError_t."""
    module = types.ModuleType("cuda.bindings.runtime")
    success = cudaError_t.cudaSuccess

    def stream_of(handle: int) -> Stream:
        assert type(handle) is int
        device.has_context("calls CUDA's runtime")
        return device.streams[handle]

    def cudaStreamBeginCapture(handle: int, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        stream = stream_of(handle)
        assert mode is cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert stream.captured is None
        assert not stream.work, "capture of a stream with work on it"
        stream.captured = []
        return (success,)

    def cudaStreamEndCapture(handle: int) -> tuple[Any, ...]:
        stream = stream_of(handle)
        work, stream.captured = stream.captured, None
        if work is None or device.faults.capture:
            return (cudaError_t.cudaErrorStreamCaptureInvalidated, None)
        device.alive("graphs", 1)
        return (success, Graph(work))

    def cudaGraphInstantiate(graph: Graph, flags: int) -> tuple[Any, ...]:
        assert flags == 0
        assert not graph.destroyed
        device.alive("graph execs", 1)
        device.note("captured")
        return (success, Graph(list(graph.work)))

    def cudaGraphLaunch(graph: Graph, handle: int) -> tuple[Any, ...]:
        if device.fault is not None:
            return (cudaError_t.cudaErrorIllegalAddress,)
        assert not graph.destroyed
        device.note("graph launch")
        for step in graph.work:
            stream_of(handle).push(step)
        return (success,)

    def cudaGraphDestroy(graph: Graph) -> tuple[Any, ...]:
        assert not graph.destroyed
        graph.destroyed = True
        device.alive("graphs", -1)
        return (success,)

    def cudaGraphExecDestroy(graph: Graph) -> tuple[Any, ...]:
        device.has_context("destroys a graph")
        assert not graph.destroyed
        graph.destroyed = True
        graph.work.clear()
        device.alive("graph execs", -1)
        return (success,)

    def cudaGetLastError() -> tuple[Any, ...]:
        return (success,)

    for item in (
        cudaError_t,
        cudaStreamCaptureMode,
        cudaStreamBeginCapture,
        cudaStreamEndCapture,
        cudaGraphInstantiate,
        cudaGraphLaunch,
        cudaGraphDestroy,
        cudaGraphExecDestroy,
        cudaGetLastError,
    ):
        setattr(module, item.__name__, item)
    return module
