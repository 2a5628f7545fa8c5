"""The ONNX graph: encoder, span head and the decode of spans and null, in one.

Written out operator by operator, not traced from PyTorch, so that every type in it is chosen and
every node has a name that says what it belongs to ("encoder/layer.3/attention/query/MatMul_0").
TensorRT, OpenVINO and ONNX Runtime take it as it stands.

Inputs
    input_ids  int32 [windows, length]
    bounds     int32 [windows, 5], the columns of `electra_qa.windows.BOUNDS`: segment ids,
               padding mask and the positions where an answer may start follow from these.
Outputs: see `electra_qa.spans.DecodedWindows`; `electra_qa.spans.decode` is the same decode in
NumPy.
    spans          int32   [windows, n_best_size, 2]
    span_logits    float32 [windows, n_best_size, 2]
    null_logits    float32 [windows, 2]
    log_partition  float32 [windows, 2]
    logits         float32 [windows, length, 2]
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from electra_qa.windows import BOUNDS

from .architecture import Architecture
from .checkpoint import Checkpoint
from .columns import Columns
from .decode import decode
from .families import family_of
from .quantized import QuantizedLinear
from .writer import Writer

OPSET = 20  # Gelu came with 20, LayerNormalization with 17
IR_VERSION = 10


def build_graph(
    checkpoint: Checkpoint,
    *,
    half: bool = False,
    linears: Mapping[str, QuantizedLinear] | None = None,
    int8_embeddings: bool = False,
    n_best_size: int,
    max_answer_length_limit: int,
) -> ir.Model:
    """The graph of a checkpoint, strongly typed: no engine may choose a type in it.

    It holds no weights: they are read from the checkpoint when it is written, see `graph_file.py`.

    half: compute in float16, else in float32.
    linears: linear layers to compute in int8, by name.
    int8_embeddings: store the word embeddings in int8.
    n_best_size: how many spans of a window are decoded.
    max_answer_length_limit: the longest answer that is decoded, in tokens.

    In a float16 graph these stay in float32 on purpose, behind Casts:
    - the residual sums and the layer norms, whose sums of squares leave float16's range;
    - the span head, whose logits would keep three digits only and tie all the time;
    - the decode: span scores, masks of −1e30, and the sums of the softmax denominators.
    The attention stays in float16 as a whole, mask and softmax too: engines fuse it only where it
    is of one type, and their fused kernels sum in float32 by themselves.

    In a float32 graph, weights that came in float16 stay so in the file, with a Cast behind them
    that engines fold away: half the size, the same numbers.

    Raises BuildError where a weight is out of float16's range.
    """
    graph = empty_graph()
    writer = Writer(graph, checkpoint.weights, half, linears or {})
    builder = writer.builder
    input_ids = builder.input("input_ids", ir.DataType.INT32, ["windows", "length"])
    bounds = builder.input("bounds", ir.DataType.INT32, ["windows", len(BOUNDS)])
    columns = Columns(writer, input_ids, bounds)
    with writer.scope("encoder"):
        words = (writer.int8_embedding if int8_embeddings else writer.embedding)("word", input_ids)
        hidden = _encoder(writer, checkpoint.architecture, words, columns)
    with writer.scope("qa_outputs"):
        head = writer.full_weight("qa_outputs.weight", transpose=True)
        product = writer.op.MatMul(writer.full(hidden), head)
        logits = writer.op.Add(product, writer.full_weight("qa_outputs.bias"))
    with writer.scope("decode"):
        outputs = decode(writer, logits, columns, n_best_size, max_answer_length_limit)
    for name, value in {**outputs, "logits": logits}.items():
        builder.add_output(value, name)
    return finished(graph)


def empty_graph() -> ir.Graph:
    return ir.Graph(inputs=[], outputs=[], nodes=[], opset_imports={"": OPSET}, name="electra_qa")


def finished(graph: ir.Graph) -> ir.Model:
    """The graph without what onnxscript's builder noted on its nodes, as a model."""
    for node in graph:
        node.metadata_props.clear()
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="electra-qa")


def _encoder(
    writer: Writer, architecture: Architecture, words: ir.Value, columns: Columns
) -> ir.Value:
    """words: float32 [windows, length, embedding_size]."""
    family = family_of(architecture.model_type)
    hidden = family.embed(writer, architecture, words, columns)
    shared = family.prepare(writer, architecture, columns)
    for index in range(architecture.num_hidden_layers):
        with writer.scope(f"layer.{index}"):
            hidden = family.layer(writer, architecture, index, hidden, shared)
    return family.finish(writer, architecture, hidden)
