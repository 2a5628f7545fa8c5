from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.build_engine.finetune.data import hold_out, make_features
from electra_qa.build_engine.finetune.examples import read_examples
from electra_qa.build_engine.finetune.settings import FinetuneData, FinetuneSettings
from electra_qa.squad import SquadError, SquadQuestion
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowSettings

CONTEXT = "In 1907 work on the lighthouse began; it cost 585,000 francs. " * 8
QUESTION = SquadQuestion("q", "What did it cost?", CONTEXT, ("585,000 francs",), (46,))


def test_a_window_holds_the_answer_of_its_question(tokenizer: Tokenizer) -> None:
    (feature,) = make_features([QUESTION], tokenizer, WindowSettings())
    context = tokenizer.context(CONTEXT)
    first, last = feature.start - feature.context_start, feature.end - feature.context_start
    assert context.characters(first, last) == (46, 60)
    assert feature.input_ids[feature.context_start - 1] == tokenizer.sep_id


@given(start=st.integers(0, len(CONTEXT) - 1), length=st.integers(1, 60), stride=st.integers(5, 50))
def test_each_window_has_the_whole_answer_or_none(
    tokenizer: Tokenizer, start: int, length: int, stride: int
) -> None:
    text = CONTEXT[start : start + length]
    question = dataclasses.replace(QUESTION, answers=(text,), answer_starts=(start,))
    settings = WindowSettings(max_seq_length=64, doc_stride=stride, max_query_length=10)
    context = tokenizer.context(CONTEXT)
    features = make_features([question], tokenizer, settings)
    wanted = [
        index
        for index, (first, end) in enumerate(context.offsets.tolist())
        if end > start and first < start + len(text)
    ]
    for feature in features:
        if feature.start:
            ids = feature.input_ids[feature.start : feature.end + 1].tolist()
            assert ids == context.ids[wanted].tolist()
        else:
            assert feature.end == 0
    fits = wanted and len(wanted) <= 30
    assert any(feature.start for feature in features) or not fits or stride > 20


def test_a_question_without_an_answer_points_at_cls(tokenizer: Tokenizer) -> None:
    question = dataclasses.replace(QUESTION, answers=(), answer_starts=())
    (feature,) = make_features([question], tokenizer, WindowSettings())
    assert (feature.start, feature.end) == (0, 0)


def test_of_several_annotators_the_most_count(tokenizer: Tokenizer) -> None:
    answers = ("francs", "585,000 francs", "585,000 francs")
    question = dataclasses.replace(QUESTION, answers=answers, answer_starts=(54, 46, 46))
    assert make_features([question], tokenizer, WindowSettings())[0].start == (
        make_features([QUESTION], tokenizer, WindowSettings())[0].start
    )


@pytest.mark.parametrize("start", [-1, 45, 10_000])
def test_an_answer_that_is_elsewhere_is_named(tokenizer: Tokenizer, start: int) -> None:
    question = dataclasses.replace(QUESTION, answer_starts=(start,))
    with pytest.raises(SquadError, match=r"'q': answer_start is not where '585,000 francs'"):
        make_features([question], tokenizer, WindowSettings())


def questions(sizes: list[int]) -> list[SquadQuestion]:
    return [
        SquadQuestion(f"{article}-{index}", "?", "x", (), (), str(article))
        for article, size in enumerate(sizes)
        for index in range(size)
    ]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    share=st.floats(0, 0.9),
    seed=st.integers(0, 99),
)
def test_whole_articles_are_held_out(sizes: list[int], share: float, seed: int) -> None:
    every = questions(sizes)
    train, held = hold_out(every, share, seed)
    assert sorted(q.id for q in train + held) == sorted(q.id for q in every)
    assert not {q.article for q in train} & {q.article for q in held}
    assert len(held) <= 1.5 * share * len(every)
    assert (train, held) == hold_out(every, share, seed)


def test_about_the_wanted_share_is_held_out() -> None:
    every = questions([10] * 100)
    assert [len(hold_out(every, 0.1, seed)[1]) for seed in range(5)] == [100] * 5
    assert hold_out(every, 0.1, 0) != hold_out(every, 0.1, 1)
    assert hold_out(questions([100]), 0.1, 0)[1] == []


def test_windows_keep_their_order_and_number(tokenizer: Tokenizer) -> None:
    settings = WindowSettings(max_seq_length=64, doc_stride=20, max_query_length=10)
    one = make_features([QUESTION], tokenizer, settings)
    two = make_features([QUESTION, QUESTION], tokenizer, settings)
    assert len(two) == 2 * len(one) > 2
    for a, b in zip(two, one + one, strict=True):
        assert np.array_equal(a.input_ids, b.input_ids)


def write_articles(folder: Path, name: str, kinds: str) -> Path:
    """A file with an article for each letter: a question that is a(nswerable) or u(nanswerable)."""
    data = [
        {
            "title": str(index),
            "paragraphs": [
                {
                    "context": f"{name} {index}",
                    "qas": [
                        {
                            "id": f"{name}{index}",
                            "question": "?",
                            "answers": [{"text": name, "answer_start": 0}] * (kind == "a"),
                        }
                    ],
                }
            ],
        }
        for index, kind in enumerate(kinds)
    ]
    path = folder / name
    path.write_text(json.dumps({"data": data}), encoding="utf-8")
    return path


HALF_HELD_OUT = FinetuneSettings(held_out=0.5)


def test_the_threshold_comes_from_files_with_both_kinds(tmp_path: Path) -> None:
    files = (
        write_articles(tmp_path, "answerable", "aaaa"),
        write_articles(tmp_path, "unanswerable", "uuuu"),
        write_articles(tmp_path, "both", "auauauau"),
    )
    examples = read_examples(FinetuneData("", files), HALF_HELD_OUT)
    assert len(examples.held_out) == 8
    assert [q for q in examples.held_out if "both" in q.id] == examples.threshold_questions
    apart = read_examples(FinetuneData("", files[:2]), HALF_HELD_OUT)
    assert apart.threshold_questions == apart.held_out


def test_one_kind_tells_no_threshold(tmp_path: Path) -> None:
    """Of a file that has both, when all that is held out of it is answerable."""
    files = (
        write_articles(tmp_path, "rarely", "aaaaaaau"),
        write_articles(tmp_path, "unanswerable", "uuuu"),
    )
    kinds = set()
    for seed in range(4):
        examples = read_examples(
            FinetuneData("", files), dataclasses.replace(HALF_HELD_OUT, seed=seed)
        )
        assert {bool(q.answers) for q in examples.threshold_questions} == {True, False}
        kinds.add(all(q.answers for q in examples.held_out if "rarely" in q.id))
    assert kinds == {True, False}


def test_a_file_given_twice_is_trained_on_twice(tmp_path: Path) -> None:
    file = write_articles(tmp_path, "both", "auauauau")
    once = read_examples(FinetuneData("", (file,)), HALF_HELD_OUT)
    twice = read_examples(FinetuneData("", (file, file)), HALF_HELD_OUT)
    assert twice.train == [*once.train, *once.train]
    assert twice.held_out == once.held_out
    assert twice.threshold_questions == once.threshold_questions
