"""ALBERT: all layers of a group have the same weights; embeddings are projected always."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from electra_qa.tokenization import SpecialTokens

from ..architecture import Architecture
from ..config import Config
from .electra import Electra

NAMES = {
    "embeddings_project": "encoder.embedding_hidden_mapping_in",
    "attention.self.": "attention.",
    "attention.output.": "attention.",
    "intermediate.dense": "ffn",
    "output.dense": "ffn_output",
    "output.LayerNorm": "full_layer_layer_norm",
}


@dataclass(frozen=True)
class AlbertArchitecture(Architecture):
    """num_hidden_groups: how many layers have weights of their own."""

    num_hidden_groups: int


class Albert(Electra):
    prefix: ClassVar[str] = "albert."
    narrows: ClassVar[bool] = False
    special_tokens: ClassVar[SpecialTokens] = SpecialTokens(pad="<pad>", unk="<unk>")
    defaults: ClassVar[Mapping[str, Any]] = {
        **Electra.defaults,
        "vocab_size": 30000,
        "hidden_size": 4096,
        "num_attention_heads": 64,
        "intermediate_size": 16384,
        "hidden_act": "gelu_new",
        "num_hidden_groups": 1,
        "inner_group_num": 1,
    }

    def architecture(self, config: Config) -> Architecture:
        config.one_of("inner_group_num", (1,))
        return AlbertArchitecture(
            **asdict(super().architecture(config)),
            num_hidden_groups=config.size("num_hidden_groups"),
        )

    def projects(self, architecture: Architecture) -> bool:  # noqa: ARG002
        return True

    def layer_name(self, architecture: Architecture, index: int) -> str:
        assert isinstance(architecture, AlbertArchitecture)
        group = index * architecture.num_hidden_groups // architecture.num_hidden_layers
        return f"encoder.layer.{group}"

    def stored_name(self, name: str) -> str:
        name = name.replace("encoder.layer.", "encoder.albert_layer_groups.")
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        parts = name.split(".")
        if parts[1] == "albert_layer_groups":
            parts.insert(3, "albert_layers.0")
        return ".".join(parts)


family = Albert()
