"""DeBERTa-v2 and -v3: disentangled attention. Beside what two tokens say to each other, a query is
held against how far away the key is (c2p), and a key against how far away the query is (p2c).

What is held against the distances depends on weights only, so it is computed here, in float32, and
stands in the graph as constants, in an int8 graph too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..architecture import Architecture, Shape
from ..columns import Columns
from ..config import Config
from ..errors import BuildError
from ..writer import Weights, Writer
from .bert import ACTIVATIONS, POSITIONS, Bert, Shared, activation, linear, norm

DISTANCES = "encoder.rel_embeddings.weight"
CONV = "encoder.conv.conv"
NAMES = {
    "embeddings_project": "embeddings.embed_proj",
    "self.query.": "self.query_proj.",
    "self.key.": "self.key_proj.",
    "self.value.": "self.value_proj.",
    "self.pos_key.": "self.pos_key_proj.",
    "self.pos_query.": "self.pos_query_proj.",
}

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class DebertaV2Architecture(Architecture):
    """c2p, p2c: which of the two `pos_att_type` names.
    position_buckets: far distances share a row, so that there are as many in each direction; else 0
    max_relative_positions: the farthest distance that is told from those farther yet.
    conv_kernel_size: of a convolution beside the first layer, or 0.
    """

    relative_attention: bool
    c2p: bool
    p2c: bool
    share_att_key: bool
    position_buckets: int
    max_relative_positions: int
    norm_rel_ebd: bool
    position_biased_input: bool
    conv_kernel_size: int
    conv_groups: int
    conv_act: str

    @property
    def span(self) -> int:
        """How many rows of the table of distances there are in each direction."""
        return self.position_buckets or self.max_relative_positions

    @property
    def scale(self) -> float:
        """Of the scores; Transformers counts c2p and p2c without relative attention, too."""
        return 1 / math.sqrt(self.head_size * (1 + self.c2p + self.p2c))


class DebertaV2(Bert):
    prefix: ClassVar[str] = "deberta."
    narrows: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        **Bert.defaults,
        "vocab_size": 128100,
        "hidden_size": 1536,
        "num_hidden_layers": 24,
        "num_attention_heads": 24,
        "intermediate_size": 6144,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
        "relative_attention": False,
        "max_relative_positions": -1,
        "position_biased_input": True,
        "pos_att_type": None,
        # These are not in Transformers' configuration class, only in its model.
        "position_buckets": -1,
        "share_att_key": False,
        "norm_rel_ebd": "none",
        "conv_kernel_size": 0,
        "conv_groups": 1,
        "conv_act": "tanh",
    }

    # --- what is read

    def architecture(self, config: Config) -> Architecture:
        config.one_of("type_vocab_size", (0, 2))
        base = super().architecture(config)
        if "attention_head_size" in config.fields:
            config.one_of("attention_head_size", (base.head_size,))
        attention = _names(config.value("pos_att_type"))
        buckets = max(config.size("position_buckets", lowest=-1), 0)
        longest = config.size("max_relative_positions", lowest=-1)
        longest = longest if longest > 0 else base.max_position_embeddings
        if buckets and not 2 <= buckets < 2 * longest - 2:
            raise BuildError(
                f"position_buckets must be 2 to {2 * longest - 3} for max_relative_positions "
                f"{longest}, got {buckets}"
            )
        return DebertaV2Architecture(
            **asdict(base),
            relative_attention=config.one_of("relative_attention", (True, False)),
            c2p="c2p" in attention,
            p2c="p2c" in attention,
            share_att_key=config.one_of("share_att_key", (True, False)),
            position_buckets=buckets,
            max_relative_positions=longest,
            norm_rel_ebd="layer_norm" in _names(config.value("norm_rel_ebd")),
            position_biased_input=config.one_of("position_biased_input", (True, False)),
            conv_kernel_size=config.one_of("conv_kernel_size", (0, 1, 3, 5, 7)),
            conv_groups=config.size("conv_groups"),
            conv_act=config.one_of("conv_act", ACTIVATIONS),
        )

    def embedding_size(self, config: Config) -> int:
        name = "embedding_size" if "embedding_size" in config.fields else "hidden_size"
        return config.size(name)

    def shapes(self, architecture: Architecture) -> dict[str, Shape]:
        assert isinstance(architecture, DebertaV2Architecture)
        hidden = architecture.hidden_size
        shapes = super().shapes(architecture) | norm("embeddings.LayerNorm", hidden)
        shapes.pop("embeddings_project.bias", None)
        if not architecture.position_biased_input:
            del shapes[POSITIONS]
        if architecture.conv_kernel_size:
            size = (hidden, hidden // architecture.conv_groups, architecture.conv_kernel_size)
            shapes |= {f"{CONV}.weight": size, f"{CONV}.bias": (hidden,)}
            shapes |= norm("encoder.conv.LayerNorm", hidden)
        if not architecture.relative_attention:
            return shapes
        shapes[DISTANCES] = (2 * architecture.span, hidden)
        if architecture.norm_rel_ebd:
            shapes |= norm("encoder.LayerNorm", hidden)
        if architecture.share_att_key:
            return shapes
        for layer in self.layer_names(architecture):
            if architecture.c2p:
                shapes |= linear(f"{layer}.attention.self.pos_key", hidden, hidden)
            if architecture.p2c:
                shapes |= linear(f"{layer}.attention.self.pos_query", hidden, hidden)
        return shapes

    def stored_name(self, name: str) -> str:
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        return name

    # --- what is computed

    def embed(
        self, writer: Writer, architecture: Architecture, words: ir.Value, columns: Columns
    ) -> ir.Value:
        assert isinstance(architecture, DebertaV2Architecture)
        op = writer.op
        hidden = words
        with writer.scope("embeddings"):
            if architecture.position_biased_input:
                hidden = op.Add(hidden, writer.embedding("position", columns.positions))
            if architecture.type_vocab_size:
                segment = op.Cast(columns.second_segment, to=ir.DataType.INT32)
                hidden = op.Add(hidden, writer.embedding("token_type", segment))
            if self.projects(architecture):
                hidden = writer.linear(writer.narrow(hidden), "embeddings_project")
                hidden = writer.full(hidden)
            return writer.layer_norm(hidden, "embeddings.LayerNorm", architecture.layer_norm_eps)

    def prepare(self, writer: Writer, architecture: Architecture, columns: Columns) -> Shared:
        """With "token", boolean [windows, length, 1], and of a table of distances "first" and
        "last", int64 [1], the rows that a window of this length needs, and "row", int32 [windows,
        heads, length, length], which of these stands for query and key."""
        assert isinstance(architecture, DebertaV2Architecture)
        op = writer.op
        shared = {
            **super().prepare(writer, architecture, columns),
            "token": op.Unsqueeze(columns.is_token, [2]),
        }
        if not architecture.relative_attention:
            return shared
        with writer.scope("distances"):
            span = writer.constant("span", np.array([architecture.span], np.int64))
            length = op.Unsqueeze(columns.length, [0])
            reach = op.Min(span, length)
            first, last = op.Sub(span, reach), op.Add(span, reach)
            longest = architecture.max_position_embeddings
            apart = op.Sub(
                op.Unsqueeze(columns.positions, [1]), op.Unsqueeze(columns.positions, [0])
            )
            place = op.Add(apart, writer.constant("longest", np.array(longest - 1, np.int32)))
            rows = writer.constant("rows", distance_rows(architecture))
            row = op.Sub(op.Gather(rows, place), op.Cast(first, to=ir.DataType.INT32))
            heads = writer.constant("heads", np.array([architecture.num_attention_heads], np.int64))
            windows = op.Shape(columns.is_token, start=0, end=1)
            shape = op.Concat(windows, heads, length, length, axis=0)
            return {**shared, "first": first, "last": last, "row": op.Expand(row, shape)}

    def layer(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        hidden: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        assert isinstance(architecture, DebertaV2Architecture)
        output = super().layer(writer, architecture, index, hidden, shared)
        if index or not architecture.conv_kernel_size:
            return output
        op = writer.op
        around = (architecture.conv_kernel_size - 1) // 2
        with writer.scope("conv"):
            zero = writer.constant("padding", np.array(0, writer.dtype))
            convolved = op.Conv(
                op.Transpose(op.Where(shared["token"], hidden, zero), perm=[0, 2, 1]),
                writer.weight(f"{CONV}.weight"),
                writer.weight(f"{CONV}.bias"),
                group=architecture.conv_groups,
                kernel_shape=[architecture.conv_kernel_size],
                pads=[around, around],
            )
            convolved = op.Transpose(convolved, perm=[0, 2, 1])
            convolved = activation(op, architecture.conv_act, convolved)
            output = op.Add(writer.full(output), writer.full(convolved))
            return writer.layer_norm(output, "encoder.conv.LayerNorm", architecture.layer_norm_eps)

    def scores(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        query: ir.Value,
        key: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        assert isinstance(architecture, DebertaV2Architecture)
        op = writer.op
        scale = architecture.scale
        query = op.Mul(query, writer.constant("scale", np.array(scale, writer.dtype)))
        key = op.Transpose(key, perm=[0, 1, 3, 2])
        scores = op.MatMul(query, key)
        layer = self.layer_name(architecture, index)
        if architecture.relative_attention and architecture.c2p:
            table = distance_table(architecture, writer.weights, layer, "key").transpose(0, 1, 3, 2)
            keys = _rows(writer, "pos_key", table, 3, shared)
            found = op.GatherElements(op.MatMul(query, keys), shared["row"], axis=3)
            scores = op.Add(scores, found)
        if architecture.relative_attention and architecture.p2c:
            table = distance_table(architecture, writer.weights, layer, "query") * scale
            queries = _rows(writer, "pos_query", table, 2, shared)
            found = op.GatherElements(op.MatMul(queries, key), shared["row"], axis=2)
            scores = op.Add(scores, found)
        return op.Add(scores, shared["padding"])


def distance_rows(architecture: DebertaV2Architecture) -> npt.NDArray[np.int32]:
    """The row in the table of each distance, query − key, from 1 − n to n − 1 for windows of up to
    n tokens: int32 [2n − 1]. As `make_log_bucket_position`, in float32 as there."""
    longest, span = architecture.max_position_embeddings, architecture.span
    distance = np.arange(1 - longest, longest)
    if architecture.position_buckets:
        middle = architecture.position_buckets // 2
        far = np.maximum(np.abs(distance), middle).astype(np.float32)
        whole = np.log(np.float32((architecture.max_relative_positions - 1) / middle))
        grown = np.ceil(np.log(far / np.float32(middle)) / whole * np.float32(middle - 1)) + middle
        distance = np.where(np.abs(distance) <= middle, distance, np.sign(distance) * grown)
    return np.clip(distance + span, 0, 2 * span - 1).astype(np.int32)


def distance_table(
    architecture: DebertaV2Architecture, weights: Weights, layer: str, part: str
) -> Floats:
    """What a layer holds queries or keys against: float32 [1, heads, 2 × span, head_size].

    part: "key" for what is held against queries, "query" for what is held against keys.
    """
    rows = weights[DISTANCES].astype(np.float32)
    if architecture.norm_rel_ebd:
        rows = rows - rows.mean(axis=1, keepdims=True)
        rows /= np.sqrt(np.square(rows).mean(axis=1, keepdims=True) + architecture.layer_norm_eps)
        rows = rows * weights["encoder.LayerNorm.weight"] + weights["encoder.LayerNorm.bias"]
    name = f"{layer}.attention.self.{'' if architecture.share_att_key else 'pos_'}{part}"
    weight, bias = (weights[f"{name}.{kind}"].astype(np.float32) for kind in ("weight", "bias"))
    projected: Floats = rows @ weight.T + bias
    by_head = projected.reshape(1, -1, architecture.num_attention_heads, architecture.head_size)
    return by_head.transpose(0, 2, 1, 3)


def _rows(writer: Writer, name: str, table: Floats, axis: int, shared: Shared) -> ir.Value:
    """Those of a table that a window of this length needs."""
    constant = writer.constant(name, np.ascontiguousarray(table, writer.dtype))
    return writer.op.Slice(constant, shared["first"], shared["last"], [axis])


def _names(value: Any) -> list[str]:
    """Of a field that holds a list, or names with bars between them."""
    names = value.lower().split("|") if isinstance(value, str) else value or []
    return [str(name).strip() for name in names]


family = DebertaV2()
