"""One question about many documents, by both clients."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from typing import Any

import pytest

from electra_qa.client import (
    Client,
    Document,
    DocumentsResult,
    InvalidArgumentError,
    PrivateServer,
)
from electra_qa.private import ServerProcess

from .conftest import Blocking, Make

QUESTION = "Who founded Rome?"
DOCUMENTS = [
    "Paris is the capital of France. It lies on the Seine, and was founded by the Parisii.",
    "Rome was founded by Romulus in 753 BC, says the legend. Remus, his brother, was killed.",
    "The weather was fine all week.",
    "Some say that Rome was founded by Aeneas, who came from Troy.",
]


@pytest.fixture(scope="module")
def null_server() -> Iterator[str]:
    """Answers at once, with nonsense."""
    arguments = ["--engine", "null", "--warm-up-lengths", "none", "--max-windows", "64"]
    with ServerProcess(arguments=arguments) as server:
        yield server.address


def expected(
    server: PrivateServer, rules: Any, answers_per_document: int, **options: Any
) -> list[tuple[int, str, float]]:
    """(document, text, what it is ordered by), from one question a document."""
    found = []
    with Client(server.address) as client:
        for index, text in enumerate(DOCUMENTS):
            result = client.answer(
                QUESTION, text, top_k=answers_per_document, rules=rules, **options
            )
            for answer in result.answers:
                logits = answer.start_logit + answer.end_logit
                value = {
                    "run_squad": logits - result.null_score,
                    "pipeline": answer.score,
                    "reader": logits,
                }[rules]
                found.append((index, answer.text, value))
    return sorted(found, key=lambda one: -one[2])


@pytest.mark.parametrize("rules", ["run_squad", "pipeline", "reader"])
@pytest.mark.parametrize("answers_per_document", [1, 3])
async def test_the_best_answers_over_all_documents(
    make: Make, server: PrivateServer, rules: Any, answers_per_document: int
) -> None:
    async with make(server.address) as client:
        result: DocumentsResult = await client.answer_documents(
            QUESTION,
            [Document(text, f"d{index}") for index, text in enumerate(DOCUMENTS)],
            top_k=5,
            answers_per_document=answers_per_document,
            rules=rules,
        )
    wanted = expected(server, rules, answers_per_document)[:5]
    assert [(one.document, one.text) for one in result.answers] == [one[:2] for one in wanted]
    assert [one.id for one in result.answers] == [f"d{one.document}" for one in result.answers]
    for one, (_, _, value) in zip(result.answers, wanted, strict=True):
        score = {
            "run_squad": lambda x: 1 / (1 + math.exp(-x)),
            "pipeline": lambda x: x,
            "reader": lambda x: 1 / (1 + math.exp(-0.1 * x)),
        }[rules](value)
        assert one.score == pytest.approx(score, rel=1e-5, abs=1e-9)
        assert one.answer is not None
        assert DOCUMENTS[one.document][one.answer.start : one.answer.end] == one.text
    assert (result.documents, result.documents_read, result.windows) == (4, 4, 4)
    assert result.text == result.answers[0].text == "Romulus"
    assert not result.is_impossible
    assert result.null_score_diff == min(one.null_score_diff for one in result.answers)


async def test_answers_of_a_document_do_not_overlap(make: Make, server: PrivateServer) -> None:
    async with make(server.address) as client:
        result = await client.answer_documents(
            QUESTION, DOCUMENTS, top_k=12, answers_per_document=3, max_overlap=0
        )
    assert len(result.answers) > 4
    for document in range(4):
        places = sorted(
            (one.answer.start, one.answer.end) for one in result.answers if one.document == document
        )
        assert len(places) <= 3
        assert all(one[1] <= other[0] for one, other in pairwise(places))


async def test_no_answer_is_one_of_the_results_in_its_place(
    make: Make, server: PrivateServer
) -> None:
    async with make(server.address) as client:
        told = await client.answer_documents(QUESTION, DOCUMENTS, top_k=4, no_answer=True)
        untold = await client.answer_documents(
            "Who invented the telephone?", DOCUMENTS, top_k=4, no_answer=True
        )
    for result in (told, untold):
        scores = [one.score for one in result.answers]
        assert scores == sorted(scores, reverse=True)
        (place,) = [n for n, one in enumerate(result.answers) if one.answer is None]
        assert result.is_impossible == (place == 0)
        assert len(result.answers) == 5
    assert not told.is_impossible
    assert untold.is_impossible
    assert untold.text == ""


async def test_a_document_that_cannot_be_read_fails_by_itself(
    make: Make, server: PrivateServer
) -> None:
    documents = ["", *DOCUMENTS, Document("\n \t", "blank"), "x" * 200_001]
    async with make(server.address) as client:
        result = await client.answer_documents(QUESTION, documents)
    assert result.text == "Romulus"
    assert result.answers[0].document == 2
    assert [(f.document, f.id, str(f.error)) for f in result.failures] == [
        (0, "", "context is empty"),
        (5, "blank", "context is blank"),
        (
            6,
            "",
            "context must be at most 200000 characters (max_context_length), got 200001",
        ),
    ]
    assert (result.documents, result.documents_read, result.documents_failed) == (7, 4, 3)


async def test_no_documents_hold_no_answer(make: Make, server: PrivateServer) -> None:
    async with make(server.address) as client:
        result = await client.answer_documents(QUESTION, [])
        alone = await client.answer_documents(QUESTION, iter(()), no_answer=True)
    assert (result.answers, result.is_impossible, result.text) == ((), True, "")
    assert [one.answer for one in alone.answers] == [None]


async def test_only_the_most_promising_are_read(make: Make, server: PrivateServer) -> None:
    others = [f"The train number {n} leaves at {n % 24} o'clock." for n in range(300)]
    documents = [*others[:150], *DOCUMENTS, *others[150:]]
    async with make(server.address) as client:
        result = await client.answer_documents(QUESTION, documents, read_top=2, top_k=5)
        more = await client.answer_documents(QUESTION, DOCUMENTS, read_top=99, top_k=5)
    assert (result.documents, result.documents_read) == (304, 2)
    assert sorted(one.document for one in result.answers) == [151, 153]
    assert result.text == "Romulus"
    assert more.documents_read == 4


async def test_any_number_of_documents_as_they_come(make: Make, null_server: str) -> None:
    made = 0

    def documents() -> Iterator[Document]:
        nonlocal made
        for made in range(1, 5_001):
            yield Document(f"This is the document of number {made}.", str(made))

    async def coming() -> AsyncIterator[Document]:
        for document in documents():
            yield document

    async with make(null_server) as client:
        result = await client.answer_documents(QUESTION, documents(), top_k=3)
        assert (result.documents, result.documents_read, made) == (5_000, 5_000, 5_000)
        assert [one.id for one in result.answers] == [
            str(one.document + 1) for one in result.answers
        ]
        if not isinstance(client, Blocking):
            result = await client.answer_documents(QUESTION, coming())
            assert result.documents_read == 5_000


async def test_documents_of_more_windows_than_a_call_may_have(make: Make, null_server: str) -> None:
    # Each is cut into some 40 windows, and the server takes 64 a call.
    document = "word " * 5_300
    async with make(null_server) as client:
        one = await client.answer_documents(QUESTION, [document])
        result = await client.answer_documents(QUESTION, [document] * 5)
        too_long = await client.answer_documents(QUESTION, ["word " * 20_000, document])
    assert 33 <= one.windows <= 64
    assert (result.documents_read, result.windows) == (5, 5 * one.windows)
    (failure,) = too_long.failures
    assert "max_windows" in str(failure.error)
    assert too_long.documents_read == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"question": ""}, "question is empty"),
        ({"answers_per_document": 0}, "answers_per_document must be 1 to 256 .*, got 0"),
        ({"answers_per_document": -1}, "answers_per_document"),
        ({"read_top": 0}, "read_top must be at least 1, got 0"),
        ({"top_k": 0}, "options.top_k must be 1 to 256, got 0"),
        ({"max_overlap": 1.5}, "options.max_overlap must be 0 to 1, got 1.5"),
        ({"max_overlap": math.nan}, "options.max_overlap must be 0 to 1, got nan"),
        ({"n_best_size": 5}, "options.n_best_size is of RULES_READER"),
        ({"rules": "pipeline", "every_place": True}, "options.every_place"),
        ({"documents": [7]}, "document"),
        ({"documents": "one text"}, "documents must be"),
        ({"documents": ["a \ud800"]}, "document has a lone surrogate"),
    ],
)
async def test_what_is_wrong_is_said(
    make: Make, server: PrivateServer, wrong: dict[str, Any], message: str
) -> None:
    asked = {"question": QUESTION, "documents": DOCUMENTS} | wrong
    async with make(server.address) as client:
        with pytest.raises(InvalidArgumentError, match=message):
            await client.answer_documents(**asked)


async def test_what_the_documents_raise_is_raised(make: Make, null_server: str) -> None:
    def documents() -> Iterator[str]:
        yield from DOCUMENTS
        raise LookupError("no more")

    async with make(null_server) as client:
        with pytest.raises(LookupError, match="no more"):
            await client.answer_documents(QUESTION, documents())
        assert (await client.answer_documents(QUESTION, DOCUMENTS)).documents_read == 4
