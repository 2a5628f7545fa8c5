from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer

from electra_qa.tokenization import Tokenizer
from electra_qa.windows import (
    BOUNDS,
    Window,
    WindowBatch,
    WindowSettings,
    count_windows,
    doc_stride_from_overlap,
    make_windows,
)

CLS, SEP, PAD = 101, 102, 0
FIRST_CONTEXT_ID = 10_000

QUESTION = "Where did the dukes of Normandy come from?"
CONTEXT = """The Normans (Norman: Nourmands; French: Normands; Latin: Normanni) were the people who
in the 10th and 11th centuries gave their name to Normandy, a region in France. They were descended
from Norse raiders and pirates from Denmark, Iceland and Norway who, under their leader Rollo,
agreed to swear fealty to King Charles III of West Francia. Through generations of assimilation and
mixing with the native Frankish and Roman-Gaulish populations, their descendants would gradually
merge with the Carolingian-based cultures of West Francia."""


def windows_of(
    question_tokens: int, context_tokens: int, settings: WindowSettings, *, max_context: bool = True
) -> list[Window]:
    """Windows of token ids that say where they come from: 1… and FIRST_CONTEXT_ID…"""
    return make_windows(
        np.arange(1, question_tokens + 1, dtype=np.int32),
        np.arange(FIRST_CONTEXT_ID, FIRST_CONTEXT_ID + context_tokens, dtype=np.int32),
        settings=settings,
        cls_id=CLS,
        sep_id=SEP,
        max_context=max_context,
    )


def run_squad_spans(tokens: int, max_tokens_for_doc: int, doc_stride: int) -> list[tuple[int, int]]:
    """`convert_examples_to_features` of google-research/bert, its loop over `doc_spans`."""
    doc_spans = []
    start_offset = 0
    while start_offset < tokens:
        length = tokens - start_offset
        length = min(length, max_tokens_for_doc)
        doc_spans.append((start_offset, length))
        if start_offset + length == tokens:
            break
        start_offset += min(length, doc_stride)
    return doc_spans


def best_span(doc_spans: list[tuple[int, int]], position: int) -> int | None:
    """`_check_is_max_context` of google-research/bert: the span that has the position's answer."""
    best_score = None
    best_span_index = None
    for span_index, (start, length) in enumerate(doc_spans):
        end = start + length - 1
        if position < start or position > end:
            continue
        score = min(position - start, end - position) + 0.01 * length
        if best_score is None or score > best_score:
            best_score, best_span_index = score, span_index
    return best_span_index


@st.composite
def settings_(draw: st.DrawFn) -> WindowSettings:
    max_query_length = draw(st.integers(1, 12))
    capacity = draw(st.one_of(st.integers(1, 20), st.integers(100, 380)))
    doc_stride = draw(st.one_of(st.integers(1, 20), st.integers(1, 400)))
    return WindowSettings(max_query_length + 3 + capacity, doc_stride, max_query_length)


def with_corner_cases(test: Callable[..., None]) -> Callable[..., None]:
    for question_tokens, context_tokens, settings in (
        (0, 0, WindowSettings()),
        (5, 1, WindowSettings()),
        (70, 1000, WindowSettings()),
        (8, 120, WindowSettings(20, 1, 8)),
        (8, 100, WindowSettings(20, 500, 8)),
        # The last window is shorter by 100, 200 or 378 tokens: then 0.01 × length, a bonus that
        # only settles ties elsewhere, weighs as much as one token of context and more.
        (1, 500, WindowSettings(304, 150, 1)),
        (1, 450, WindowSettings(304, 250, 1)),
        (1, 402, WindowSettings(404, 379, 1)),
    ):
        test = example(
            question_tokens=question_tokens, context_tokens=context_tokens, settings=settings
        )(test)
    return test


given_lengths = given(
    question_tokens=st.integers(0, 20), context_tokens=st.integers(0, 600), settings=settings_()
)


@with_corner_cases
@given_lengths
def test_windows_are_those_of_run_squad(
    question_tokens: int, context_tokens: int, settings: WindowSettings
) -> None:
    question = list(range(1, question_tokens + 1))[: settings.max_query_length]
    capacity = settings.max_seq_length - len(question) - 3
    doc_spans = run_squad_spans(context_tokens, capacity, settings.doc_stride)
    windows = windows_of(question_tokens, context_tokens, settings)
    assert [w.input_ids.tolist() for w in windows] == [
        [CLS, *question, SEP, *range(FIRST_CONTEXT_ID + start, FIRST_CONTEXT_ID + start + n), SEP]
        for start, n in doc_spans
    ]
    assert [(w.offset, w.context_end - w.context_start) for w in windows] == doc_spans
    assert all(w.context_start == len(question) + 2 for w in windows)
    assert all(w.length <= settings.max_seq_length for w in windows)


