"""RoBERTa: byte-level BPE, one more separator in a pair, no segments, positions from the padding's
on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from electra_qa.tokenization import SpecialTokens

from ..config import Config
from .bert import Bert


class Roberta(Bert):
    prefix: ClassVar[str] = "roberta."
    special_tokens: ClassVar[SpecialTokens] = SpecialTokens(
        "<s>", "</s>", "<pad>", "<unk>", separators=2
    )
    segments: ClassVar[bool] = False
    defaults: ClassVar[Mapping[str, Any]] = {
        **Bert.defaults,
        "vocab_size": 50265,
        "pad_token_id": 1,
    }

    def first_position(self, config: Config) -> int:
        return config.size("pad_token_id", lowest=0) + 1


family = Roberta()
