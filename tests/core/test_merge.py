from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models, pre_tokenizers

from electra_qa.merge import merge
from electra_qa.spans import (
    DecodedWindow,
    DecodeOptions,
    Prediction,
    Rules,
    decode,
    row,
)
from electra_qa.tokenization import TokenizedContext, Tokenizer
from electra_qa.windows import Window, WindowSettings, make_windows

Logits = npt.NDArray[np.float32]
PIPELINE = DecodeOptions(rules=Rules.PIPELINE, top_k=10)
# Six tokens make two windows, of the tokens 0 to 3 and 2 to 5.
OVERLAPPING = WindowSettings(max_seq_length=8, doc_stride=2, max_query_length=1)


class Asked:
    """A question about a text, with logits set by hand: 0 where nothing is said."""

    def __init__(
        self, tokenizer: Tokenizer, text: str, settings: WindowSettings | None = None
    ) -> None:
        self.context: TokenizedContext = tokenizer.context(text)
        self.windows: list[Window] = make_windows(
            np.array([1], np.int32),
            self.context.ids,
            settings=settings or WindowSettings(),
            cls_id=tokenizer.cls_id,
            sep_id=tokenizer.sep_id,
            max_context=False,
        )
        self.start = [np.zeros(w.length, np.float32) for w in self.windows]
        self.end = [np.zeros(w.length, np.float32) for w in self.windows]

    def say(self, first: int, last: int, start: float, end: float, *, window: int = 0) -> None:
        """Set the start logit of one token of the context and the end logit of another."""
        to_window = self.windows[window].context_start - self.windows[window].offset
        self.start[window][first + to_window] = start
        self.end[window][last + to_window] = end

    def null(self, start: float, end: float, *, window: int = 0) -> None:
        self.start[window][0], self.end[window][0] = start, end

    def decoded(self, max_answer_length: int = 30, n: int = 20) -> list[DecodedWindow]:
        return [
            row(decode(start[None], end[None], np.array([w.bounds(max_answer_length)]), n), 0)
            for start, end, w in zip(self.start, self.end, self.windows, strict=True)
        ]

    def probability(self, first: int, last: int, *, window: int = 0) -> float:
        """P(start = first) × P(end = last) in a window, in plain NumPy."""
        w = self.windows[window]
        to_window = w.context_start - w.offset
        return self._softmax(self.start, window, first + to_window) * self._softmax(
            self.end, window, last + to_window
        )

    def null_probability(self, *, window: int = 0) -> float:
        return self._softmax(self.start, window, 0) * self._softmax(self.end, window, 0)

    def _softmax(self, logits: list[Logits], window: int, place: int) -> float:
        """Over the context and [CLS]: the question, the [SEP]s and the padding don't count."""
        w = self.windows[window]
        exp = np.exp(logits[window].astype(np.float64))
        return float(exp[place] / (exp[0] + exp[w.context_start : w.context_end].sum()))

    def predict(self, options: DecodeOptions | None = None) -> Prediction:
        options = options or DecodeOptions()
        decoded = self.decoded(options.max_answer_length)
        return merge(self.context, self.windows, decoded, options)


def texts(prediction: Prediction) -> list[str]:
    return [answer.text for answer in prediction.answers]


def test_the_answer_is_cut_from_the_callers_text(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "In 911 ROLLO,  the Viking")
    asked.say(2, 5, 4.0, 3.0)
    (answer,) = asked.predict().answers
    assert answer.text == asked.context.text[answer.start : answer.end] == "ROLLO,  the"
    assert (answer.start_logit, answer.end_logit) == (4.0, 3.0)


@pytest.mark.parametrize("rules", Rules)
def test_a_score_is_the_product_of_two_softmaxes(rules: Rules, tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "In 911 they came")
    asked.say(1, 2, 1.25, 0.5)
    asked.null(0.75, -1.0)
    prediction = asked.predict(DecodeOptions(rules=rules, max_answer_length=2))
    (answer,) = prediction.answers
    assert answer.text == "911 they"
    assert answer.score == pytest.approx(asked.probability(1, 2))
    assert prediction.null_probability == pytest.approx(asked.null_probability())
    assert prediction.null_score == -0.25
    assert prediction.null_score_diff == -2.0


