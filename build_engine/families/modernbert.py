"""ModernBERT: norms before attention and feed-forward layer instead of behind them, rotary
positions, most layers look at a neighbourhood only, a gate in the feed-forward layer, hardly any
bias, and a layer more in the span head."""

from __future__ import annotations

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
from .bert import ACTIVATIONS, PADDING_BIAS, POSITIONS, Bert, Shared, activation, linear, norm

QUESTION_ANSWERING = "ModernBertForQuestionAnswering"
LAYER_TYPES = ("full_attention", "sliding_attention")

NAMES = {
    "qa_outputs": "classifier",
    "embeddings.word_embeddings": "embeddings.tok_embeddings",
    "embeddings.LayerNorm": "embeddings.norm",
    "encoder.LayerNorm": "final_norm",
    "head.LayerNorm": "head.norm",
    "encoder.layer.": "layers.",
    "attention.LayerNorm": "attn_norm",
    "attention.output.dense": "attn.Wo",
    "intermediate.LayerNorm": "mlp_norm",
    "output.dense": "mlp.Wo",
}
# Ours that are parts of one of theirs: which of how many.
PARTS = {
    "attention.self.query": ("attn.Wqkv", 0, 3),
    "attention.self.key": ("attn.Wqkv", 1, 3),
    "attention.self.value": ("attn.Wqkv", 2, 3),
    "intermediate.dense": ("mlp.Wi", 0, 2),
    "intermediate.gate": ("mlp.Wi", 1, 2),
}


@dataclass(frozen=True)
class ModernBertArchitecture(Architecture):
    """layer_types: of each layer, "full_attention" or "sliding_attention".
    rope_theta: of the rotary positions of either, by its name.
    sliding_window: how far a layer of the second kind looks, in tokens, in each direction.
    """

    layer_types: tuple[str, ...]
    rope_theta: dict[str, float]
    sliding_window: int
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    classifier_bias: bool
    classifier_activation: str


