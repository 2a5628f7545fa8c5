"""The graphs that we hand to TensorRT, compiled by TensorRT for RTX: NVIDIA's compiler too, for a
GPU that need not be there. It says what of a graph is taken, with which types, and what is fused
into one kernel; not how fast that is, nor what it computes."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from electra_qa.build_engine.build import BuildSettings
from electra_qa.bundle import Bundle, load_bundle, write_bundle
from electra_qa.engines import EngineError
from electra_qa.engines.checked_graph import checked_graph

from .conftest import build

rtx: Any = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT for RTX is not installed: the extra rtx"
)

CAPABILITY = "SM89"
# The shortest and the usual one: each costs the compiler a second or two.
LENGTHS = (64, 384)
LAYERS = 6  # of the default model
# A line of the log for each kernel.
LAYER = r"^Name: (.+?), LayerType: (?:kgen|gemm),"
PRECISIONS = ("fp32", "fp16", "int8")
DEFAULT_BUNDLE = Path(__file__).parents[2] / "electra_qa" / "default_bundle"


@dataclass
class Compiled:
    """inputs, outputs: (type, shape) by name, as the parser had them. kernels: their names, for all
    lengths."""

    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    kernels: list[str] = field(default_factory=list)
    plan: bytes = b""


def fake_tensorrt(compiled: Compiled) -> types.ModuleType:
    """`tensorrt` as `build.py` uses it, that builds for a GPU which is not there."""
    module = types.ModuleType("tensorrt")
    vars(module).update({name: getattr(rtx, name) for name in dir(rtx) if name[:2] != "__"})

    class Listening(rtx.ILogger):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            rtx.ILogger.__init__(self)
            self._logger = logger

        def log(self, severity: Any, msg: str) -> None:
            if severity == rtx.ILogger.Severity.VERBOSE:
                compiled.kernels += re.findall(LAYER, msg, re.MULTILINE)
            else:
                self._logger.log(severity, msg)

    class Builder(rtx.Builder):  # type: ignore[misc]
        def __init__(self, logger: Any) -> None:
            self._listening = Listening(logger)
            super().__init__(self._listening)

        def create_builder_config(self) -> Any:
            config = super().create_builder_config()
            config.num_compute_capabilities = 1
            config.set_compute_capability(getattr(rtx.ComputeCapability, CAPABILITY), 0)
            config.profiling_verbosity = rtx.ProfilingVerbosity.DETAILED
            return config

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            sides = (
                (compiled.inputs, network.num_inputs, network.get_input),
                (
                    compiled.outputs,
                    network.num_outputs,
                    network.get_output,
                ),
            )
            for found, count, get in sides:
                for tensor in map(get, range(count)):
                    found[tensor.name] = (np.dtype(rtx.nptype(tensor.dtype)), tuple(tensor.shape))
            return super().build_serialized_network(network, config)

    module.Builder = Builder  # type: ignore[attr-defined]
    return module


@pytest.fixture(scope="module")
def compile_bundle() -> Iterator[Callable[[Bundle], Compiled]]:
    """Through our own `build_plan`. Raises EngineError."""
    name = "electra_qa.engines.tensorrt"

    def forget() -> None:
        for module in list(sys.modules):
            if module in ("tensorrt", name) or module.startswith(f"{name}."):
                del sys.modules[module]

    def compile_it(bundle: Bundle) -> Compiled:
        compiled = Compiled()
        forget()
        sys.modules["tensorrt"] = fake_tensorrt(compiled)
        from electra_qa.engines.tensorrt.build import TensorRTOptions, build_plan
        from electra_qa.engines.tensorrt.profiles import Profiles

        graph = checked_graph(bundle)
        profiles = Profiles(LENGTHS, 2048)
        compiled.plan, _ = build_plan(bundle, graph, profiles, TensorRTOptions(), b"")
        return compiled

    yield compile_it
    forget()


@pytest.fixture(scope="module")
def bundles(
    bundle: Bundle, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Bundle]:
    """The default model in each precision."""
    half = build(checkpoint, tmp_path_factory.mktemp("fp16"), BuildSettings(precision="fp16"))
    return {"fp32": bundle, "fp16": half, "int8": load_bundle(DEFAULT_BUNDLE)}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_each_precision_compiles(
    compile_bundle: Callable[[Bundle], Compiled], bundles: dict[str, Bundle], precision: str
) -> None:
    bundle = bundles[precision]
    assert bundle.manifest.precision == precision
    compiled = compile_bundle(bundle)
    assert compiled.plan
    spans = bundle.manifest.n_best_size
    int32, float32 = np.dtype(np.int32), np.dtype(np.float32)
    assert compiled.inputs == {"input_ids": (int32, (-1, -1)), "bounds": (int32, (-1, 5))}
    assert compiled.outputs == {
        "spans": (int32, (-1, spans, 2)),
        "span_logits": (float32, (-1, spans, 2)),
        "null_logits": (float32, (-1, 2)),
        "log_partition": (float32, (-1, 2)),
        "logits": (float32, (-1, -1, 2)),
    }
    assert len(compiled.kernels) > len(LENGTHS) * LAYERS
    fused = [name for name in compiled.kernels if name.startswith("_gemm_mha_v2")]
    # One a layer and length. This compiler has none for float32.
    assert len(fused) == (0 if precision == "fp32" else LAYERS * len(LENGTHS))
    print(f"{precision}: {len(compiled.kernels) / len(LENGTHS):.0f} kernels a batch")


def test_a_half_is_not_added_to_a_float(
    compile_bundle: Callable[[Bundle], Compiled], bundle: Bundle, tmp_path: Path
) -> None:
    """The compiler has teeth: nothing is promoted."""
    model = onnx.load(bundle.graph_path)
    make, types_ = onnx.helper.make_node, onnx.TensorProto
    model.graph.node.extend(
        [
            make("Cast", ["bounds"], ["half"], name="to_half", to=types_.FLOAT16),
            make("Cast", ["bounds"], ["float"], name="to_float", to=types_.FLOAT),
            make("Add", ["half", "float"], ["sum"], name="mixed"),
        ]
    )
    files = {bundle.graph_path.name: model.SerializeToString(), "tokenizer.json": b""}
    mixed = write_bundle(tmp_path, bundle.manifest, files)
    with pytest.raises(EngineError, match=r"(?s)mixed.*Half.*Float"):
        compile_bundle(mixed)