def test_a_score_is_that_of_the_answers_own_window(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "one two three four five six", OVERLAPPING)
    asked.say(4, 4, 2.0, 1.0, window=1)
    asked.say(1, 1, -3.0, -3.0, window=0)
    (answer,) = asked.predict().answers
    assert answer.text == "five"
    assert answer.score == pytest.approx(asked.probability(4, 4, window=1))


def test_answers_of_all_windows_are_ordered_by_their_logits(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "one two three four five six", OVERLAPPING)
    asked.say(0, 0, 3.0, 3.0, window=0)
    asked.say(1, 1, 5.0, 5.0, window=0)
    asked.say(5, 5, 4.0, 4.0, window=1)
    # The second window is the surer by probability: its other logits are lower.
    asked.null(-9.0, -9.0, window=1)
    prediction = asked.predict(DecodeOptions(top_k=3, max_answer_length=1))
    assert texts(prediction) == ["two", "six", "one"]
    assert prediction.null_score_diff == -18.0 - 10.0


def test_of_answers_with_the_same_text_only_the_best_counts(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "Norse and Norse and norse")
    for token, logit in ((0, 2.0), (2, 3.0), (4, 1.0)):
        asked.say(token, token, logit, logit)
    prediction = asked.predict(DecodeOptions(top_k=3, max_answer_length=1))
    assert texts(prediction) == ["Norse", "norse", "and"]
    assert (prediction.answers[0].start, prediction.answers[0].end) == (10, 15)
    assert prediction.answers[0].start_logit == 3.0
    assert prediction.answers[0].score == pytest.approx(asked.probability(2, 2))


@pytest.mark.parametrize(("rules", "text"), [("run_squad", "Norse"), ("pipeline", " Norse")])
def test_the_space_in_a_sentencepiece_is_no_part_of_an_answer(rules: str, text: str) -> None:
    """But by the pipeline's rules, since it gave it to its callers."""
    special = [(name, 0.0) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]")]
    pieces = [*special, ("▁Norse", -1.0), ("▁and", -1.0), ("▁", -9.0)]
    rust = RustTokenizer(models.Unigram(pieces, unk_id=1))
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    asked = Asked(Tokenizer(rust.to_str()), "and Norse and")
    asked.say(1, 1, 3.0, 3.0)
    (answer,) = asked.predict(DecodeOptions(rules=Rules(rules))).answers
    assert answer.text == text
    assert (answer.start, answer.end) == (9 - len(text), 9)


@pytest.mark.parametrize("rules", Rules)
@pytest.mark.parametrize("top_k", [1, 2, 3, 50])
def test_there_are_at_most_top_k_answers(rules: Rules, top_k: int, tokenizer: Tokenizer) -> None:
    options = DecodeOptions(top_k=top_k, max_answer_length=1, rules=rules)
    prediction = Asked(tokenizer, "one two three four").predict(options)
    assert texts(prediction) == ["one", "two", "three", "four"][:top_k]


def test_the_null_score_and_probability_are_the_smallest_of_the_windows(
    tokenizer: Tokenizer,
) -> None:
    asked = Asked(tokenizer, "one two three four five six", OVERLAPPING)
    asked.null(8.0, 8.0, window=0)
    asked.null(1.0, -3.0, window=1)
    # Here the window with the smallest score is not the one with the smallest probability.
    asked.start[1][1:] = asked.end[1][1:] = -20.0
    asked.start[0][1:] = asked.end[0][1:] = 8.0
    prediction = asked.predict()
    assert prediction.null_score == -2.0
    assert asked.null_probability(window=0) < asked.null_probability(window=1)
    assert prediction.null_probability == pytest.approx(asked.null_probability(window=0))


@pytest.mark.parametrize(
    ("threshold", "is_impossible"),
    [(0.0, True), (1.5, True), (2.0, False), (2.5, False), (math.inf, False), (-math.inf, True)],
)
def test_there_is_no_answer_where_the_difference_is_over_the_threshold(
    threshold: float, is_impossible: bool, tokenizer: Tokenizer
) -> None:
    asked = Asked(tokenizer, "one two")
    asked.say(0, 0, 1.0, 2.0)
    asked.null(2.0, 3.0)
    prediction = asked.predict(DecodeOptions(null_score_diff_threshold=threshold))
    assert prediction.null_score_diff == 2.0
    assert prediction.is_impossible is is_impossible
    assert texts(prediction) == ["one"]


