"""The parts of an encoder as graphs of their own, in float32, for calibration: what goes before the
first layer, and each layer. In a part the inputs of its linear layers are outputs too.

Inputs
    input   float32 [windows, length, …]: word embeddings, or what the part before gives
    bounds  int32 [windows, 5]
Outputs
    output  float32 [windows, length, hidden_size]
    0, 1, … float32 [windows, length, …], the inputs of the sites
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from electra_qa.engines.openvino import openvino_core
from electra_qa.windows import BOUNDS

from .checkpoint import Checkpoint
from .columns import Columns
from .graph import empty_graph, finished
from .graph_file import write_graph
from .writer import Writer

Floats = npt.NDArray[np.float32]
# (input, bounds) to (output, the inputs of the sites)
Part = Callable[[Floats, npt.NDArray[np.int32]], tuple[Floats, list[Floats]]]
Sites = Sequence[tuple[str, ...]]

OUTPUT = "output"


def embeddings_part(checkpoint: Checkpoint, sites: Sites) -> Part:
    """From the word embeddings to the first layer."""
    architecture = checkpoint.architecture
    graph, writer, words, columns = _begin(checkpoint, architecture.embedding_size)
    hidden = checkpoint.family.embed(writer, architecture, words, columns)
    return _compiled(graph, writer, hidden, sites)


def layer_part(checkpoint: Checkpoint, index: int, sites: Sites) -> Part:
    architecture, family = checkpoint.architecture, checkpoint.family
    graph, writer, hidden, columns = _begin(checkpoint, architecture.hidden_size)
    shared = family.prepare(writer, architecture, columns)
    hidden = family.layer(writer, architecture, index, hidden, shared)
    return _compiled(graph, writer, hidden, sites)


def _begin(checkpoint: Checkpoint, size: int) -> tuple[ir.Graph, Writer, ir.Value, Columns]:
    graph = empty_graph()
    writer = Writer(graph, checkpoint.weights, half=False, linears={})
    x = writer.builder.input("input", ir.DataType.FLOAT, ["windows", "length", size])
    bounds = writer.builder.input("bounds", ir.DataType.INT32, ["windows", len(BOUNDS)])
    return graph, writer, x, Columns(writer, x, bounds)


def _compiled(graph: ir.Graph, writer: Writer, output: ir.Value, sites: Sites) -> Part:
    watched = [writer.inputs[group[0]] for group in sites]
    names = [OUTPUT, *map(str, range(len(sites)))]
    for name, value in zip(names, (output, *watched), strict=True):
        writer.builder.add_output(writer.op.Identity(value), name)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "part.onnx"
        write_graph(finished(graph), path)
        config = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        request = openvino_core().compile_model(path, "CPU", config).create_infer_request()

    def run(x: Floats, bounds: npt.NDArray[np.int32]) -> tuple[Floats, list[Floats]]:
        results = request.infer({"input": x, "bounds": bounds}, share_inputs=True)
        first, *rest = (results[output] for output in names)
        return first, rest

    return run
