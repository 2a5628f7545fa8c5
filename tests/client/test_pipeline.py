"""The calls that Transformers' pipeline took up to 5.2, and the shape of what it gave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
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


@pytest.mark.parametrize("blank", [" ", "\n\t ", "\u200b"])
def test_a_blank_context_has_no_answers_and_the_others_have_theirs(
    qa: QuestionAnsweringPipeline, blank: str
) -> None:
    """As of Transformers 5.2, which gives the empty text at score 1 where it may."""
    contexts = [ROME] * 5 + [blank] + [ROME] * 6
    results = qa(question=[WHO] * 12, context=contexts)
    assert results[5] == []
    assert [one["answer"] for one in results if one] == ["Romulus"] * 11
    none = {"score": 1.0, "start": 0, "end": 0, "answer": ""}
    assert qa(question=WHO, context=blank, handle_impossible_answer=True) == none
    assert qa(question=WHO, context=blank, top_k=3) == []
    assert list(qa(one for one in [{"question": WHO, "context": ""}])) == [[]]


@pytest.mark.parametrize(
    ("question", "context", "message"),
    [
        (" ", ROME, r"^inputs\[2\]: question is blank$"),
        (WHO, "", r"^inputs\[2\]: `context` cannot be empty$"),
        (WHO, None, r"^inputs\[2\]: `context` cannot be None$"),
        (WHO, "\ud800", r"^inputs\[2\]: ?context has a lone surrogate"),
        (WHO, 5, r"^inputs\[2\]: ?context must be a str, got int"),
        (WHO, "x" * 200_001, r"^inputs\[2\]: context must be at most 200000 characters"),
    ],
)
def test_of_several_the_one_that_fails_is_named(
    qa: QuestionAnsweringPipeline, question: str, context: Any, message: str
) -> None:
    good = {"question": WHO, "context": ROME}
    with pytest.raises(ValueError, match=message):
        qa([good, good, {"question": question, "context": context}, good])
    alone = message.replace(r"inputs\[2\]: ?", "").replace(r"inputs\[2\]: ", "")
    with pytest.raises(ValueError, match=alone):
        qa({"question": question, "context": context})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"doc_stride": 380},
            r"^doc_stride must be under \d+, the context tokens in a window, got 3",
        ),
        ({"max_seq_len": 10_000}, r"^max_seq_len must be"),
    ],
)
def test_errors_have_the_names_of_the_call(
    qa: QuestionAnsweringPipeline, kwargs: Any, message: str
) -> None:
    with pytest.raises(InvalidArgumentError, match=message):
        qa(question=WHO, context=ROME, **kwargs)


def test_what_means_nothing_is_taken_with_one_warning(qa: QuestionAnsweringPipeline) -> None:
    with pytest.warns() as warned:
        answer = qa(question=WHO, context=ROME, padding="max_length", num_workers=2)
    assert answer == qa(question=WHO, context=ROME)
    assert [str(one.message) for one in warned] == [
        "num_workers, padding: taken as Transformers did, but it changes nothing here"
    ]
    assert warned[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_none_is_as_good_as_not_given(qa: QuestionAnsweringPipeline) -> None:
    assert qa(question=WHO, context=ROME, top_k=None, padding=None)["answer"] == "Romulus"


@dataclass
class SquadExample:
    """As much of Transformers' as the pipeline read."""

    question_text: str
    context_text: str


def test_old_names_are_taken_and_said_to_be_old(qa: QuestionAnsweringPipeline) -> None:
    with pytest.warns(FutureWarning, match="use top_k"):
        assert len(qa(question=WHO, context=ROME, topk=3)) == 3
    item = {"question": WHO, "context": ROME}
    for kwargs in ({"data": item}, {"X": [item]}, {"data": SquadExample(WHO, ROME)}):
        with pytest.warns(FutureWarning, match="use question and context"):
            assert qa(**kwargs)["answer"] == "Romulus"
    assert qa([SquadExample(WHO, ROME)] * 2)[1]["answer"] == "Romulus"


def test_an_unknown_name_is_refused_with_the_nearest(qa: QuestionAnsweringPipeline) -> None:
    with pytest.raises(TypeError, match=r"argument 'tokp_k'; did you mean top_k\?"):
        qa(question=WHO, context=ROME, tokp_k=2)
    with pytest.raises(TypeError, match=r"argument 'tokeniser'; did you mean tokenizer\?"):
        pipeline("question-answering", tokeniser="x")


@pytest.mark.parametrize("batch_size", [1, 5, 100_000])
def test_the_size_of_a_batch_changes_no_answer(
    qa: QuestionAnsweringPipeline, batch_size: int
) -> None:
    results = qa(question=[WHO, WHERE] * 4, context=[ROME, FLU] * 4, batch_size=batch_size)
    assert [one["answer"] for one in results] == ["Romulus", "China"] * 4


def test_what_the_pipeline_was_made_with_holds_for_its_calls(server: PrivateServer) -> None:
    with pipeline(address=server.address, top_k=3, handle_impossible_answer=True) as qa:
        assert len(qa(question=WHO, context=ROME)) == 3
        assert "" in [one["answer"] for one in qa(question="Why did it rain?", context=ROME)]
        assert set(qa(question=WHO, context=ROME, top_k=1)) == {"score", "start", "end", "answer"}
