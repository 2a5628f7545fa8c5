"""What a bundle with few spans can be asked for."""

from __future__ import annotations

import dataclasses

import pytest

from electra_qa.bundle import Bundle
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.server.errors import InvalidRequestError
from electra_qa.server.options import max_top_k, parse_options
from electra_qa.spans import Rules


def test_the_pipeline_looks_at_more_spans_than_it_returns() -> None:
    assert max_top_k(20, Rules.RUN_SQUAD, False) == 20
    assert max_top_k(20, Rules.PIPELINE, False) == 20
    assert max_top_k(20, Rules.PIPELINE, True) == 5
    assert max_top_k(11, Rules.PIPELINE, True) == 0


def test_a_bundle_with_too_few_spans_for_the_pipeline_says_so(bundle: Bundle) -> None:
    few = dataclasses.replace(bundle.manifest, n_best_size=8)
    options = pb.Options(rules=pb.RULES_PIPELINE, align_to_words=True)
    with pytest.raises(InvalidRequestError, match=r"n_best_size \(8\) is too small"):
        parse_options(options, few)
    assert parse_options(pb.Options(), few).decode.top_k == 1