@with_corner_cases
@given_lengths
def test_answers_start_where_run_squad_has_max_context(
    question_tokens: int, context_tokens: int, settings: WindowSettings
) -> None:
    capacity = settings.capacity(question_tokens)
    doc_spans = run_squad_spans(context_tokens, capacity, settings.doc_stride)
    windows = windows_of(question_tokens, context_tokens, settings)
    # In this order: every token once, in the window that is best for it.
    owners = [
        (index, window.offset + position - window.context_start)
        for index, window in enumerate(windows)
        for position in range(window.start_first, window.start_end)
    ]
    expected = [(best_span(doc_spans, token), token) for token in range(context_tokens)]
    assert sorted(owners, key=lambda owner: owner[1]) == expected


@given_lengths
def test_without_max_context_an_answer_starts_anywhere_in_a_window(
    question_tokens: int, context_tokens: int, settings: WindowSettings
) -> None:
    for window in windows_of(question_tokens, context_tokens, settings, max_context=False):
        assert (window.start_first, window.start_end) == (window.context_start, window.context_end)


@pytest.mark.parametrize("overlap", [0, 1, 10, 28])
def test_doc_stride_from_overlap_gives_the_windows_of_the_fast_tokenizers(
    overlap: int, checkpoint: Path, tokenizer: Tokenizer
) -> None:
    rust = RustTokenizer.from_file(str(checkpoint / "tokenizer.json"))
    rust.no_padding()
    rust.enable_truncation(max_length=42, stride=overlap, strategy="only_second")
    encoding = rust.encode(QUESTION, CONTEXT)
    question = tokenizer.question(QUESTION)
    capacity = WindowSettings(42, 1, 20).capacity(len(question))
    windows = make_windows(
        question,
        tokenizer.context(CONTEXT).ids,
        settings=WindowSettings(42, doc_stride_from_overlap(overlap, capacity), 20),
        cls_id=tokenizer.cls_id,
        sep_id=tokenizer.sep_id,
    )
    assert len(windows) > 3
    assert [w.input_ids.tolist() for w in windows] == [
        part.ids for part in (encoding, *encoding.overflowing)
    ]


@pytest.mark.parametrize("overlap", [10, 11])
def test_an_overlap_of_a_whole_window_is_refused(overlap: int) -> None:
    with pytest.raises(ValueError, match=f"window_overlap must be under 10.*got {overlap}"):
        doc_stride_from_overlap(overlap, 10)


@pytest.mark.parametrize("name", ["max_seq_length", "doc_stride", "max_query_length"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_setting_under_one_is_refused_by_name(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got {value}"):
        WindowSettings(**{name: value})


def test_the_longest_question_leaves_room_for_a_context_token() -> None:
    assert WindowSettings(68, 128, 64).capacity(1000) == 1
    with pytest.raises(ValueError, match=r"max_seq_length must be at least 68.*got 67"):
        WindowSettings(67, 128, 64)


def test_pad_fills_windows_up_to_one_length() -> None:
    windows = windows_of(2, 7, WindowSettings(10, 3, 2))
    assert [w.length for w in windows] == [10, 9]
    batch = WindowBatch.pad(windows, [30, 4], length=12, pad_id=PAD)
    assert batch.input_ids.dtype == batch.bounds.dtype == np.int32
    assert batch.input_ids.tolist() == [
        [CLS, 1, 2, SEP, 10000, 10001, 10002, 10003, 10004, SEP, PAD, PAD],
        [CLS, 1, 2, SEP, 10003, 10004, 10005, 10006, SEP, PAD, PAD, PAD],
    ]
    assert BOUNDS[:2] == ("context_start", "context_end")
    assert BOUNDS[2:] == ("start_first", "start_end", "max_answer_length")
    # Token 10003 has as much context in both windows, and more tokens are in the first.
    assert batch.bounds.tolist() == [[4, 9, 4, 8, 30], [4, 8, 5, 8, 4]]


def test_pad_refuses_a_length_under_the_longest_window() -> None:
    with pytest.raises(ValueError, match="could not broadcast"):
        WindowBatch.pad(windows_of(2, 7, WindowSettings(10, 3, 2)), [1, 1], length=9, pad_id=PAD)


def test_pad_wants_an_answer_length_for_every_window() -> None:
    with pytest.raises(ValueError, match="zip"):
        WindowBatch.pad(windows_of(2, 7, WindowSettings(10, 3, 2)), [1], length=10, pad_id=PAD)


@given(st.integers(0, 700), st.integers(1, 60), st.integers(1, 400))
def test_windows_are_counted_without_making_them(tokens: int, question: int, stride: int) -> None:
    settings = WindowSettings(max_seq_length=100, doc_stride=stride, max_query_length=60)
    windows = make_windows(
        np.ones(question, np.int32),
        np.ones(tokens, np.int32),
        settings=settings,
        cls_id=1,
        sep_id=2,
    )
    assert count_windows(tokens, settings.capacity(question), stride) == len(windows)
