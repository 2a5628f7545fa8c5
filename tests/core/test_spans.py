from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.spans import (
    MASKED,
    DecodedWindows,
    decode,
)


def one_window(
    start: list[float], end: list[float], bounds: tuple[int, int, int, int, int], n: int
) -> DecodedWindows:
    return decode(
        np.array([start], np.float32), np.array([end], np.float32), np.array([bounds], np.int32), n
    )


START = [9.0, 8.0, 1.0, 3.0, 0.0, 2.0, 7.0]
END = [9.0, 8.0, 2.0, 0.0, 4.0, 1.0, 7.0]


def test_decode_gives_the_best_pairs_with_their_logits() -> None:
    decoded = one_window(START, END, (2, 6, 2, 6, 30), 4)
    assert decoded.spans[0].tolist() == [[3, 4], [2, 4], [3, 5], [4, 4]]
    assert decoded.span_logits[0].tolist() == [[3.0, 4.0], [1.0, 4.0], [3.0, 1.0], [0.0, 4.0]]
    assert decoded.null_logits[0].tolist() == [9.0, 9.0]


@pytest.mark.parametrize(
    ("bounds", "spans"),
    [
        ((2, 6, 2, 6, 1), [[4, 4], [2, 2], [3, 3], [5, 5]]),
        ((2, 6, 2, 6, 2), [[3, 4], [4, 4], [2, 2], [3, 3], [5, 5], [2, 3], [4, 5]]),
        ((2, 6, 2, 3, 30), [[2, 4], [2, 2], [2, 5], [2, 3]]),
        ((2, 6, 4, 6, 30), [[4, 4], [5, 5], [4, 5]]),
        ((3, 5, 3, 5, 30), [[3, 4], [4, 4], [3, 3]]),
        ((2, 6, 4, 4, 30), []),
        ((2, 2, 2, 2, 30), []),
        ((2, 6, 2, 6, 0), []),
    ],
)
def test_bounds_say_where_spans_are(
    bounds: tuple[int, int, int, int, int], spans: list[list[int]]
) -> None:
    decoded = one_window(START, END, bounds, 20)
    expected = sorted(spans, key=lambda span: (-(START[span[0]] + END[span[1]]), span))
    assert decoded.spans[0, : len(spans)].tolist() == expected
    assert (decoded.span_logits[0, : len(spans)] > MASKED).all()
    assert (decoded.span_logits[0, len(spans) :] == MASKED).all()


def test_of_equal_scores_the_smaller_start_then_the_smaller_end_comes_first() -> None:
    decoded = one_window([0.0] * 5, [0.0] * 5, (1, 4, 1, 4, 30), 6)
    assert decoded.spans[0].tolist() == [[1, 1], [1, 2], [1, 3], [2, 2], [2, 3], [3, 3]]


def test_the_partition_is_that_of_the_context_and_cls() -> None:
    decoded = one_window(START, END, (2, 6, 3, 4, 1), 1)
    places = [0, 2, 3, 4, 5]
    expected = [
        math.log(sum(math.exp(logits[place]) for place in places)) for logits in (START, END)
    ]
    assert decoded.log_partition[0] == pytest.approx(expected, rel=1e-6)


def test_huge_logits_do_not_overflow() -> None:
    decoded = one_window([-5e4, 1e4, 2e4, 0.0], [-5e4, 1e4, 2e4, 0.0], (1, 3, 1, 3, 9), 1)
    assert decoded.log_partition[0].tolist() == [2e4, 2e4]


@given(
    logits=st.integers(2, 12).flatmap(
        lambda n: st.lists(
            st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=n, max_size=n
        )
    ),
    cuts=st.tuples(*[st.integers(0, 12)] * 4),
    max_answer_length=st.integers(0, 12),
    n=st.integers(1, 30),
)
def test_decode_is_exact(
    logits: list[tuple[int, int]],
    cuts: tuple[int, int, int, int],
    max_answer_length: int,
    n: int,
) -> None:
    start, end = ([float(pair[i]) for pair in logits] for i in (0, 1))
    context_start, context_end, start_first, start_end = cuts
    decoded = one_window(start, end, (*cuts, max_answer_length), n)
    pairs = [
        (s, e)
        for s, e in product(range(len(logits)), repeat=2)
        if start_first <= s < start_end
        and context_start <= e < context_end
        and s <= e < s + max_answer_length
    ]
    best = sorted(pairs, key=lambda pair: (-(start[pair[0]] + end[pair[1]]), pair))[:n]
    found = len(best)
    assert decoded.spans[0, :found].tolist() == [list(pair) for pair in best]
    assert decoded.span_logits[0, :found].tolist() == [[start[s], end[e]] for s, e in best]
    assert (decoded.span_logits[0, found:] == MASKED).all()
