"""The shape of an encoder, by the names of Transformers' `config.json`."""

from __future__ import annotations

from dataclasses import dataclass

Shape = tuple[int, ...]

# Fields of `config.json` that a pruned checkpoint has, and Transformers doesn't know.
HEADS_BY_LAYER = "attention_heads_by_layer"
INTERMEDIATE_BY_LAYER = "intermediate_size_by_layer"


@dataclass(frozen=True)
class Architecture:
    """What the graph needs to know of a checkpoint. A family may add fields to it.

    type_vocab_size: 0 where the model doesn't tell segments apart.
    max_position_embeddings: the longest window, in tokens.
    first_position: which row of the checkpoint's table of positions the first token has.
    attention_heads_by_layer, intermediate_size_by_layer: what each layer has of
        `num_attention_heads` and `intermediate_size`: all, unless it was pruned.
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
    attention_heads_by_layer: tuple[int, ...]
    intermediate_size_by_layer: tuple[int, ...]

    @property
    def head_size(self) -> int:
        """The same in all layers."""
        return self.hidden_size // self.num_attention_heads

    def attention_size(self, index: int) -> int:
        """How wide the queries, keys and values of a layer are."""
        return self.attention_heads_by_layer[index] * self.head_size
