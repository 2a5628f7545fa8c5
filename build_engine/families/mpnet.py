"""MPNet: how far two tokens are apart biases their attention, the same in all layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from electra_qa.tokenization import SpecialTokens

from ..architecture import Architecture, Shape
from ..columns import Columns
from ..config import Config
from ..writer import Writer
from .bert import Shared
from .roberta import Roberta

BIAS = "encoder.relative_attention_bias.weight"
NAMES = {
    "attention.self.query": "attention.attn.q",
    "attention.self.key": "attention.attn.k",
    "attention.self.value": "attention.attn.v",
    "attention.output.dense": "attention.attn.o",
    "attention.output.LayerNorm": "attention.LayerNorm",
}
# Transformers' MPNetEncoder counts in these, whatever the config says.
BUCKETS = 32
MAX_DISTANCE = 128


@dataclass(frozen=True)
class MpnetArchitecture(Architecture):
    """relative_attention_num_buckets: rows of the table of biases."""

    relative_attention_num_buckets: int


class Mpnet(Roberta):
    prefix: ClassVar[str] = "mpnet."
    narrows: ClassVar[bool] = False
    special_tokens: ClassVar[SpecialTokens] = SpecialTokens(
        "<s>", "</s>", "<pad>", "[UNK]", separators=2
    )
    defaults: ClassVar[Mapping[str, Any]] = {
        **Roberta.defaults,
        "vocab_size": 30527,
        "relative_attention_num_buckets": BUCKETS,
    }

    def first_position(self, config: Config) -> int:  # noqa: ARG002
        return 2  # Transformers' MPNet has its padding at 1, whatever the config says

    def architecture(self, config: Config) -> Architecture:
        return MpnetArchitecture(
            **asdict(super().architecture(config)),
            relative_attention_num_buckets=config.size(
                "relative_attention_num_buckets", lowest=BUCKETS
            ),
        )

    def shapes(self, architecture: Architecture) -> dict[str, Shape]:
        assert isinstance(architecture, MpnetArchitecture)
        rows = architecture.relative_attention_num_buckets
        return super().shapes(architecture) | {BIAS: (rows, architecture.num_attention_heads)}

    def stored_name(self, name: str) -> str:
        for ours, theirs in NAMES.items():
            name = name.replace(ours, theirs)
        return name

    def prepare(self, writer: Writer, architecture: Architecture, columns: Columns) -> Shared:
        """With "bias", [1, heads, length, length]."""
        op = writer.op
        shared = super().prepare(writer, architecture, columns)
        with writer.scope("distances"):
            longest = architecture.max_position_embeddings
            apart = op.Sub(
                op.Unsqueeze(columns.positions, [0]), op.Unsqueeze(columns.positions, [1])
            )
            place = op.Add(apart, writer.constant("last", np.array(longest - 1, np.int32)))
            bucket = distance_buckets(longest)
            bias = op.Gather(
                writer.weight(BIAS), op.Gather(writer.constant("bucket", bucket), place)
            )
            return {**shared, "bias": op.Unsqueeze(op.Transpose(bias, perm=[2, 0, 1]), [0])}

    def scores(
        self,
        writer: Writer,
        architecture: Architecture,
        index: int,
        query: ir.Value,
        key: ir.Value,
        shared: Shared,
    ) -> ir.Value:
        scores = super().scores(writer, architecture, index, query, key, shared)
        return writer.op.Add(scores, shared["bias"])


def distance_buckets(longest: int) -> npt.NDArray[np.int32]:
    """The class of each distance, key − query, from 1 − longest to longest − 1: int32.

    As `MPNetEncoder.relative_position_bucket`: half of the classes for either direction, half of
    these for a distance each, and the rest for ranges that grow with the logarithm.
    """
    distance = np.arange(1 - longest, longest)
    half = BUCKETS // 2
    exact = half // 2
    far = np.abs(distance)
    grown = np.log(np.maximum(far, 1).astype(np.float32) / exact) / math.log(MAX_DISTANCE / exact)
    large = np.minimum(exact + (grown * (half - exact)).astype(np.int64), half - 1)
    return (np.where(far < exact, far, large) + half * (distance > 0)).astype(np.int32)


family = Mpnet()
