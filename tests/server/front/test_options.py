"""What a request may ask for is up to the server and the model, not to the graph's decode."""

from __future__ import annotations

import dataclasses

import pytest

from electra_qa.bundle import Bundle
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.server.errors import InvalidRequestError
from electra_qa.server.front.options import parse_options
from electra_qa.server.settings import ServerSettings


@pytest.mark.parametrize("rules", [pb.RULES_RUN_SQUAD, pb.RULES_PIPELINE])
def test_a_graph_that_decodes_little_limits_no_request(
    bundle: Bundle, rules: pb.Rules.ValueType
) -> None:
    few = dataclasses.replace(bundle.manifest, n_best_size=1, max_answer_length_limit=30)
    asked = pb.Options(top_k=100, max_answer_length=512, rules=rules, align_to_words=True)
    decode = parse_options(asked, few, ServerSettings()).decode
    assert (decode.top_k, decode.max_answer_length) == (100, 512)


def test_the_limits_are_the_servers_and_the_models(bundle: Bundle) -> None:
    settings = ServerSettings(max_top_k=7)
    for asked, message in (
        (pb.Options(top_k=8), "options.top_k must be 1 to 7, got 8"),
        (pb.Options(max_answer_length=513), "options.max_answer_length must be 1 to 512, got 513"),
    ):
        with pytest.raises(InvalidRequestError, match=message):
            parse_options(asked, bundle.manifest, settings)
