"""XLM-RoBERTa: RoBERTa with a vocabulary of sentencepiece's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from .roberta import Roberta


class XlmRoberta(Roberta):
    defaults: ClassVar[Mapping[str, Any]] = {**Roberta.defaults, "vocab_size": 30522}


family = XlmRoberta()
