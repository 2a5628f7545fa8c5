from __future__ import annotations

import math
from statistics import NormalDist

import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.finetune.threshold import choose_threshold
from electra_qa.spans import Prediction
from electra_qa.squad import SquadQuestion

from .conftest import asked

PAIRS = st.lists(
    st.tuples(st.floats(-5, 5).map(lambda x: round(x, 1)), st.booleans()), min_size=2, max_size=30
)


def chosen(pairs: list[tuple[float, bool]]) -> float:
    return choose_threshold(*asked([d for d, _ in pairs], [a for _, a in pairs]))


def bell(mean: float, count: int) -> list[float]:
    """As many values as evenly from a normal distribution with a deviation of 1 as they can be."""
    return [mean + NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]


@pytest.mark.parametrize("unanswerable", [50, 400])
@pytest.mark.parametrize("said", ["x", "x y z"])
def test_between_two_bells_it_is_where_answering_wins_as_much_as_it_loses(
    unanswerable: int, said: str
) -> None:
    """Where the likelihood of an answerable question, times F1, is that of an unanswerable one.

    For bells of the same width: at the middle, and lower by ln(1 / F1) over their distance. How
    many there are of a kind doesn't matter.
    """
    f1 = 1.0 if said == "x" else 0.5
    questions, predictions = asked(
        bell(-2.0, 400) + bell(1.0, unanswerable), [True] * 400 + [False] * unanswerable, said
    )
    expected = -0.5 - math.log(1 / f1) / 3.0
    assert choose_threshold(questions, predictions) == pytest.approx(expected, abs=0.03)


@given(pairs=PAIRS, shift=st.floats(-3, 3))
def test_it_moves_with_the_differences(pairs: list[tuple[float, bool]], shift: float) -> None:
    threshold = chosen(pairs)
    if threshold == 0:  # nothing says where it should be
        return
    moved = chosen([(diff + shift, has) for diff, has in pairs])
    assert moved == pytest.approx(threshold + shift, abs=1e-3)


def test_where_answering_never_wins_it_is_just_below_the_lowest_difference() -> None:
    diffs = bell(0.0, 100) + bell(0.05, 100)
    questions, predictions = asked(diffs, [True] * 100 + [False] * 100, "x y z")
    assert choose_threshold(questions, predictions) == pytest.approx(min(diffs) - 1)


@given(
    right=st.lists(st.floats(-9, -2), min_size=1, max_size=10),
    gap=st.floats(-1, 1),
)
def test_it_lies_halfway_between_two_kinds_that_mirror_each_other(
    right: list[float], gap: float
) -> None:
    pairs = [(gap + diff, True) for diff in right] + [(gap - diff, False) for diff in right]
    assert chosen(pairs) == pytest.approx(gap, abs=1e-3)


@pytest.mark.parametrize(
    ("diffs", "answerable", "said"),
    [
        ([-1.0, 2.0], [True, True], "x"),
        ([-1.0, 2.0], [False, False], "x"),
        ([-1.0, 2.0], [True, False], "wrong"),
        ([2.0, 2.0], [True, False], "x"),
        ([2.0, -1.0], [True, False], "x"),
        ([], [], "x"),
    ],
)
def test_it_is_0_where_nothing_says_where_it_should_be(
    diffs: list[float], answerable: list[bool], said: str
) -> None:
    assert choose_threshold(*asked(diffs, answerable, said)) == 0


def test_a_question_without_any_span_says_nothing() -> None:
    questions, predictions = asked([-1.0, 1.0], [True, False])
    questions.append(SquadQuestion("2", "?", "", ()))
    predictions["2"] = Prediction((), True, 90.0, 90.0, 0.5)
    assert choose_threshold(questions, predictions) == pytest.approx(0)