@pytest.mark.parametrize("rules", Rules)
@pytest.mark.parametrize("threshold", [0.0, math.inf, -math.inf])
def test_without_a_span_there_is_no_answer(
    rules: Rules, threshold: float, tokenizer: Tokenizer
) -> None:
    asked = Asked(tokenizer, "one two")
    asked.windows = [replace(w, start_end=w.start_first) for w in asked.windows]
    options = DecodeOptions(top_k=5, rules=rules, null_score_diff_threshold=threshold)
    prediction = asked.predict(options)
    assert prediction.answers == ()
    assert prediction.is_impossible
    assert prediction.null_score == 0.0
    assert prediction.null_score_diff == math.inf


def test_the_pipeline_adds_up_texts_that_differ_in_case_only(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "Norse and NORSE and norse")
    for token, logit in ((0, 2.0), (2, 3.0), (4, 1.0)):
        asked.say(token, token, logit, logit)
    best, other = asked.predict(replace(PIPELINE, max_answer_length=1)).answers
    assert (best.text, best.start_logit, other.text) == ("NORSE", 3.0, "and")
    assert best.score == pytest.approx(sum(asked.probability(i, i) for i in (0, 2, 4)))
    assert other.score == pytest.approx(sum(asked.probability(i, i) for i in (1, 3)))


def test_the_pipeline_orders_by_probability_over_all_windows(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "one two three four five six", OVERLAPPING)
    asked.start[0][:] = asked.end[0][:] = 9.0
    asked.say(5, 5, 5.0, 5.0, window=1)
    options = DecodeOptions(max_answer_length=1, top_k=1)
    assert texts(asked.predict(options)) == ["one"]
    assert texts(asked.predict(replace(options, rules=Rules.PIPELINE))) == ["six"]


def test_the_pipeline_adds_up_windows_that_share_an_answer(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "one two three four five six", OVERLAPPING)
    for window in (0, 1):
        asked.say(3, 3, 4.0, 4.0, window=window)
    (answer,) = asked.predict(replace(PIPELINE, top_k=1)).answers
    assert answer.text == "four"
    expected = sum(asked.probability(3, 3, window=window) for window in (0, 1))
    assert answer.score == pytest.approx(expected)


@pytest.mark.parametrize("rules", Rules)
def test_an_aligned_answer_is_made_of_whole_words(rules: Rules, tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "The Normanni came")  # the · norman · ##ni · came
    asked.say(2, 2, 9.0, 9.0)
    options = DecodeOptions(rules=rules, max_answer_length=1)
    assert texts(asked.predict(options)) == ["ni"]
    assert texts(asked.predict(replace(options, align_to_words=True))) == ["Normanni"]


def test_pieces_of_a_word_are_one_answer_when_aligned(tokenizer: Tokenizer) -> None:
    asked = Asked(tokenizer, "The Normanni came")
    asked.say(1, 1, 3.0, 3.0)
    asked.say(2, 2, 4.0, 4.0)
    options = DecodeOptions(max_answer_length=1, top_k=9, align_to_words=True)
    best_only = asked.predict(options)
    summed = asked.predict(replace(options, rules=Rules.PIPELINE))
    assert texts(best_only) == texts(summed) == ["Normanni", "The", "came"]
    assert best_only.answers[0].score == pytest.approx(asked.probability(2, 2))
    both = asked.probability(1, 1) + asked.probability(2, 2)
    assert summed.answers[0].score == pytest.approx(both)


def test_the_pipeline_looks_at_top_k_spans_of_a_window(tokenizer: Tokenizer) -> None:
    # As Transformers did: with a top_k of 2 the other "Norse", the third span, is not looked at.
    asked = Asked(tokenizer, "Norse and Norse")
    for token, logit in ((0, 3.0), (1, 2.0), (2, 1.0)):
        asked.say(token, token, logit, logit)
    first, third = asked.probability(0, 0), asked.probability(2, 2)
    options = DecodeOptions(rules=Rules.PIPELINE, max_answer_length=1)
    for top_k, expected in ((1, first), (2, first), (3, first + third)):
        answers = asked.predict(replace(options, top_k=top_k)).answers
        assert answers[0].score == pytest.approx(expected)
    # Aligned to words more spans are looked at, since some fall together.
    aligned = asked.predict(replace(options, align_to_words=True))
    assert aligned.answers[0].score == pytest.approx(first + third)
