"""`cuda.bindings.driver` on a FakeDevice. Every function gives a tuple that starts with a CUresult.

What it gives are objects that become numbers by `int`, and what it takes are those, or numbers.
"""

# ruff: noqa: N802 (the names are NVIDIA's)

from __future__ import annotations

import ctypes
import enum
import types
from collections.abc import Callable
from typing import Any

from fake_device import CUresult, DriverError, FakeDevice


class CUstreamCaptureMode(enum.IntEnum):
    CU_STREAM_CAPTURE_MODE_GLOBAL = 0
    CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1
    CU_STREAM_CAPTURE_MODE_RELAXED = 2


class CUdevice_attribute(enum.IntEnum):  # noqa: N801
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76


class Handle:
    """As CUstream, CUdeviceptr and their like are: no number, but one by `int`."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __int__(self) -> int:
        return self._value


def number(value: Any) -> int:
    assert isinstance(value, (Handle, int)), value
    return int(value)


def make_cuda_python(device: FakeDevice) -> types.ModuleType:  # noqa: PLR0915
    module = types.ModuleType("cuda.bindings.driver")

    def function(call: Callable[..., Any]) -> None:
        def guarded(*args: Any) -> tuple[Any, ...]:
            if device.faults.no_driver:
                raise RuntimeError('"cuda" is an NVIDIA driver library and can only be found …')
            device.released(call.__name__)
            try:
                value = call(*args)
            except DriverError as error:
                return (error.code, None)
            return (CUresult.CUDA_SUCCESS,) if value is None else (CUresult.CUDA_SUCCESS, value)

        setattr(module, call.__name__, guarded)

    def by(name: str, call: Callable[..., Any]) -> None:
        """A function that takes and gives handles or nothing."""

        def converted(*args: Any) -> Handle | None:
            value = call(*(number(arg) for arg in args))
            return None if value is None else Handle(value)

        converted.__name__ = name
        function(converted)

    @function
    def cuInit(flags: int) -> None:
        assert flags == 0
        device.init()

    @function
    def cuDeviceGetCount() -> int:
        return device.gpus

    @function
    def cuDeviceGet(ordinal: int) -> Handle:
        assert ordinal == 0
        return Handle(0)

    @function
    def cuDeviceGetName(length: int, _dev: Any) -> bytes:
        return (device.name.encode() + b"\0").ljust(length)

    @function
    def cuDeviceGetAttribute(attribute: CUdevice_attribute, _dev: Any) -> int:
        names = list(CUdevice_attribute)
        return device.compute_capability[names.index(attribute)]

    @function
    def cuDeviceTotalMem(_dev: Any) -> int:
        return device.total_memory

    @function
    def cuDevicePrimaryCtxRetain(_dev: Any) -> Handle:
        return Handle(device.retain_primary_context())

    @function
    def cuMemHostAlloc(size: int, flags: int) -> int:  # an address, no handle
        assert flags == 0
        return device.allocate_pinned(size)

    @function
    def cuStreamBeginCapture(stream: Any, mode: CUstreamCaptureMode) -> None:
        assert mode is CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        device.begin_capture(number(stream))

    @function
    def cuGraphInstantiate(graph: Any, flags: int) -> Handle:
        assert flags == 0
        return Handle(device.instantiate_graph(number(graph)))

    by("cuCtxPushCurrent", device.push_context)
    by("cuCtxPopCurrent", device.pop_context)
    by("cuStreamCreate", device.create_stream)
    by("cuStreamDestroy", device.destroy_stream)
    by("cuStreamEndCapture", device.end_capture)
    by("cuEventCreate", device.create_event)
    by("cuEventDestroy", device.destroy_event)
    by("cuMemAlloc", device.allocate)
    by("cuMemFree", device.free)
    by("cuMemFreeHost", device.free_pinned)
    by("cuMemcpyHtoDAsync", device.copy_to_device)
    by("cuMemcpyDtoHAsync", device.copy_to_host)
    by("cuGraphDestroy", device.destroy_graph)
    by("cuGraphExecDestroy", device.destroy_graph_exec)

    @function
    def cuGetProcAddress(symbol: bytes, version: int, flags: int) -> int:
        assert (version, flags) == (12000, 0)
        pointer = thunks[symbol.decode()]
        return ctypes.cast(pointer, ctypes.c_void_p).value or 0

    thunks = _thunks(device)
    module.thunks = thunks  # type: ignore[attr-defined]  # they live as long as it
    for item in (CUresult, CUstreamCaptureMode, CUdevice_attribute):
        setattr(module, item.__name__, item)
    return module


def _thunks(device: FakeDevice) -> dict[str, Any]:
    """The driver's own functions, at addresses that can be called."""
    handle = ctypes.c_void_p

    def pop(popped: Any) -> None:
        popped[0] = device.pop_context()

    calls: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "cuCtxPushCurrent": (device.push_context, (handle,)),
        "cuCtxPopCurrent": (pop, (ctypes.POINTER(handle),)),
        "cuGraphLaunch": (device.launch_graph, (handle, handle)),
        "cuEventRecord": (device.record_event, (handle, handle)),
        "cuEventSynchronize": (device.synchronize_event, (handle,)),
    }

    def thunk(call: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        def guarded(*args: Any) -> int:
            try:
                call(*args)
            except DriverError as error:
                return error.code
            except BaseException as error:  # nothing may leave a function of C
                device.violate(f"{call.__name__}: {error!r}")
                return CUresult.CUDA_ERROR_UNKNOWN
            return CUresult.CUDA_SUCCESS

        return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(guarded)

    return {name: thunk(*call) for name, call in calls.items()}
