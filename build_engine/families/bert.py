"""BERT, which all the others are told apart from.

Our names of weights are those of Transformers' BERT without the leading "bert.".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from electra_qa.tokenization import SpecialTokens

from ..architecture import HEADS_BY_LAYER, INTERMEDIATE_BY_LAYER, Architecture, Shape
from ..columns import Columns
from ..config import CONFIG, Config
from ..errors import BuildError
from ..writer import Op, Weights, Writer

# Transformers has several names for the same function.
GELU = ("gelu", "gelu_python")
TANH_GELU = ("gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "gelu_python_tanh")
ACTIVATIONS = (*GELU, *TANH_GELU, "relu", "tanh")
POSITIONS = "embeddings.position_embeddings.weight"
SEGMENTS = "embeddings.token_type_embeddings.weight"

# Added to the attention scores of padding. exp(−1e4) is 0 in float32 and float16 alike, and unlike
# −inf or −1e10 the number exists in float16.
PADDING_BIAS = -1e4

# What all layers share of the graph, by a family's own names.
Shared = Mapping[str, ir.Value]


class Bert:
    """A family; the methods say what of an encoder is whose.

    prefix: of the encoder's weights in a file.
    special_tokens: where the checkpoint's own files don't name them.
    defaults: of `config.json`, those of Transformers' configuration class.
    segments: whether question and context are told apart by an embedding.
    narrows: whether a layer may have fewer heads and neurons than another.
    """

    prefix: ClassVar[str] = "bert."
    special_tokens: ClassVar[SpecialTokens] = SpecialTokens()
    segments: ClassVar[bool] = True
    narrows: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "vocab_size": 30522,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "hidden_act": "gelu",
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "pad_token_id": 0,
        "position_embedding_type": "absolute",
    }

    # --- what is read

    def architecture(self, config: Config) -> Architecture:
        """Raises BuildError for an encoder that this family can't be, naming the field."""
        config.one_of("position_embedding_type", ("absolute",))
        hidden_size, heads = config.size("hidden_size"), config.size("num_attention_heads")
        if hidden_size % heads:
            raise BuildError(
                f"num_attention_heads must divide hidden_size ({hidden_size}), got {heads}"
            )
        layers, intermediate = config.size("num_hidden_layers"), config.size("intermediate_size")
        segments = config.size("type_vocab_size", lowest=0)
        first_position = self.first_position(config)
        return Architecture(
            model_type=str(config.value("model_type")),
            vocab_size=config.size("vocab_size"),
            embedding_size=self.embedding_size(config),
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            max_position_embeddings=config.size("max_position_embeddings") - first_position,
            type_vocab_size=segments if self.segments and segments > 1 else 0,
            first_position=first_position,
            hidden_act=config.one_of("hidden_act", ACTIVATIONS),
            layer_norm_eps=config.number("layer_norm_eps"),
            attention_heads_by_layer=self._by_layer(config, HEADS_BY_LAYER, layers, heads),
            intermediate_size_by_layer=self._by_layer(
                config, INTERMEDIATE_BY_LAYER, layers, intermediate
            ),
        )

    def _by_layer(self, config: Config, name: str, layers: int, whole: int) -> tuple[int, ...]:
        if config.fields.get(name) is None:
            return (whole,) * layers
        if not self.narrows:
            model_type = config.value("model_type")
            raise BuildError(f"{CONFIG} has {name}, but a {model_type} can't be pruned")
        return config.sizes(name, layers, whole)

    def embedding_size(self, config: Config) -> int:
        return config.size("hidden_size")

    def first_position(self, config: Config) -> int:  # noqa: ARG002
        return 0

    def shapes(self, architecture: Architecture) -> dict[str, Shape]:
        """The tensors of an encoder with a span head, by our names."""
        embedding, hidden = architecture.embedding_size, architecture.hidden_size
        shapes: dict[str, Shape] = {
            "embeddings.word_embeddings.weight": (architecture.vocab_size, embedding),
            POSITIONS: (architecture.max_position_embeddings, embedding),
            **norm("embeddings.LayerNorm", embedding),
            **linear("qa_outputs", hidden, 2),
        }
        if architecture.type_vocab_size:
            shapes[SEGMENTS] = (architecture.type_vocab_size, embedding)
        if self.projects(architecture):
            shapes |= linear("embeddings_project", embedding, hidden)
        for index in range(architecture.num_hidden_layers):
            layer = self.layer_name(architecture, index)
            attention = architecture.attention_size(index)
            intermediate = architecture.intermediate_size_by_layer[index]
            for part in ("query", "key", "value"):
                shapes |= linear(f"{layer}.attention.self.{part}", hidden, attention)
            shapes |= linear(f"{layer}.attention.output.dense", attention, hidden)
            shapes |= norm(f"{layer}.attention.output.LayerNorm", hidden)
            shapes |= linear(f"{layer}.intermediate.dense", hidden, intermediate)
            shapes |= linear(f"{layer}.output.dense", intermediate, hidden)
            shapes |= norm(f"{layer}.output.LayerNorm", hidden)
        return shapes

    def stored_name(self, name: str) -> str:
        """The name that the file has for one of ours, without the prefix."""
        return name

    def read(
        self, name: str, stored: Weights, architecture: Architecture
    ) -> npt.NDArray[np.floating[Any]]:
        """One of our tensors, from those of the file, which have no prefix here."""
        tensor = stored[self.stored_name(name)]
        if name != POSITIONS:
            return tensor
        tensor = tensor[architecture.first_position :]
        # All tokens are of the first segment then.
        if not architecture.type_vocab_size and self.stored_name(SEGMENTS) in stored:
            tensor = tensor.astype(np.float32) + stored[self.stored_name(SEGMENTS)][0]
        return tensor

    def projects(self, architecture: Architecture) -> bool:
        """Whether a linear layer stands between the embeddings and the first layer."""
        return architecture.embedding_size != architecture.hidden_size

    def layer_name(self, architecture: Architecture, index: int) -> str:  # noqa: ARG002
        """The name before the weights of a layer."""
        return f"encoder.layer.{index}"

    def layer_names(self, architecture: Architecture) -> list[str]:
        """Of all layers, each once."""
        indices = range(architecture.num_hidden_layers)
        return list(dict.fromkeys(self.layer_name(architecture, index) for index in indices))

    def feed_forward(self, layer: str) -> tuple[tuple[str, ...], str]:
        """The linear layers into the neurons of a layer's middle, and the one out of them."""
        return (f"{layer}.intermediate.dense",), f"{layer}.output.dense"

    def sites(self, layer: str) -> list[tuple[str, ...]]:
        """The linear layers of a layer that are quantized, grouped by the input that they share,
        in the order of the computation."""
        attention = f"{layer}.attention"
        before, after = self.feed_forward(layer)
        return [
            tuple(f"{attention}.self.{part}" for part in ("query", "key", "value")),
            (f"{attention}.output.dense",),
            before,
            (after,),
        ]

    def scaled_before(self, layer: str) -> dict[str, str]:
        """Linear layers of whose input each channel is a mixture, or a multiple, of one channel of
        what another linear layer gives; by their names, that one's."""
        return {f"{layer}.attention.output.dense": f"{layer}.attention.self.value"}

    # --- what is computed

    def embed(
        self, writer: Writer, architecture: Architecture, words: ir.Value, columns: Columns
    ) -> ir.Value:
        """The input of the first layer. words: float32 [windows, length, embedding_size]."""
        op = writer.op
        with writer.scope("embeddings"):
            hidden = op.Add(words, writer.embedding("position", columns.positions))
            if architecture.type_vocab_size:
                segment = op.Cast(columns.second_segment, to=ir.DataType.INT32)
                hidden = op.Add(hidden, writer.embedding("token_type", segment))
            hidden = writer.layer_norm(hidden, "embeddings.LayerNorm", architecture.layer_norm_eps)
            if self.projects(architecture):
                hidden = writer.linear(hidden, "embeddings_project")
        return hidden

    def prepare(
        self,
        writer: Writer,
        architecture: Architecture,  # noqa: ARG002
        columns: Columns,
    ) -> Shared:
        """What all layers share: "padding", [windows, 1, 1, length], added to their scores."""
        with writer.scope("mask"):
            padding = writer.op.Where(
                columns.is_token,
                writer.constant("keep", np.array(0.0, writer.dtype)),
                writer.constant("drop", np.array(PADDING_BIAS, writer.dtype)),
            )
            return {"padding": writer.op.Unsqueeze(padding, [1, 2])}

    def layer(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        hidden: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        """hidden: [windows, length, hidden_size], in the type that the graph computes in."""
        op = writer.op
        layer = self.layer_name(architecture, index)
        epsilon = architecture.layer_norm_eps
        with writer.scope("attention"):
            attended = self.attention(writer, architecture, index, hidden, shared)
        attended = op.Add(writer.full(attended), writer.full(hidden))
        hidden = writer.layer_norm(attended, f"{layer}.attention.output.LayerNorm", epsilon)
        with writer.scope("intermediate"):
            inner = writer.linear(hidden, f"{layer}.intermediate.dense")
            inner = activation(op, architecture.hidden_act, inner)
        with writer.scope("output"):
            inner = writer.linear(inner, f"{layer}.output.dense")
        inner = op.Add(writer.full(inner), writer.full(hidden))
        return writer.layer_norm(inner, f"{layer}.output.LayerNorm", epsilon)

    def attention(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        hidden: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        op = writer.op
        name = f"{self.layer_name(architecture, index)}.attention"
        heads, head_size = architecture.attention_heads_by_layer[index], architecture.head_size
        by_head = {}
        for part in ("query", "key", "value"):
            with writer.scope(part):
                projected = writer.linear(hidden, f"{name}.self.{part}")
                projected = op.Reshape(projected, [0, 0, heads, head_size])
                by_head[part] = op.Transpose(projected, perm=[0, 2, 1, 3])
        scores = self.scores(writer, architecture, index, by_head["query"], by_head["key"], shared)
        mixed = op.MatMul(op.Softmax(scores, axis=-1), by_head["value"])
        mixed = op.Reshape(op.Transpose(mixed, perm=[0, 2, 1, 3]), [0, 0, heads * head_size])
        with writer.scope("output"):
            return writer.linear(mixed, f"{name}.output.dense")

    def scores(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,  # noqa: ARG002
        query: ir.Value,
        key: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        """[windows, heads, length, length], before the softmax.

        query, key: [windows, heads, length, head_size].
        """
        op = writer.op
        # The query is scaled before the product, where engines look for it when they fuse.
        scale = writer.constant(
            "scale", np.array(1 / math.sqrt(architecture.head_size), writer.dtype)
        )
        scores = op.MatMul(op.Mul(query, scale), op.Transpose(key, perm=[0, 1, 3, 2]))
        return op.Add(scores, shared["padding"])

    def finish(
        self,
        writer: Writer,  # noqa: ARG002
        architecture: Architecture,  # noqa: ARG002
        hidden: ir.Value,
    ) -> ir.Value:
        """From the last layer to the span head."""
        return hidden


def activation(op: Op, name: str, x: ir.Value) -> ir.Value:
    """One of `ACTIVATIONS`."""
    if name in GELU or name in TANH_GELU:
        return op.Gelu(x, approximate="none" if name in GELU else "tanh")
    return op.Relu(x) if name == "relu" else op.Tanh(x)


def linear(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    """The tensors of a linear layer."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm(name: str, size: int) -> dict[str, Shape]:
    """The tensors of a layer norm."""
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}


family = Bert()
