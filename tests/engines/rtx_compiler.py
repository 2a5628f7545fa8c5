"""TensorRT for RTX as a stand-in for `tensorrt`: it builds for a GPU which is not there."""

from __future__ import annotations

import re
import sys
import types
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from electra_qa.bundle import Bundle
from electra_qa.engines.checked_graph import checked_graph

rtx: Any = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: the extra rtx"
)

ENGINE = "electra_qa.engines.tensorrt"
# A line of the log for each step of a batch. What stands for no kernel is not here: reshapes, and
# the signals and waits between streams.
LAYER = re.compile(r"^Name: (.+?), LayerType: (\w+),", re.MULTILINE)
KERNELS = {"kgen", "gemm", "runtime_fusion", "runtime_function"}


@dataclass
class Compiled:
    """inputs, outputs: (type, shape) by name, as the parser had them. kernels: their names, for all
    profiles. kinds: how many steps there are of each."""

    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    plan: bytes = b""

    @property
    def fused_attention(self) -> int:
        return sum(name.startswith("_gemm_mha") for name in self.kernels)


def compile_bundle(
    bundle: Bundle,
    capability: str,
    lengths: tuple[int, ...],
    *,
    max_batch_tokens: int = 2048,
    **options: int,
) -> Compiled:
    """Through our own `build_plan`. options: of TensorRTOptions. Raises EngineError."""
    compiled = Compiled()
    with _tensorrt_is(_module(compiled, capability)):
        from electra_qa.engines.tensorrt.build import TensorRTOptions, build_plan
        from electra_qa.engines.tensorrt.profiles import Profiles

        compiled.plan, _ = build_plan(
            bundle,
            checked_graph(bundle),
            Profiles(lengths, max_batch_tokens),
            TensorRTOptions(**options),
            b"",
        )
    return compiled


def refusal(model: onnx.ModelProto) -> str:
    """What the compiler says of a graph of one input, x of [n, 64]; "" where it takes it."""
    said: list[str] = []
    logger = _listener(Compiled(), lambda _, msg: said.append(msg))
    builder = rtx.Builder(logger)
    network = builder.create_network()
    parser = rtx.OnnxParser(network, logger)
    if not parser.parse(model.SerializeToString()):
        return "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
    config = builder.create_builder_config()
    _choose(config, "SM89")
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 64), (8, 64), (8, 64))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    return "" if plan is not None else "; ".join(said)


def _choose(config: Any, capability: str) -> None:
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(rtx.ComputeCapability, capability), 0)


def _listener(compiled: Compiled, tell: Any) -> Any:
    class Listener(rtx.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if severity != rtx.ILogger.Severity.VERBOSE:
                tell(severity, msg)
                return
            steps = LAYER.findall(msg)
            compiled.kernels += [name for name, kind in steps if kind in KERNELS]
            compiled.kinds.update(kind for _, kind in steps)

    return Listener()


def _module(compiled: Compiled, capability: str) -> types.ModuleType:
    """`tensorrt` as `build.py` uses it."""
    module = types.ModuleType("tensorrt")
    vars(module).update({name: getattr(rtx, name) for name in dir(rtx) if name[:2] != "__"})

    class Builder(rtx.Builder):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            self._listener = _listener(compiled, logger.log)
            super().__init__(self._listener)

        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            _choose(config, capability)
            config.profiling_verbosity = rtx.ProfilingVerbosity.DETAILED
            return config

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            for found, count, get in (
                (compiled.inputs, network.num_inputs, network.get_input),
                (compiled.outputs, network.num_outputs, network.get_output),
            ):
                for tensor in map(get, range(count)):
                    found[tensor.name] = (np.dtype(rtx.nptype(tensor.dtype)), tuple(tensor.shape))
            return super().build_serialized_network(network, config)

    module.Builder = Builder  # type: ignore[attr-defined]
    return module


@contextmanager
def _tensorrt_is(module: types.ModuleType) -> Iterator[None]:
    """The engine's modules are loaded anew, with `module` as tensorrt, and forgotten."""
    _forget()
    sys.modules["tensorrt"] = module
    try:
        yield
    finally:
        _forget()


def _forget() -> None:
    for name in list(sys.modules):
        if name in ("tensorrt", ENGINE) or name.startswith(f"{ENGINE}."):
            del sys.modules[name]
