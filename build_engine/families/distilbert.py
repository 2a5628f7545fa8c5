"""DistilBERT: half of BERT's layers, no segments, other names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..architecture import Architecture
from ..config import Config
from .bert import Bert

# Ours to theirs, of the config and of a layer's weights.
FIELDS = {
    "hidden_size": "dim",
    "num_hidden_layers": "n_layers",
    "num_attention_heads": "n_heads",
    "intermediate_size": "hidden_dim",
    "hidden_act": "activation",
}
# Of BERT's config; a DistilBERT heeds them nowhere.
FOREIGN = ("intermediate_size", "hidden_act", "layer_norm_eps")
NAMES = {
    "encoder.layer.": "transformer.layer.",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    # These two last: what they name begins like nothing that is left.
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


class DistilBert(Bert):
    prefix: ClassVar[str] = "distilbert."
    segments: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {**Bert.defaults, "num_hidden_layers": 6}

    def architecture(self, config: Config) -> Architecture:
        fields = {name: value for name, value in config.fields.items() if name not in FOREIGN}
        renamed = {ours: fields[name] for ours, name in FIELDS.items() if name in fields}
        return super().architecture(Config({**fields, **renamed}, config.defaults))

    def stored_name(self, name: str) -> str:
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        return name


family = DistilBert()
