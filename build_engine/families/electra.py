"""ELECTRA: embeddings may be narrower than the layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from ..config import Config
from .bert import Bert


class Electra(Bert):
    prefix: ClassVar[str] = "electra."
    defaults: ClassVar[Mapping[str, Any]] = {
        **Bert.defaults,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    }

    def embedding_size(self, config: Config) -> int:
        return config.size("embedding_size")


family = Electra()
