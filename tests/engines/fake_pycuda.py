"""`pycuda.driver` on a FakeDevice.

It has a stack of contexts of its own in each thread, beside the driver's, and frees nothing in a
thread whose topmost context is not the one that it was made in: it warns and leaks. A thread that
ends while its stack isn't empty aborts the process.
"""

# ruff: noqa: A001 (the names are pycuda's)

from __future__ import annotations

import contextlib
import threading
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from fake_device import DriverError, FakeDevice


def make_pycuda(device: FakeDevice) -> types.ModuleType:
    module = types.ModuleType("pycuda.driver")
    stacks: dict[threading.Thread, list[Context]] = {}

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error):
        pass

    @contextlib.contextmanager
    def named(name: str) -> Iterator[None]:
        try:
            yield
        except DriverError as error:
            kind = MemoryError if "OUT_OF_MEMORY" in str(error) else LogicError
            reason = str(error).removeprefix("CUDA_ERROR_").replace("_", " ").lower()
            raise kind(f"{name} failed: {reason}") from error

    def stack() -> list[Context]:
        return stacks.setdefault(threading.current_thread(), [])

    def leave_driver() -> None:
        if stack():
            with named("cuCtxPopCurrent"):
                device.pop_context()

    class Context:
        def __init__(self, handle: int) -> None:
            self.handle = handle

        def push(self) -> None:
            leave_driver()
            with named("cuCtxPushCurrent"):
                device.push_context(self.handle)
            stack().append(self)
            device.alive("contexts of pycuda", 1)

        @staticmethod
        def pop() -> None:
            leave_driver()
            if not stack():
                raise LogicError("context::pop failed: cannot pop non-current context")
            stack().pop()
            device.alive("contexts of pycuda", -1)
            if stack():
                device.push_context(stack()[-1].handle)

    class Dependent:
        """What belongs to the context that is pycuda's current one when it is made."""

        def __init__(self) -> None:
            if not stack():
                raise LogicError("explicit_context_dependent failed: no currently active context?")
            self._context = stack()[-1]

        def _may_free(self, what: str) -> bool:
            current = bool(stack()) and stack()[-1] is self._context
            if not current:
                device.violate(f"leaks {what}: its context is not current in this thread")
            return current

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        @staticmethod
        def count() -> int:
            return device.gpus

        def name(self) -> str:
            return device.name

        def compute_capability(self) -> tuple[int, int]:
            return device.compute_capability

        def total_memory(self) -> int:
            return device.total_memory

        def retain_primary_context(self) -> Context:
            with named("cuDevicePrimaryCtxRetain"):
                return Context(device.retain_primary_context())

        def make_context(self, flags: int = 0) -> Context:
            raise AssertionError(f"not the primary context ({flags})")

    def init(flags: int = 0) -> None:
        assert flags == 0
        with named("cuInit"):
            device.init()

    class Stream(Dependent):
        def __init__(self, flags: int = 0) -> None:
            super().__init__()
            with named("cuStreamCreate"):
                self._handle = device.create_stream(flags)

        @property
        def handle(self) -> int:
            return self._handle

        def __del__(self) -> None:
            if hasattr(self, "_handle") and self._may_free("a stream"):
                with contextlib.suppress(DriverError):
                    device.destroy_stream(self._handle)

    class DeviceAllocation(Dependent):
        def __init__(self, size: int) -> None:
            super().__init__()
            with named("cuMemAlloc"):
                self._address: int | None = device.allocate(size)

        def __int__(self) -> int:
            assert self._address is not None, "used after free"
            return self._address

        def free(self) -> None:
            if self._address is None:
                raise LogicError("device_allocation::free failed: invalid resource handle")
            address, self._address = self._address, None
            if self._may_free("memory"):
                with contextlib.suppress(DriverError):  # pycuda warns
                    device.free(address)

        def __del__(self) -> None:
            if getattr(self, "_address", None) is not None:
                self.free()

    def mem_alloc(size: int) -> DeviceAllocation:
        assert type(size) is int
        return DeviceAllocation(size)

    class PagelockedHostAllocation(Dependent):
        def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
            super().__init__()
            with named("cuMemHostAlloc"):
                size = int(np.prod(shape)) * dtype.itemsize
                self._address: int | None = device.allocate_pinned(size)
            self.__array_interface__ = {
                "shape": shape,
                "typestr": dtype.str,
                "data": (self._address, False),
                "version": 3,
            }

        def free(self) -> None:
            if self._address is None:
                raise LogicError("pagelocked_host_allocation::free failed: invalid handle")
            address, self._address = self._address, None
            if self._may_free("pinned memory"):
                with contextlib.suppress(DriverError):
                    device.free_pinned(address)

        def __del__(self) -> None:
            if getattr(self, "_address", None) is not None:
                self.free()

    def pagelocked_empty(
        shape: tuple[int, ...], dtype: npt.DTypeLike, order: str = "C", mem_flags: int = 0
    ) -> npt.NDArray[Any]:
        assert (order, mem_flags) == ("C", 0)
        array = np.asarray(PagelockedHostAllocation(tuple(shape), np.dtype(dtype)))
        assert isinstance(array.base, PagelockedHostAllocation)
        return array

    def check_copy(array: npt.NDArray[Any], address: int, stream: Any) -> None:
        assert type(address) is int
        assert isinstance(stream, Stream), "a copy on the default stream"
        assert array.flags.c_contiguous

    def memcpy_htod_async(dest: int, src: npt.NDArray[Any], stream: Any = None) -> None:
        check_copy(src, dest, stream)
        with named("cuMemcpyHtoDAsync"):
            device.copy_to_device(dest, src.ctypes.data, src.nbytes, stream.handle)

    def memcpy_dtoh_async(dest: npt.NDArray[Any], src: int, stream: Any = None) -> None:
        check_copy(dest, src, stream)
        assert dest.flags.writeable
        with named("cuMemcpyDtoHAsync"):
            device.copy_to_host(dest.ctypes.data, src, dest.nbytes, stream.handle)

    for item in (Error, LogicError, MemoryError, Context, Device, DeviceAllocation, Stream):
        setattr(module, item.__name__, item)
    for call in (init, mem_alloc, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async):
        setattr(module, call.__name__, call)
    return module
