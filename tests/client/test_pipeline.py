"""The calls that Transformers' pipeline took up to 5.2, and the shape of what it gave."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from electra_qa.client import InvalidArgumentError, PrivateServer, pipeline
from electra_qa.client.pipeline import QuestionAnsweringPipeline

FLU = (
    "A new strain of flu that has the potential to become a pandemic has been identified in China."
)
ROME = "Rome was founded by Romulus in 753 BC, says the legend."
WHERE = "Where was the flu identified?"
WHO = "Who founded Rome?"


@pytest.fixture
def qa(server: PrivateServer) -> Iterator[QuestionAnsweringPipeline]:
    with pipeline("question-answering", address=server.address) as qa:
        yield qa


def test_one_question_gives_one_dict(qa: QuestionAnsweringPipeline) -> None:
    answer = qa(question=WHERE, context=FLU)
    assert set(answer) == {"score", "start", "end", "answer"}
    assert answer["answer"] == FLU[answer["start"] : answer["end"]] == "China"
    assert 0.5 < answer["score"] <= 1


@pytest.mark.parametrize(
    ("args", "kwargs", "answers"),
    [
        ((WHERE, FLU), {}, "China"),
        (({"question": WHERE, "context": FLU},), {}, "China"),
        (([{"question": WHERE, "context": FLU}],), {}, "China"),
        ((), {"question": [WHERE], "context": [FLU]}, "China"),
        ((), {"question": [WHERE, WHO], "context": [FLU, ROME]}, ["China", "Romulus"]),
        ((), {"question": [WHO, WHO], "context": ROME}, ["Romulus", "Romulus"]),
        (
            ({"question": WHERE, "context": FLU}, {"question": WHO, "context": ROME}),
            {},
            ["China", "Romulus"],
        ),
    ],
)
def test_every_form_of_call(
    qa: QuestionAnsweringPipeline, args: Any, kwargs: Any, answers: Any
) -> None:
    result = qa(*args, **kwargs)
    got = result["answer"] if isinstance(result, dict) else [one["answer"] for one in result]
    assert got == answers


def test_a_generator_is_read_as_its_answers_are(qa: QuestionAnsweringPipeline) -> None:
    answers = qa({"question": WHO, "context": ROME} for _ in range(3))
    assert [answer["answer"] for answer in answers] == ["Romulus"] * 3


def test_top_k_gives_a_list_the_best_first(qa: QuestionAnsweringPipeline) -> None:
    answers = qa(question=WHO, context=ROME, top_k=4)
    assert len(answers) == 4
    scores = [answer["score"] for answer in answers]
    assert scores == sorted(scores, reverse=True)


def test_no_answer_only_where_it_is_let_in(qa: QuestionAnsweringPipeline) -> None:
    question = "What did the emperor eat for breakfast?"
    assert qa(question=question, context=ROME)["answer"]
    none = qa(question=question, context=ROME, handle_impossible_answer=True)
    assert (none["answer"], none["start"], none["end"]) == ("", 0, 0)


def test_a_window_that_is_too_narrow_is_cut(qa: QuestionAnsweringPipeline) -> None:
    context = "It rained all day. " * 60 + ROME + " It rained all night." * 60
    answer = qa(question=WHO, context=context, max_seq_len=96, doc_stride=32, max_question_len=16)
    assert answer["answer"] == "Romulus"
    assert context[answer["start"] : answer["end"]] == "Romulus"


def test_windows_may_be_narrower_than_the_longest_question(qa: QuestionAnsweringPipeline) -> None:
    assert qa(question=WHO, context=ROME, max_seq_len=32)["answer"] == "Romulus"


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        ({"question": WHO}, ValueError),
        ({"question": WHO, "context": ""}, ValueError),
        ({"question": [WHO], "context": [ROME, FLU]}, ValueError),
        ({"question": WHO, "context": ROME, "top_k": 0}, ValueError),
        ({"question": WHO, "context": ROME, "max_answer_len": 0}, ValueError),
        ({"question": WHO, "context": ROME, "top_k": 1000}, InvalidArgumentError),
        ({"question": WHO, "context": ROME, "max_seq_len": 10_000}, InvalidArgumentError),
    ],
)
def test_bad_arguments(qa: QuestionAnsweringPipeline, kwargs: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        qa(**kwargs)


def test_missing_keys(qa: QuestionAnsweringPipeline) -> None:
    with pytest.raises(KeyError):
        qa({"question": WHO})
    with pytest.raises(ValueError, match="cannot be None"):
        qa({"question": WHO, "context": None})


def test_other_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match="question-answering"):
        pipeline("fill-mask")
    with pytest.raises(ValueError, match="not both"):
        pipeline("question-answering", address="a", bundle="b")
