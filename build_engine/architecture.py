"""The shape of an encoder, by the names of Transformers' `config.json`."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Architecture:
    """What the graph needs to know of a checkpoint. A family may add fields to it.

    type_vocab_size: 0 where the model doesn't tell segments apart.
    max_position_embeddings: the longest window, in tokens.
    first_position: which row of the checkpoint's table of positions the first token has.
    """

    model_type: str
    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    first_position: int
    hidden_act: str
    layer_norm_eps: float

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_attention_heads