class ModernBert(Bert):
    prefix: ClassVar[str] = "model."
    narrows: ClassVar[bool] = False
    segments: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        **Bert.defaults,
        "vocab_size": 50368,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "hidden_activation": "gelu",
        "max_position_embeddings": 8192,
        "pad_token_id": 50283,
        "norm_eps": 1e-5,
        "norm_bias": False,
        "attention_bias": False,
        "mlp_bias": False,
        "classifier_bias": False,
        "classifier_activation": "gelu",
        "local_attention": 128,
        "layer_types": None,
        "rope_parameters": None,
        # Of configs before Transformers 5.
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
        "rope_scaling": None,
    }

    # --- what is read

    def architecture(self, config: Config) -> Architecture:
        # With two labels, the head of ModernBertForSequenceClassification has the same tensors.
        classes = config.fields.get("architectures") or [QUESTION_ANSWERING]
        if QUESTION_ANSWERING not in classes:
            raise BuildError(
                f"the checkpoint is a {', '.join(map(str, classes))}: it is not fine-tuned for "
                "question answering"
            )
        renamed = {
            "hidden_act": config.value("hidden_activation"),
            "layer_norm_eps": config.value("norm_eps"),
        }
        base = super().architecture(Config({**config.fields, **renamed}, config.defaults))
        if base.head_size % 2:
            raise BuildError(f"rotary positions need an even head size, got {base.head_size}")
        config.one_of("rope_scaling", (None,))
        return ModernBertArchitecture(
            **asdict(base),
            layer_types=_layer_types(config, base.num_hidden_layers),
            rope_theta={
                "full_attention": _theta(config, "full_attention", "global_rope_theta"),
                "sliding_attention": _theta(config, "sliding_attention", "local_rope_theta"),
            },
            sliding_window=config.size("local_attention", lowest=0) // 2,
            **{
                name: config.one_of(name, (True, False))
                for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")
            },
            classifier_activation=config.one_of("classifier_activation", ACTIVATIONS),
        )

    def shapes(self, architecture: Architecture) -> dict[str, Shape]:
        assert isinstance(architecture, ModernBertArchitecture)
        hidden, inner = architecture.hidden_size, architecture.intermediate_size
        shapes = super().shapes(architecture)
        del shapes[POSITIONS]
        shapes |= norm("encoder.LayerNorm", hidden)
        shapes |= linear("head.dense", hidden, hidden) | norm("head.LayerNorm", hidden)
        for index, layer in enumerate(self.layer_names(architecture)):
            for name in ("attention.output.LayerNorm", "output.LayerNorm"):
                del shapes[f"{layer}.{name}.weight"], shapes[f"{layer}.{name}.bias"]
            if index:  # the embeddings' norm is just before
                shapes |= norm(f"{layer}.attention.LayerNorm", hidden)
            shapes |= norm(f"{layer}.intermediate.LayerNorm", hidden)
            shapes |= linear(f"{layer}.intermediate.gate", hidden, inner)
        return {name: shape for name, shape in shapes.items() if _is_there(name, architecture)}

    def stored_name(self, name: str) -> str:
        for ours, (theirs, _, _) in PARTS.items():
            name = name.replace(ours, theirs)
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        return name

    def read(
        self, name: str, stored: Weights, architecture: Architecture
    ) -> npt.NDArray[np.floating[Any]]:
        tensor = super().read(name, stored, architecture)
        for ours, (_, part, parts) in PARTS.items():
            if f".{ours}." in name:
                size = len(tensor) // parts
                return tensor[part * size : (part + 1) * size]
        return tensor

    def feed_forward(self, layer: str) -> tuple[tuple[str, ...], str]:
        into = (f"{layer}.intermediate.dense", f"{layer}.intermediate.gate")
        return into, f"{layer}.output.dense"

    def scaled_before(self, layer: str) -> dict[str, str]:
        gated = {f"{layer}.output.dense": f"{layer}.intermediate.gate"}
        return super().scaled_before(layer) | gated

    # --- what is computed

    def embed(
        self,
        writer: Writer,
        architecture: Architecture,
        words: ir.Value,
        columns: Columns,  # noqa: ARG002
    ) -> ir.Value:
        """In float32, as the output of each layer: with the norms before, what the layers add to
        grows from one to the next."""
        with writer.scope("embeddings"):
            hidden = writer.layer_norm(words, "embeddings.LayerNorm", architecture.layer_norm_eps)
            return writer.full(hidden)

    def prepare(self, writer: Writer, architecture: Architecture, columns: Columns) -> Shared:
        """With the sliding layers' "near", [windows, 1, length, length], added to their scores,
        and "cos" and "sin" of either kind of layer, [length, head_size / 2]."""
        assert isinstance(architecture, ModernBertArchitecture)
        op = writer.op
        shared = dict(super().prepare(writer, architecture, columns))
        positions = columns.positions
        if "sliding_attention" in architecture.layer_types:
            with writer.scope("near"):
                apart = op.Abs(op.Sub(op.Unsqueeze(positions, [1]), op.Unsqueeze(positions, [0])))
                reach = writer.constant("reach", np.array(architecture.sliding_window, np.int32))
                near = op.Where(
                    op.And(
                        op.Unsqueeze(op.LessOrEqual(apart, reach), [0]),
                        op.Unsqueeze(columns.is_token, [1]),
                    ),
                    writer.constant("keep", np.array(0.0, writer.dtype)),
                    writer.constant("drop", np.array(PADDING_BIAS, writer.dtype)),
                )
                shared["near"] = op.Unsqueeze(near, [1])
        for kind in sorted(set(architecture.layer_types)):
            with writer.scope(kind):
                angles = rotary_angles(architecture, kind)
                for name, table in (("cos", np.cos(angles)), ("sin", np.sin(angles))):
                    rows = writer.constant(name, table.astype(writer.dtype))
                    shared[f"{kind}.{name}"] = op.Gather(rows, positions, axis=0)
        return shared

    def layer(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        hidden: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        """hidden, and what comes back: in float32."""
        op = writer.op
        layer = self.layer_name(architecture, index)
        epsilon = architecture.layer_norm_eps
        with writer.scope("attention"):
            normed = (
                writer.layer_norm(hidden, f"{layer}.attention.LayerNorm", epsilon)
                if index
                else writer.narrow(hidden)
            )
            attended = self.attention(writer, architecture, index, normed, shared)
        hidden = op.Add(hidden, writer.full(attended))
        with writer.scope("intermediate"):
            normed = writer.layer_norm(hidden, f"{layer}.intermediate.LayerNorm", epsilon)
            inner = writer.linear(normed, f"{layer}.intermediate.dense")
            with writer.scope("gate"):
                gate = writer.linear(normed, f"{layer}.intermediate.gate")
            inner = op.Mul(activation(op, architecture.hidden_act, inner), gate)
        with writer.scope("output"):
            inner = writer.linear(inner, f"{layer}.output.dense")
        return op.Add(hidden, writer.full(inner))

    def scores(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        query: ir.Value,
        key: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        assert isinstance(architecture, ModernBertArchitecture)
        kind = architecture.layer_types[index]
        cos, sin = shared[f"{kind}.cos"], shared[f"{kind}.sin"]
        query, key = (_rotated(writer, x, cos, sin) for x in (query, key))
        mask = shared["near" if kind == "sliding_attention" else "padding"]
        return super().scores(writer, architecture, index, query, key, {"padding": mask})

    def finish(self, writer: Writer, architecture: Architecture, hidden: ir.Value) -> ir.Value:
        assert isinstance(architecture, ModernBertArchitecture)
        epsilon = architecture.layer_norm_eps
        hidden = writer.layer_norm(hidden, "encoder.LayerNorm", epsilon)
        with writer.scope("head"):
            hidden = writer.linear(hidden, "head.dense")
            hidden = activation(writer.op, architecture.classifier_activation, hidden)
            return writer.layer_norm(writer.full(hidden), "head.LayerNorm", epsilon)


def rotary_angles(architecture: ModernBertArchitecture, kind: str) -> npt.NDArray[np.float32]:
    """By how much each position turns each pair of numbers: [positions, head_size / 2]."""
    size = architecture.head_size
    steps = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
    frequency = 1 / np.float32(architecture.rope_theta[kind]) ** steps
    positions = np.arange(architecture.max_position_embeddings, dtype=np.float32)
    return (positions[:, None] * frequency).astype(np.float32)


def _rotated(writer: Writer, x: ir.Value, cos: ir.Value, sin: ir.Value) -> ir.Value:
    """x: [windows, heads, length, head_size], of which number i is a pair with i + half."""
    op = writer.op
    first, second = op.Split(x, axis=3, num_outputs=2, _outputs=2)
    return op.Concat(
        op.Sub(op.Mul(first, cos), op.Mul(second, sin)),
        op.Add(op.Mul(second, cos), op.Mul(first, sin)),
        axis=3,
    )


def _is_there(name: str, architecture: ModernBertArchitecture) -> bool:
    """Most of the biases are not, by the config; that of the span head always is."""
    if not name.endswith(".bias") or name.startswith("qa_outputs"):
        return True
    if "LayerNorm" in name:
        return architecture.norm_bias
    if name.startswith("head."):
        return architecture.classifier_bias
    return architecture.attention_bias if ".attention." in name else architecture.mlp_bias


def _layer_types(config: Config, layers: int) -> tuple[str, ...]:
    types = config.value("layer_types")
    if types is None:
        every = config.size("global_attn_every_n_layers")
        types = [LAYER_TYPES[bool(index % every)] for index in range(layers)]
    if not isinstance(types, list) or len(types) != layers or not set(types) <= set(LAYER_TYPES):
        names = " or ".join(map(repr, LAYER_TYPES))
        raise BuildError(f"config.json: layer_types must be {layers} of {names}, got {types!r}")
    return tuple(types)


def _theta(config: Config, kind: str, old_name: str) -> float:
    """From rope_parameters, or from the field that it has in configs before Transformers 5."""
    parameters = (config.value("rope_parameters") or {}).get(kind) or {}
    if parameters.get("rope_type", "default") != "default":
        raise BuildError(
            f"config.json: rope_type is {parameters['rope_type']!r}; this build takes 'default'"
        )
    given = {old_name: parameters["rope_theta"]} if "rope_theta" in parameters else config.fields
    return Config(given, config.defaults).number(old_name)


family = ModernBert()
