from __future__ import annotations

import pytest

from electra_qa.server.engine.warm_up import parse_lengths, warm_up
from electra_qa.tokenization import Tokenizer

from ..conftest import GatedEngine


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("all", list(range(1, 385))),
        ("none", []),
        ("96", [96]),
        ("64-66, 384", [64, 65, 66, 384]),
        ("3,1-2,2", [1, 2, 3]),
    ],
)
def test_lengths_are_read(text: str, expected: list[int]) -> None:
    assert parse_lengths(text, 384) == expected


@pytest.mark.parametrize("text", ["", "a", "64-", "0", "385", "9-8", "1,,2", "-5", "some"])
def test_what_is_no_length_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="warm_up_lengths must be"):
        parse_lengths(text, 384)


@pytest.mark.parametrize(
    ("lengths", "expected"), [([], [16]), ([5, 16, 17, 100], [16, 32, 112]), ([512], [512])]
)
def test_every_bucket_runs_alone_and_in_all_slots(
    engine: GatedEngine, tokenizer: Tokenizer, lengths: list[int], expected: list[int]
) -> None:
    engine.slots = 2
    warm_up(engine, tokenizer, lengths)
    shapes = [batch.input_ids.shape for batch in engine.batches]
    assert shapes == [(1, n) for n in expected for _ in range(1 + engine.slots)]
