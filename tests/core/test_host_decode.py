"""What the host decodes from logits against `spans.decode`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.host_decode import best_spans, decode_on_host, needs_host
from electra_qa.spans import MASKED, DecodeOptions, Rules, decode, row
from electra_qa.windows import Window


@given(
    length=st.one_of(st.integers(1, 8), st.integers(1, 60)),
    cuts=st.tuples(*[st.integers(0, 60)] * 4),
    longest=st.integers(0, 70),
    n=st.one_of(st.integers(1, 5), st.integers(1, 2000)),
    # Few values make many ties.
    levels=st.sampled_from([1, 2, 3, 10, None]),
    seed=st.integers(0, 2**32 - 1),
)
def test_it_is_exactly_the_reference(
    length: int, cuts: tuple[int, int, int, int], longest: int, n: int, levels: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    shape = (1, length, 2)
    values = random.normal(size=shape) if levels is None else random.integers(0, levels, shape)
    logits = values.astype(np.float32)
    bounds = (*cuts, longest)
    expected = decode(logits[..., 0], logits[..., 1], np.array([bounds], np.int32), n)
    found = int((expected.span_logits[0, :, 0] > MASKED / 2).sum())
    spans, span_logits = best_spans(logits[0], bounds, n)
    np.testing.assert_array_equal(spans, expected.spans[0, :found])
    np.testing.assert_array_equal(span_logits, expected.span_logits[0, :found])
    assert (spans.dtype, span_logits.dtype) == (np.int32, np.float32)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        (DecodeOptions(), False),
        (DecodeOptions(top_k=64, max_answer_length=64), False),
        (DecodeOptions(top_k=65), True),
        (DecodeOptions(max_answer_length=65), True),
        (DecodeOptions(top_k=64, rules=Rules.PIPELINE), False),
        (DecodeOptions(top_k=27, rules=Rules.PIPELINE, align_to_words=True), False),
        (DecodeOptions(top_k=28, rules=Rules.PIPELINE, align_to_words=True), True),
    ],
)
def test_the_host_decodes_only_what_the_graph_does_not(
    options: DecodeOptions, needed: bool
) -> None:
    assert needs_host(options, 64, 64) is needed


def test_of_a_window_the_spans_change_and_nothing_else() -> None:
    logits = np.random.default_rng(0).normal(size=(1, 40, 2)).astype(np.float32)
    window = Window(np.zeros(40, np.int32), 3, 39, 3, 30, 0)
    graph = decode(logits[..., 0], logits[..., 1], np.array([window.bounds(4)], np.int32), 8)
    options = DecodeOptions(top_k=3, max_answer_length=20)
    (decoded,) = decode_on_host([window], [row(graph, 0)], options, 8)
    expected = decode(logits[..., 0], logits[..., 1], np.array([window.bounds(20)], np.int32), 8)
    np.testing.assert_array_equal(decoded.spans, expected.spans[0])
    np.testing.assert_array_equal(decoded.span_logits, expected.span_logits[0])
    assert decoded.log_partition is not None
    np.testing.assert_array_equal(decoded.log_partition, graph.log_partition[0])
