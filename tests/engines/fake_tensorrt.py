"""`tensorrt` 11 on a FakeDevice. A plan is the ONNX graph with its profiles; ONNX Runtime runs it
on the bytes that lie at the addresses that an execution context was given."""

# ruff: noqa: A002 (the names are NVIDIA's)

from __future__ import annotations

import enum
import hashlib
import json
import threading
import types
import weakref
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from fake_device import ALIGNMENT, FakeDevice, IllegalAddressError
from onnx.external_data_helper import load_external_data_for_model

SCRATCH = 1 << 16
REFUSED = {"NonZero", "Compress", "Loop", "If", "Unique"}
MAGIC = b"FAKEPLAN"

_graphs: dict[str, bytes] = {}


@lru_cache(maxsize=4)
def _session(digest: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more of them spin while they wait
    return onnxruntime.InferenceSession(_graphs[digest], options)


class DataType(enum.Enum):
    FLOAT = 0
    INT32 = 3
    INT64 = 8


DTYPES = {
    onnx.TensorProto.FLOAT: DataType.FLOAT,
    onnx.TensorProto.INT32: DataType.INT32,
    onnx.TensorProto.INT64: DataType.INT64,
}
NUMPY = {DataType.FLOAT: np.float32, DataType.INT32: np.int32, DataType.INT64: np.int64}


class Severity(enum.Enum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    """Its __init__ must be called, or pybind11 refuses the object."""

    Severity = Severity

    def __init__(self) -> None:
        self._made = True


class BuilderFlag(enum.Enum):
    """Those of 11 that matter here. FP16, INT8 and BF16 are gone."""

    TF32 = 7
    VERSION_COMPATIBLE = 13


class HardwareCompatibilityLevel(enum.Enum):
    NONE = 0
    AMPERE_PLUS = 1
    SAME_COMPUTE_CAPABILITY = 2


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class HostMemory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content


class ParserError:
    def __init__(self, desc: str, name: str, operator: str) -> None:
        self._texts = (desc, name, operator)

    def desc(self) -> str:
        return self._texts[0]

    def node_name(self) -> str:
        return self._texts[1]

    def node_operator(self) -> str:
        return self._texts[2]


class Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, tuple[list[int], ...]] = {}

    def set_shape(
        self,
        input: str,
        min: tuple[int, ...],
        opt: tuple[int, ...],
        max: tuple[int, ...],
    ) -> None:
        """Lets pass any order, any rank and any name, and takes the last; so did the compiler of
        TensorRT for RTX 1.7."""
        for which, shape in (("min", min), ("opt", opt), ("max", max)):
            if any(size < 0 for size in shape):
                text = f"Shape provided for {which} is inconsistent with other shapes."
                raise RuntimeError(text)
        self.shapes[input] = (list(min), list(opt), list(max))

    def __bool__(self) -> bool:
        return all(
            len(low) == len(opt) == len(high)
            and all(a <= b <= c for a, b, c in zip(low, opt, high, strict=True))
            for low, opt, high in self.shapes.values()
        )


class TimingCache:
    def __init__(self, content: bytes) -> None:
        self.content = content

    def serialize(self) -> HostMemory:
        return HostMemory(self.content)


class Network:
    graph: bytes | None = None
    parser: Any = None


def make_tensorrt(device: FakeDevice) -> types.ModuleType:
    module = types.ModuleType("tensorrt")
    version = device.tensorrt_version
    timing_header = f"TIMING {version} {device.name}\n".encode()

    def check_logger(logger: Any) -> None:
        if not isinstance(logger, ILogger) or not hasattr(logger, "_made"):
            raise TypeError("__init__(): incompatible constructor arguments")
        if device.faults.no_gpu:
            error(logger, "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        device.has_context("starts TensorRT")

    def error(logger: Any, text: str) -> None:
        # From a thread of TensorRT's own, as happens.
        thread = threading.Thread(target=logger.log, args=(Severity.ERROR, text))
        thread.start()
        thread.join()

    class Config:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger
            self.flags = {BuilderFlag.TF32}
            self.hardware_compatibility_level = HardwareCompatibilityLevel.NONE
            self.profiles: list[Profile] = []
            self.cache: Any = lambda: None
            self.max_aux_streams = -1  # TensorRT chooses
            self.builder_optimization_level = 3

        def set_flag(self, flag: BuilderFlag) -> None:
            self.flags.add(flag)

        def clear_flag(self, flag: BuilderFlag) -> None:
            self.flags.discard(flag)

        def add_optimization_profile(self, profile: Profile) -> int:
            if not profile:
                error(self.logger, "Invalid optimization profiles: ensure MIN<=OPT<=MAX")
                return -1
            self.profiles.append(profile)
            return len(self.profiles) - 1

        def create_timing_cache(self, serialized: bytes) -> TimingCache | None:
            if serialized and not serialized.startswith(b"TIMING "):
                return None
            return TimingCache(serialized or timing_header)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            assert ignore_mismatch is False
            if not cache.content.startswith(timing_header):
                return False
            self.cache = weakref.ref(cache)
            return True

    class Builder:
        def __init__(self, logger: ILogger) -> None:
            check_logger(logger)
            self.logger = logger

        def create_network(self, *flags: int) -> Network:
            assert not flags, "networks have no flags any more"
            return Network()

        def create_builder_config(self) -> Config:
            return Config(self.logger)

        def create_optimization_profile(self) -> Profile:
            return Profile()

        def build_serialized_network(self, network: Network, config: Config) -> HostMemory | None:
            assert network.graph is not None
            if device.faults.build_error is not None:
                error(self.logger, device.faults.build_error)
                return None
            model = onnx.load_from_string(network.graph)
            inputs = {value.name for value in model.graph.input}
            if not config.profiles or any(set(p.shapes) != inputs for p in config.profiles):
                error(self.logger, "Network has dynamic inputs, but a profile lacks one")
                return None
            cache = config.cache()
            assert cache is not None, "the timing cache is gone before the engine is built"
            assert network.parser() is not None, "the parser is gone before the engine is built"
            device.note("reuses timing" if b"measured" in cache.content else "times")
            cache.content = timing_header + b"measured"
            digest = hashlib.sha256(network.graph).hexdigest()
            _graphs[digest] = network.graph
            device.note("build")
            device.note(f"tf32 {BuilderFlag.TF32 in config.flags}")
            device.note(f"auxiliary streams {config.max_aux_streams}")
            device.note(f"optimization level {config.builder_optimization_level}")
            header = {
                "version": version,
                "gpu": device.name,
                "version_compatible": BuilderFlag.VERSION_COMPATIBLE in config.flags,
                "hardware": config.hardware_compatibility_level.name,
                "profiles": [p.shapes for p in config.profiles],
                "digest": digest,
            }
            return HostMemory(MAGIC + json.dumps(header).encode() + b"\n" + network.graph)

    class OnnxParser:
        def __init__(self, network: Network, logger: ILogger) -> None:
            check_logger(logger)
            self._network = network
            self._errors: list[ParserError] = []

        @property
        def num_errors(self) -> int:
            return len(self._errors)

        def get_error(self, index: int) -> ParserError:
            return self._errors[index]

        def parse(self, content: bytes, path: str | None = None) -> bool:
            assert type(content) is bytes
            model = onnx.load_from_string(content)
            if path is not None:
                load_external_data_for_model(model, str(Path(path).parent))
            self._errors = [
                ParserError("no importer", node.name, node.op_type)
                for node in model.graph.node
                if node.op_type in REFUSED
            ]
            self._network.parser = weakref.ref(self)
            self._network.graph = model.SerializeToString()
            return not self._errors

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            check_logger(logger)
            self.logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized: bytes) -> Engine | None:
            if not serialized.startswith(MAGIC):
                error(self.logger, "Serialization assertion magicTagRead == kMAGIC_TAG failed")
                return None
            line, _, graph = serialized[len(MAGIC) :].partition(b"\n")
            header = json.loads(line)
            if header["version_compatible"] and not self.engine_host_code_allowed:
                error(self.logger, "engine host code is not allowed")
                return None
            if header["version"] != version and not header["version_compatible"]:
                error(self.logger, "The engine plan file is not compatible with this version")
                return None
            if header["gpu"] != device.name and header["hardware"] == "NONE":
                error(self.logger, "The engine plan file is generated on an incompatible device")
                return None
            _graphs.setdefault(header["digest"], graph)
            device.note("deserialize")
            return Engine(self, header, graph)

    class Engine:
        def __init__(self, runtime: Runtime, header: dict[str, Any], graph: bytes) -> None:
            self.runtime = runtime
            self.profiles = header["profiles"]
            self.digest = header["digest"]
            model = onnx.load_from_string(graph)
            self.inputs = [value.name for value in model.graph.input]
            self.values = {value.name: value for value in (*model.graph.input, *model.graph.output)}
            self.device_memory_size_v2 = SCRATCH
            device.alive("engines", 1)

        @property
        def num_io_tensors(self) -> int:
            return len(self.values)

        def get_tensor_name(self, index: int) -> str:
            return list(self.values)[index]

        def get_tensor_dtype(self, name: str) -> DataType:
            return DTYPES[self.values[name].type.tensor_type.elem_type]

        def create_execution_context(
            self, strategy: Any = ExecutionContextAllocationStrategy.STATIC
        ) -> Context | None:
            device.has_context("makes an execution context")
            if device.faults.context_error is not None:
                error(self.runtime.logger, device.faults.context_error)
                return None
            return Context(self, strategy)

        def __del__(self) -> None:
            device.has_context("frees an engine")
            device.alive("engines", -1)

    class Context:
        def __init__(self, engine: Engine, strategy: Any) -> None:
            self._engine = engine
            self._scratch: int | None = None
            self._managed = strategy is ExecutionContextAllocationStrategy.USER_MANAGED
            self._profile = 0
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._busy = threading.Lock()
            device.alive("execution contexts", 1)

        def _enter(self) -> None:
            device.has_context("uses an execution context")

        def _refuse(self, text: str) -> bool:
            error(self._engine.runtime.logger, text)
            return False

        def set_device_memory(self, memory: int, size: int) -> None:
            self._enter()
            assert type(memory) is int
            assert memory % ALIGNMENT == 0
            assert size >= self._engine.device_memory_size_v2
            assert self._managed
            self._scratch = memory

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            self._enter()
            assert stream_handle in device.streams
            if not 0 <= profile_index < len(self._engine.profiles):
                raise RuntimeError("Error in set optimization profile async.")
            self._profile = profile_index
            self._shapes.clear()
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            self._enter()
            low, _, high = self._engine.profiles[self._profile][name]
            fits = len(shape) == len(low) and all(
                a <= n <= b for a, n, b in zip(low, shape, high, strict=True)
            )
            if not fits:
                return self._refuse(f"{name}: {shape} is not in profile {self._profile}")
            self._shapes[name] = tuple(shape)
            return True

        def infer_shapes(self) -> list[str]:
            self._enter()
            return [name for name in self._engine.inputs if name not in self._shapes]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if name in self._engine.inputs:
                return self._shapes.get(name, (-1, -1))
            dims = self._engine.values[name].type.tensor_type.shape.dim
            # The only sizes that the graph leaves open: windows first, then their length.
            open_sizes = self._shapes.get("input_ids", (-1, -1))
            return tuple(
                dim.dim_value if dim.HasField("dim_value") else open_sizes[axis]
                for axis, dim in enumerate(dims)
            )

        def set_tensor_address(self, name: str, memory: int) -> bool:
            self._enter()
            assert type(memory) is int
            if name not in self._engine.values or memory % ALIGNMENT:
                return self._refuse(f"address of {name}")
            self._addresses[name] = memory
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            if not self._busy.acquire(blocking=False):
                device.violate("an execution context is used by two threads at once")
                return False
            try:
                return self._enqueue(stream_handle)
            finally:
                self._busy.release()

        def _enqueue(self, stream_handle: int) -> bool:
            self._enter()
            if device.faults.enqueue or device.fault is not None:
                return self._refuse("Error Code 1: Cuda Runtime (launch failure)")
            unset = [n for n in self._engine.values if n not in self._addresses]
            if unset or self.infer_shapes():
                return self._refuse(f"address is not set for {unset}")
            if self._managed and self._scratch is None:
                return self._refuse("device memory is not set")
            shapes, addresses = dict(self._shapes), dict(self._addresses)
            stream = device.streams[stream_handle]
            scratch, digest, engine = self._scratch, self._engine.digest, self._engine
            alive = weakref.ref(self)

            def run() -> None:
                if alive() is None:
                    device.violate("a graph runs whose execution context is gone")
                if device.faults.asynchronous:
                    raise IllegalAddressError("test")
                if scratch is not None:
                    device.bytes_at(scratch, SCRATCH).fill(0xEE)
                feeds = {
                    name: read(addresses[name], shape, NUMPY[engine_dtypes[name]])
                    for name, shape in shapes.items()
                }
                if not is_window(feeds["input_ids"], feeds["bounds"]):
                    device.violate("a row is no window")
                for (name, _), result in zip(
                    outputs, _session(digest).run([n for n, _ in outputs], feeds), strict=True
                ):
                    flat = np.ascontiguousarray(result).reshape(-1).view(np.uint8)
                    device.bytes_at(addresses[name], flat.nbytes)[:] = flat

            engine_dtypes = {n: engine.get_tensor_dtype(n) for n in engine.values}
            outputs = [(n, engine_dtypes[n]) for n in engine.values if n not in engine.inputs]
            for other in device.streams.values():
                if other is not stream and scratch in other.scratch_in_use:
                    device.violate("two streams use the same scratch memory")
            if scratch is not None and stream.captured is None:
                stream.scratch_in_use.add(scratch)
            del engine
            device.note("enqueue")
            stream.push(run)
            return True

        def __del__(self) -> None:
            device.has_context("frees an execution context")
            device.alive("execution contexts", -1)

    def read(address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return device.bytes_at(address, size).copy().view(dtype).reshape(shape)

    def is_window(input_ids: npt.NDArray[Any], bounds: npt.NDArray[Any]) -> bool:
        start, end = bounds[:, 0], bounds[:, 1]
        tokens = (input_ids >= 0) & (input_ids < 30522)
        return bool(
            tokens.all()
            and (start > 0).all()
            and (start <= end).all()
            and (end < input_ids.shape[1]).all()
        )

    def nptype(trt_type: DataType) -> Any:
        return NUMPY[trt_type]

    module.__version__ = version  # type: ignore[attr-defined]
    for item in (
        ILogger,
        BuilderFlag,
        HardwareCompatibilityLevel,
        ExecutionContextAllocationStrategy,
        Builder,
        OnnxParser,
        Runtime,
        nptype,
    ):
        setattr(module, item.__name__, item)
    return module
