"""Run with the library to use, and the stub of the driver where the loader finds it: what
launcher.py and the libraries for CUDA do with each other, up to a captured batch. Says what fails.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from fake_device import FakeDevice
from fake_tensorrt import make_tensorrt

sys.modules["tensorrt"] = make_tensorrt(FakeDevice())

from electra_qa.engines.tensorrt.cuda import Gpu, GpuThread, load_cuda  # noqa: E402
from electra_qa.engines.tensorrt.launcher import CudaError  # noqa: E402

SIZE, COPIED = 1024, 1000
library = sys.argv[1]
# pycuda is linked to many functions of the driver's that the stub lacks, since nobody calls them.
sys.setdlopenflags(os.RTLD_LAZY)
stub = ctypes.CDLL("libcuda.so.1")
handle, address = ctypes.c_void_p, ctypes.c_uint64


def find(name: str) -> ModuleType:
    if name == "pycuda.driver" and library != "pycuda":
        raise ModuleNotFoundError(name, name="pycuda")
    return importlib.import_module(name)


def fails(call: Callable[..., Any], *args: Any) -> str:
    try:
        call(*args)
    except CudaError as error:
        return str(error)
    raise AssertionError("it should fail")


cuda = load_cuda(find)
assert cuda.name == library, cuda.name
thread = GpuThread("gpu", cuda)
call, launcher = thread.call, thread.launcher
assert call(cuda.gpu) == Gpu("Stub GPU 0", "8.9", 24 << 30), call(cuda.gpu)

stream, event = call(cuda.stream), call(launcher.event)
assert stub.stubFlags(handle(stream.handle)) == 1
assert stub.stubFlags(handle(event)) == 3
source, target = call(cuda.pinned, SIZE), call(cuda.pinned, SIZE)
inputs, outputs = call(cuda.allocate, SIZE), call(cuda.allocate, SIZE)
assert source.content.shape == (SIZE,)
# A reason that is pycuda's is the driver's words for it, which the stub has none of.
assert "cuMemAlloc" in fails(call, cuda.allocate, 1 << 41)


def enqueue() -> None:
    cuda.copy_to_gpu(inputs, source, COPIED, stream)
    work = stub.cuMemcpyDtoDAsync_v2
    status = work(
        address(outputs.address),
        address(inputs.address),
        ctypes.c_size_t(COPIED),
        handle(stream.handle),
    )
    assert status == 0, status
    cuda.copy_to_host(target, outputs, COPIED, stream)


source.content[:], target.content[:] = 7, 0
call(enqueue)
call(launcher.wait, stream.handle, event)
assert (target.content[:COPIED] == 7).all()
assert (target.content[COPIED:] == 0).all()

graph = call(launcher.capture, stream.handle, enqueue)
source.content[:] = 8
assert (target.content[:COPIED] == 7).all(), "a capture ran"

# In another thread than what it was made in, and while others work.
ticks = 0
stop = threading.Event()


def tick() -> None:
    global ticks  # noqa: PLW0603
    while not stop.wait(0.001):
        ticks += 1


other = threading.Thread(target=tick)
other.start()
assert "CONTEXT" in fails(launcher.launch, graph, stream.handle)
with launcher.current():
    assert stub.stubDepth() == 1
    launcher.launch(graph, stream.handle)
    before = ticks
    launcher.wait(stream.handle, event)
    assert ticks > before, "the wait holds Python's lock"
assert stub.stubDepth() == 0
stop.set()
other.join()
assert (target.content[:COPIED] == 8).all()

call(launcher.free_graph, graph)
call(launcher.free_event, event)
for memory in (source, target, inputs, outputs):
    call(memory.free)
call(stream.free)
assert call(stub.stubDepth) == 1
thread.close()
time.sleep(0.01)
assert not thread._thread.is_alive()
print("done")
