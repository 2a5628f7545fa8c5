"""The decode inside the graph against `electra_qa.spans.decode`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
import openvino
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_qa.build_engine import decode as graph_decode
from electra_qa.build_engine.columns import Columns
from electra_qa.build_engine.graph import IR_VERSION, OPSET
from electra_qa.build_engine.writer import Writer
from electra_qa.spans import MASKED, DecodedWindows, decode
from electra_qa.windows import BOUNDS

OUTPUTS = ("spans", "span_logits", "null_logits", "log_partition")


@dataclass(frozen=True)
class Case:
    """logits: float32 [windows, length, 2]. bounds: int32 [windows, 5]."""

    logits: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.int32]

    @property
    def feed(self) -> dict[str, npt.NDArray[np.generic]]:
        input_ids = np.zeros(self.logits.shape[:2], np.int32)
        return {"input_ids": input_ids, "bounds": self.bounds, "logits": self.logits}


Run = Callable[[Case], DecodedWindows]


def decode_alone(n_best: int, band: int) -> onnx.ModelProto:
    """The graph's decode with the logits as an input instead of the encoder."""
    graph = ir.Graph(inputs=[], outputs=[], nodes=[], opset_imports={"": OPSET}, name="decode")
    writer = Writer(graph, {}, False, {})
    builder = writer.builder
    input_ids = builder.input("input_ids", ir.DataType.INT32, ["windows", "length"])
    bounds = builder.input("bounds", ir.DataType.INT32, ["windows", len(BOUNDS)])
    logits = builder.input("logits", ir.DataType.FLOAT, ["windows", "length", 2])
    columns = Columns(writer, input_ids, bounds)
    for name, value in graph_decode.decode(writer, logits, columns, n_best, band).items():
        builder.add_output(value, name)
    return ir.to_proto(ir.Model(graph, ir_version=IR_VERSION))


def on_openvino(model: onnx.ModelProto) -> Run:
    core = openvino.Core()
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", exact)

    def run(case: Case) -> DecodedWindows:
        results = compiled(case.feed)
        return DecodedWindows(*(np.array(results[name]) for name in OUTPUTS), case.logits)

    return run


def on_onnxruntime(model: onnx.ModelProto) -> Run:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda case: DecodedWindows(*session.run(OUTPUTS, case.feed), case.logits)


ENGINES = {"openvino": on_openvino, "onnxruntime": on_onnxruntime}
# (spans of a window, longest answer): as a build has them, the least, and odd ones.
SIZES = [(64, 64), (20, 30), (1, 1), (7, 3), (3, 7)]


@pytest.fixture(scope="module", params=SIZES, ids=lambda size: f"best {size[0]} of {size[1]}")
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    n_best, band = request.param
    return n_best, band


@pytest.fixture(scope="module", params=ENGINES)
def run(request: pytest.FixtureRequest, size: tuple[int, int]) -> Run:
    return ENGINES[request.param](decode_alone(*size))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Windows with any bounds. Only the last position is never of the context: it is [SEP] or
    padding. `clip` cuts the longest answer down to what a graph takes."""
    windows = draw(st.integers(1, 4))
    length = draw(st.one_of(st.integers(2, 12), st.integers(2, 150)))
    place = st.integers(0, length - 1)
    rows = []
    for _ in range(windows):
        context = sorted(draw(st.tuples(place, place)))
        start = sorted(draw(st.tuples(place, place)))
        rows.append((*context, *start, draw(st.integers(0, 64))))
    # Few values make many ties, which is what engines sort each in their own way.
    levels = draw(st.sampled_from([1, 2, 3, 10, None]))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = (windows, length, 2)
    logits = random.normal(size=shape) if levels is None else random.integers(0, levels, shape)
    scale = draw(st.sampled_from([1.0, -1.0, 0.1, 1000.0]))
    return Case((logits * scale).astype(np.float32), np.array(rows, np.int32))


def clip(case: Case, band: int) -> Case:
    bounds = case.bounds.copy()
    bounds[:, 4] = np.minimum(bounds[:, 4], band)
    return Case(case.logits, bounds)


def assert_same(actual: DecodedWindows, expected: DecodedWindows) -> None:
    """Exactly; the sums in `log_partition` are the engine's own, and spans that only fill up a
    window may be anything."""
    valid = expected.span_logits[..., 0] > MASKED / 2
    np.testing.assert_array_equal(actual.spans[valid], expected.spans[valid])
    np.testing.assert_array_equal(actual.span_logits, expected.span_logits)
    np.testing.assert_array_equal(actual.null_logits, expected.null_logits)
    np.testing.assert_allclose(actual.log_partition, expected.log_partition, rtol=1e-6, atol=1e-5)
    for name in OUTPUTS:
        assert getattr(actual, name).dtype == getattr(expected, name).dtype
        assert getattr(actual, name).shape == getattr(expected, name).shape


@given(case=cases())
def test_the_graph_decodes_exactly_as_the_reference(
    case: Case, run: Run, size: tuple[int, int]
) -> None:
    n_best, band = size
    case = clip(case, band)
    start_logits, end_logits = case.logits[..., 0], case.logits[..., 1]
    assert_same(run(case), decode(start_logits, end_logits, case.bounds, n_best))


@settings(max_examples=20)
@given(case=cases(), padding=st.integers(1, 40))
def test_padding_changes_nothing(case: Case, padding: int, run: Run, size: tuple[int, int]) -> None:
    case = clip(case, size[1])
    # Padding has logits as well, here the highest of all: only the bounds keep it out.
    padded = np.pad(case.logits, ((0, 0), (0, padding), (0, 0)), constant_values=1e6)
    assert_same(run(Case(padded, case.bounds)), run(case))
