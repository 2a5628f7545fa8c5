from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.finetune.typing_slips import with_slips, with_typo, without_mark
from electra_qa.squad import SquadQuestion

QUESTIONS = [
    SquadQuestion(str(i), f"When did Kereon number {i} begin to burn ?", "It did.", ("It",), (0,))
    for i in range(1000)
]


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Who was it?", "Who was it"),
        ("who was it ? ", "who was it"),
        ("Who was it", "Who was it"),
        ("Who?!", "Who?!"),
        ("?", "?"),
        ("", ""),
    ],
)
def test_without_its_mark(text: str, right: str) -> None:
    assert without_mark(text) == right


def _distance(one: str, other: str) -> int:
    """Of Damerau and Levenshtein, where no place is edited twice."""
    table = np.zeros((len(one) + 1, len(other) + 1), dtype=int)
    table[:, 0], table[0, :] = range(len(one) + 1), range(len(other) + 1)
    for i, a in enumerate(one, start=1):
        for j, b in enumerate(other, start=1):
            table[i, j] = min(
                table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b)
            )
            if i > 1 and j > 1 and a == other[j - 2] and b == one[i - 2]:
                table[i, j] = min(table[i, j], table[i - 2, j - 2] + 1)
    return int(table[-1, -1])


@given(st.text(st.sampled_from("abcXYZé 19?'"), max_size=30), st.integers(0, 2**32))
def test_a_typo_is_one_slip_inside_one_word(text: str, seed: int) -> None:
    typed = with_typo(text, np.random.default_rng(seed))
    assert _distance(text, typed) <= 1
    assert typed[:1] == text[:1]


def test_every_kind_of_typo_is_made_and_short_words_have_none() -> None:
    made = {with_typo("is abcd on", np.random.default_rng(seed)) for seed in range(300)}
    assert {"is acd on", "is abbcd on", "is acbd on", "is abvd on"} <= made
    assert all(text.startswith("is a") and text.endswith(" on") for text in made)
    assert with_typo("is it on?", np.random.default_rng(0)) == "is it on?"


def test_each_slip_has_its_share_by_itself() -> None:
    slipped = [question.question for question in with_slips(QUESTIONS, 0.2, seed=1)]
    plain = [question.question for question in QUESTIONS]
    no_mark = [not text.endswith("?") for text in slipped]
    lower = [text == text.lower() for text in slipped]
    typo = [
        text.lower().rstrip("? ") != old.lower().rstrip("? ")
        for text, old in zip(slipped, plain, strict=True)
    ]
    for hit in (no_mark, lower, typo):
        assert 150 < sum(hit) < 250
    assert 20 < sum(a and b for a, b in zip(no_mark, typo, strict=True)) < 65
    assert list(with_slips(QUESTIONS, 0, seed=1)) == QUESTIONS


def test_all_but_the_question_stays_and_depends_on_nothing_else() -> None:
    slipped = list(with_slips(QUESTIONS, 0.5, seed=1))
    assert slipped == list(with_slips(QUESTIONS, 0.5, seed=1))
    assert slipped != list(with_slips(QUESTIONS, 0.5, seed=2))
    assert slipped[500:] == list(with_slips(QUESTIONS[500:], 0.5, seed=1))
    for old, new in zip(QUESTIONS, slipped, strict=True):
        assert dataclasses.replace(new, question=old.question) == old
