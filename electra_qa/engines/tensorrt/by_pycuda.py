"""CUDA by pycuda (`pycuda.driver`); graphs by cuda-python."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import EngineError
from .cuda import NON_BLOCKING_STREAM, Gpu, Memory, PinnedMemory, Stream
from .launcher import Bindings, CudaError, Launcher


class PyCuda:
    """pycuda: the module `pycuda.driver`. driver: the module `cuda.bindings.driver`."""

    name = "pycuda"

    def __init__(self, pycuda: Any, driver: Any) -> None:
        self._pycuda = pycuda
        self._call = Bindings(driver)
        self._context: Any = None
        self._lock = threading.Lock()

    def start(self) -> Launcher:
        with self._lock, _translated(self._pycuda):
            if self._context is None:
                self._pycuda.init()
                if self._pycuda.Device.count() == 0:
                    raise EngineError("no GPU: CUDA sees none (is CUDA_VISIBLE_DEVICES set?)")
                self._context = self._pycuda.Device(0).retain_primary_context()
        return Launcher(self._call)

    def gpu(self) -> Gpu:
        with _translated(self._pycuda):
            device = self._pycuda.Device(0)
            major, minor = device.compute_capability()
            return Gpu(device.name(), f"{major}.{minor}", device.total_memory())

    def push(self) -> None:
        with _translated(self._pycuda):
            self._context.push()

    def pop(self) -> None:
        with _translated(self._pycuda):
            self._pycuda.Context.pop()

    def stream(self) -> Stream:
        return _Stream(self._pycuda)

    def allocate(self, size: int) -> Memory:
        return _Memory(self._pycuda, size)

    def pinned(self, size: int) -> PinnedMemory:
        return _PinnedMemory(self._pycuda, size)

    def copy_to_gpu(self, memory: Memory, host: PinnedMemory, size: int, stream: Stream) -> None:
        assert isinstance(stream, _Stream)
        with _translated(self._pycuda):
            self._pycuda.memcpy_htod_async(memory.address, host.content[:size], stream.of_pycuda)

    def copy_to_host(self, host: PinnedMemory, memory: Memory, size: int, stream: Stream) -> None:
        assert isinstance(stream, _Stream)
        with _translated(self._pycuda):
            self._pycuda.memcpy_dtoh_async(host.content[:size], memory.address, stream.of_pycuda)


class _Stream:
    def __init__(self, pycuda: Any) -> None:
        with _translated(pycuda):
            self.of_pycuda: Any = pycuda.Stream(NON_BLOCKING_STREAM)
        self.handle: int = self.of_pycuda.handle

    def free(self) -> None:
        self.of_pycuda = None  # pycuda destroys it with its last reference


class _Memory:
    def __init__(self, pycuda: Any, size: int) -> None:
        self._pycuda = pycuda
        with _translated(pycuda):
            self._allocation = pycuda.mem_alloc(size)
        self.address = int(self._allocation)

    def free(self) -> None:
        with _translated(self._pycuda):
            self._allocation.free()


class _PinnedMemory:
    def __init__(self, pycuda: Any, size: int) -> None:
        self._pycuda = pycuda
        with _translated(pycuda):
            self.content: npt.NDArray[np.uint8] = pycuda.pagelocked_empty((size,), np.uint8)

    def free(self) -> None:
        allocation: Any = self.content.base
        with _translated(self._pycuda):
            allocation.free()


@contextlib.contextmanager
def _translated(pycuda: Any) -> Iterator[None]:
    try:
        yield
    except pycuda.Error as error:
        raise CudaError(str(error)) from error
