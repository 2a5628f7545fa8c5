"""Answers that don't overlap, and answers for every place, held against plain loops."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.apart import overlaps
from electra_qa.merge import merge
from electra_qa.spans import DecodeOptions, Prediction, Rules, decode, row
from electra_qa.tokenization import TokenizedContext
from electra_qa.windows import Window, WindowSettings, make_windows

SETTINGS = WindowSettings(max_seq_length=10, doc_stride=3, max_query_length=1)


def words(lengths: list[int]) -> TokenizedContext:
    """A context of words of these lengths: aaa bb c …, a space apart."""
    text = " ".join(chr(ord("a") + n % 26) * length for n, length in enumerate(lengths))
    ends = np.cumsum(np.array(lengths) + 1) - 1
    offsets = np.stack((ends - lengths, ends), axis=-1).astype(np.int32)
    ids = np.arange(len(lengths), dtype=np.int32) + 100
    return TokenizedContext(text, ids, offsets, np.arange(len(lengths), dtype=np.int32))


def cut(context: TokenizedContext, rules: Rules) -> list[Window]:
    return make_windows(
        np.array([1], np.int32),
        context.ids,
        settings=SETTINGS,
        cls_id=2,
        sep_id=3,
        max_context=rules.max_context,
    )


def predict(
    context: TokenizedContext, logits: list[np.ndarray], options: DecodeOptions
) -> Prediction:
    windows = cut(context, options.rules)
    decoded = [
        row(
            decode(
                one[None, : w.length, 0],
                one[None, : w.length, 1],
                np.array([w.bounds(options.max_answer_length)], np.int32),
                max(4, options.spans_of_a_window),
            ),
            0,
        )
        for w, one in zip(windows, logits, strict=False)
    ]
    return merge(context, windows, decoded, options)


def expected(
    context: TokenizedContext, logits: list[np.ndarray], options: DecodeOptions
) -> list[tuple[int, int]]:
    """Places of the answers: every pair of every window, best first, those that are free."""
    spans = []
    for index, (w, one) in enumerate(zip(cut(context, options.rules), logits, strict=False)):
        of_window = []
        for s, e in product(range(w.length), repeat=2):
            if not w.start_first <= s < w.start_end or not s <= e < w.context_end:
                continue
            if e - s < options.max_answer_length:
                to_context = w.offset - w.context_start
                score = float(one[s, 0] + one[e, 1])
                of_window.append((-score, index, s + to_context, e + to_context))
        of_window.sort()
        if options.rules is Rules.READER:
            of_window = of_window[: options.n_best_size]
        spans += of_window
    places: list[tuple[int, int]] = []
    texts: set[str] = set()
    for _, _, first, last in sorted(spans):
        place = context.characters(first, last)
        text = context.text[slice(*place)]
        if options.max_overlap is not None and any(
            overlaps(place, one, options.max_overlap) for one in places
        ):
            continue
        if text in texts and not (options.every_place or options.rules is Rules.READER):
            continue
        texts.add(text)
        places.append(place)
    return places[: options.top_k]


@st.composite
def asked(draw: st.DrawFn) -> tuple[TokenizedContext, list[np.ndarray]]:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=14))
    context = words(lengths)
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    # No two scores are equal, so that there is one right order.
    logits = [
        generator.normal(size=(w.length, 2)).astype(np.float32) for w in cut(context, Rules.READER)
    ]
    return context, logits


@given(
    question=asked(),
    rules=st.sampled_from([Rules.RUN_SQUAD, Rules.READER]),
    max_overlap=st.sampled_from([0.0, 0.01, 0.3, 0.5, 0.99, 1.0]),
    top_k=st.integers(1, 12),
    max_answer_length=st.integers(1, 10),
    n_best_size=st.integers(1, 30),
    field_bytes=st.sampled_from([0, 200, 2**20]),
)
def test_answers_leave_each_other_room(
    question: tuple[TokenizedContext, list[np.ndarray]],
    rules: Rules,
    max_overlap: float,
    top_k: int,
    max_answer_length: int,
    n_best_size: int,
    field_bytes: int,
) -> None:
    context, logits = question
    options = DecodeOptions(
        top_k=top_k,
        max_answer_length=max_answer_length,
        rules=rules,
        max_overlap=max_overlap,
        every_place=True,
        n_best_size=n_best_size,
    )
    with mock.patch("electra_qa.apart.FIELD_BYTES", field_bytes):
        prediction = predict(context, logits, options)
    found = [(answer.start, answer.end) for answer in prediction.answers]
    assert found == expected(context, logits, options)


def test_only_answers_that_do_not_overlap() -> None:
    # "21 April 753 BC": behind the best span its parts come, long before another place.
    context = words([4, 3, 7, 2, 2, 5])  # aaaa bbb ccccccc dd ee fffff
    logits = [np.full((w.length, 2), -9.0, np.float32) for w in cut(context, Rules.RUN_SQUAD)]
    start = 3  # [CLS] question [SEP]
    logits[0][start + 1 : start + 4, :] = [[9, 5], [8, 6], [7, 9]]
    logits[0][start + 5] = [2, 2]
    options = DecodeOptions(top_k=3)
    everything = predict(context, logits, options)
    apart = predict(context, logits, replace(options, max_overlap=0.0))
    assert [answer.text for answer in everything.answers] == ["bbb ccccccc dd", "ccccccc dd", "dd"]
    assert [answer.text for answer in apart.answers][:2] == ["bbb ccccccc dd", "fffff"]
    places = sorted((answer.start, answer.end) for answer in apart.answers)
    assert all(one[1] <= other[0] for one, other in pairwise(places))
    assert apart.null_score_diff == everything.null_score_diff


def test_a_text_is_one_answer_or_one_for_each_of_its_places() -> None:
    context = TokenizedContext(
        "Rollo came. Rollo went.",
        np.arange(4, dtype=np.int32),
        np.array([[0, 5], [6, 10], [12, 17], [18, 22]], np.int32),
        np.arange(4, dtype=np.int32),
    )
    logits = [np.full((w.length, 2), -9.0, np.float32) for w in cut(context, Rules.RUN_SQUAD)]
    logits[0][3], logits[0][5] = [5, 5], [4, 4]
    options = DecodeOptions(top_k=2, max_answer_length=1)
    once = predict(context, logits, options).answers
    both = predict(context, logits, replace(options, every_place=True)).answers
    assert [(answer.text, answer.start) for answer in once] == [("Rollo", 0), ("came", 6)]
    assert [(answer.text, answer.start) for answer in both] == [("Rollo", 0), ("Rollo", 12)]


@pytest.mark.parametrize(
    ("one", "other", "share"),
    [((0, 4), (4, 8), 0.0), ((0, 4), (3, 13), 0.25), ((0, 10), (2, 4), 1.0), ((5, 9), (5, 9), 1.0)],
)
def test_overlap_is_the_larger_of_both_shares(
    one: tuple[int, int], other: tuple[int, int], share: float
) -> None:
    for left, right in ((one, other), (other, one)):
        assert not overlaps(left, right, share)
        assert overlaps(left, right, share - 0.01) == (share > 0)
