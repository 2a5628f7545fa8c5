"""CUDA by cuda-python (`cuda.bindings.driver`)."""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import EngineError
from .cuda import NON_BLOCKING_STREAM, Gpu, Memory, PinnedMemory, Stream
from .launcher import Bindings, Launcher

NAME_LENGTH = 256


class _Stream:
    def __init__(self, call: Bindings) -> None:
        self._call = call
        self.handle = int(call("cuStreamCreate", NON_BLOCKING_STREAM))

    def free(self) -> None:
        self._call("cuStreamDestroy", self.handle)


class _Memory:
    def __init__(self, call: Bindings, size: int) -> None:
        self._call = call
        self.address = int(call("cuMemAlloc", size))

    def free(self) -> None:
        self._call("cuMemFree", self.address)


class _PinnedMemory:
    def __init__(self, call: Bindings, size: int) -> None:
        self._call = call
        self._address = int(call("cuMemHostAlloc", size, 0))
        block = (ctypes.c_uint8 * size).from_address(self._address)
        self.content: npt.NDArray[np.uint8] = np.ctypeslib.as_array(block)

    def free(self) -> None:
        self._call("cuMemFreeHost", self._address)


class CudaPython:
    """driver: the module `cuda.bindings.driver`."""

    name = "cuda-python"

    def __init__(self, driver: Any) -> None:
        self._call = Bindings(driver)
        self._context: Any = None
        self._lock = threading.Lock()

    def start(self) -> Launcher:
        with self._lock:
            if self._context is None:
                self._call("cuInit", 0)
                if self._call("cuDeviceGetCount") == 0:
                    raise EngineError("no GPU: CUDA sees none (is CUDA_VISIBLE_DEVICES set?)")
                self._context = self._call("cuDevicePrimaryCtxRetain", self._device())
        return Launcher(self._call)

    def _device(self) -> Any:
        return self._call("cuDeviceGet", 0)

    def gpu(self) -> Gpu:
        device = self._device()
        attributes = self._call.constants.CUdevice_attribute
        major, minor = (
            self._call("cuDeviceGetAttribute", attribute, device)
            for attribute in (
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR,
                attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR,
            )
        )
        # All of the bytes that the name was given room in: it ends at the first zero.
        name = self._call("cuDeviceGetName", NAME_LENGTH, device).partition(b"\0")[0]
        memory = int(self._call("cuDeviceTotalMem", device))
        return Gpu(name.decode(errors="replace").strip(), f"{major}.{minor}", memory)

    def push(self) -> None:
        self._call("cuCtxPushCurrent", self._context)

    def pop(self) -> None:
        self._call("cuCtxPopCurrent")

    def stream(self) -> Stream:
        return _Stream(self._call)

    def allocate(self, size: int) -> Memory:
        return _Memory(self._call, size)

    def pinned(self, size: int) -> PinnedMemory:
        return _PinnedMemory(self._call, size)

    def copy_to_gpu(self, memory: Memory, host: PinnedMemory, size: int, stream: Stream) -> None:
        source = host.content.ctypes.data
        self._call("cuMemcpyHtoDAsync", memory.address, source, size, stream.handle)

    def copy_to_host(self, host: PinnedMemory, memory: Memory, size: int, stream: Stream) -> None:
        target = host.content.ctypes.data
        self._call("cuMemcpyDtoHAsync", target, memory.address, size, stream.handle)
