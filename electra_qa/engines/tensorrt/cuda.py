"""What the engine asks of CUDA, and the thread that it sets up and tears down on.

Two libraries give it: pycuda where it is installed, else cuda-python, which also gives what pycuda
does not have, CUDA graphs.
"""

from __future__ import annotations

import functools
import importlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from .. import EngineError
from .launcher import CudaError, Launcher

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

# How long closing waits for a thread, in seconds. Longer only where the GPU hangs or is lost.
CLOSE_TIMEOUT_S = 5.0

# The default stream would wait for the other slot's work, and makes TensorRT synchronize.
NON_BLOCKING_STREAM = 1  # CU_STREAM_NON_BLOCKING


class GpuFaultError(EngineError):
    """CUDA failed, maybe on work of a while ago: nothing that this process does on the GPU after
    it can be trusted, and CUDA refuses most of it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """compute_capability: "8.9", say. memory: in bytes."""

    name: str
    compute_capability: str
    memory: int


class Memory(Protocol):
    """Memory on the GPU."""

    address: int

    def free(self) -> None: ...


class PinnedMemory(Protocol):
    """Memory of the host that the GPU copies from and to by itself. content: uint8 [size]."""

    content: npt.NDArray[np.uint8]

    def free(self) -> None: ...


class Stream(Protocol):
    """handle: what TensorRT and the driver know it by."""

    handle: int

    def free(self) -> None: ...


class Cuda(Protocol):
    """The driver's calls, on the first GPU that it shows. All of them raise CudaError.

    What is made here is made and freed in one `GpuThread`. Streams and memory are used in any
    thread that the GPU's context is current in, see `Launcher.current`.
    """

    name: str

    def start(self) -> Launcher:
        """Before anything else; again for each engine. Raises EngineError where there is no GPU."""

    def gpu(self) -> Gpu: ...

    def push(self) -> None:
        """Make the GPU's context the calling thread's."""

    def pop(self) -> None: ...

    def stream(self) -> Stream: ...

    def allocate(self, size: int) -> Memory:
        """size: in bytes, more than 0."""

    def pinned(self, size: int) -> PinnedMemory: ...

    def copy_to_gpu(self, memory: Memory, host: PinnedMemory, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first `size` bytes."""

    def copy_to_host(self, host: PinnedMemory, memory: Memory, size: int, stream: Stream) -> None:
        """Enqueue a copy of the first `size` bytes."""


def load_cuda(find: Callable[[str], ModuleType] = importlib.import_module) -> Cuda:
    """pycuda where it is installed and can be loaded, cuda-python otherwise.

    find: imports a module by its name. Raises ImportError where cuda-python is missing.
    """
    from .by_cuda_python import CudaPython
    from .by_pycuda import PyCuda

    driver = find("cuda.bindings.driver")
    try:
        pycuda = find("pycuda.driver")
    except ImportError as error:
        if error.name != "pycuda":  # it is there, and a library that it was built with is not
            log.warning("pycuda can't be loaded, so cuda-python is used: %s", error)
        return CudaPython(driver)
    return PyCuda(pycuda, driver)


@functools.cache
def process_cuda() -> Cuda:
    """The one of this process, kept until its end."""
    return load_cuda()


class GpuThread:
    """A thread with the GPU's context, that runs the calls it is handed, one after another.

    pycuda frees nothing in a thread that it has not pushed its context in, and warns and leaks
    instead; so what it makes is made and freed here.
    """

    def __init__(self, name: str, cuda: Cuda) -> None:
        """Raises EngineError where there is no GPU that works."""
        self._tasks: _Tasks = queue.SimpleQueue()
        started: Future[Launcher] = Future()
        # A daemon: the interpreter waits for other threads before it runs what closes this one.
        self._thread = threading.Thread(
            target=_work, args=(cuda, self._tasks, started), name=name, daemon=True
        )
        self._thread.start()
        self.launcher = started.result()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run it in the thread and wait. Raises what it raises."""
        if threading.current_thread() is self._thread:  # an engine collected as garbage, here
            return function(*args, **kwargs)
        future: Future[T] = Future()
        self._tasks.put((future, functools.partial(function, *args, **kwargs)))
        return future.result()

    def close(self) -> None:
        """Nothing may be called any more."""
        self._tasks.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(CLOSE_TIMEOUT_S)


_Tasks = queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]


def _work(cuda: Cuda, tasks: _Tasks, started: Future[Launcher]) -> None:
    try:
        launcher = cuda.start()
        cuda.push()
    except CudaError as error:
        started.set_exception(EngineError(f"no GPU that works: CUDA says: {error}"))
        return
    except BaseException as error:
        started.set_exception(error)
        return
    try:
        started.set_result(launcher)
        while (task := tasks.get()) is not None:
            future, call = task
            try:
                future.set_result(call())
            except BaseException as error:
                future.set_exception(_without_frames(error))
            del task, future, call  # what a call closes over may be the engine itself
    finally:
        _pop(cuda)


def _pop(cuda: Cuda) -> None:
    """pycuda aborts the process when a thread ends whose stack of contexts isn't empty. Where CUDA
    refuses even to pop, after a fault, the thread stays, so that the process can end in order."""
    try:
        cuda.pop()
    except CudaError:
        log.exception("CUDA does not let go of the GPU: restart the process")
        threading.Event().wait()


def _without_frames(error: BaseException) -> BaseException:
    """Frames of a traceback keep their variables alive: CUDA objects, beyond their thread."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error
