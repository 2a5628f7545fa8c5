"""The reader for Haystack, side by side with Haystack's own on one model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from electra_qa.client import InvalidArgumentError, PrivateServer

from ..checkpoints import make_checkpoint

haystack = pytest.importorskip("haystack", reason="needs haystack-ai")

from haystack import Document, ExtractedAnswer, Pipeline  # noqa: E402

from electra_qa.client.haystack import ElectraQAReader  # noqa: E402

# A text that stays as it is, and what pages of ours have besides prose.
WORDS = [
    *(Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8").split(),
    *["`top_k`,", "[it](docs/files.md),", "**5.3:**", "12,232", "don't", "café", "(`id@revision`"]
    * 20,
]
QUERIES = ["Who founded Rome?", "what is it", "How many windows does a batch have, and why so?"]
# Families without segments, which Haystack's reader leaves out.
FAMILIES = ["distilbert", "roberta"]


def documents(seed: int, count: int) -> list[Document]:
    """Texts of a few words and of several windows; one comes twice. (With one that has no text
    Haystack's reader fails.)"""
    draw = random.Random(seed)
    texts = ["\f".join(draw.choices(WORDS, k=draw.choice([3, 40, 150, 500]))) for _ in range(count)]
    made = [Document(content=text, meta={"page_number": 3}) for text in texts]
    return [*made, made[0]]


@pytest.fixture(scope="module", params=FAMILIES)
def both(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Any, ElectraQAReader]]:
    """Haystack's reader and ours, on one checkpoint with random weights."""
    theirs = pytest.importorskip(
        "haystack_integrations.components.readers.transformers",
        reason="needs transformers-haystack and accelerate",
    )
    folder = make_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    ours = ElectraQAReader(folder)
    # No device: what the machine has is not the question.
    reader = theirs.TransformersExtractiveReader(str(folder), token=None)
    yield reader, ours
    ours.close()


def rounded(answers: list[ExtractedAnswer]) -> list[tuple[Any, ...]]:
    return [
        (
            answer.data,
            answer.document and answer.document.id,
            answer.document_offset and (answer.document_offset.start, answer.document_offset.end),
            answer.meta,
            answer.query,
        )
        for answer in answers
    ]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_k": 3, "overlap_threshold": 0.5},
        {"top_k": 50, "answers_per_seq": 40, "no_answer": False},
        {"max_seq_length": 64, "stride": 16, "score_threshold": 0.3},
    ],
)
def test_answers_are_those_of_haystacks_reader(
    both: tuple[Any, ElectraQAReader], options: dict[str, Any]
) -> None:
    theirs, ours = both
    for seed, query in enumerate(QUERIES):
        texts = documents(seed, 8)
        expected = theirs.run(query, texts, **options)["answers"]
        answers = ours.run(query, texts, **options)["answers"]
        assert rounded(answers) == rounded(expected)
        assert [one.score for one in answers] == pytest.approx(
            [one.score for one in expected], abs=1e-4
        )


@pytest.fixture(scope="module")
def reader(server: PrivateServer) -> Iterator[ElectraQAReader]:
    reader = ElectraQAReader(address=server.address)
    yield reader
    reader.close()


def test_it_is_a_component_of_a_pipeline(reader: ElectraQAReader, server: PrivateServer) -> None:
    pipeline = Pipeline()
    pipeline.add_component("reader", ElectraQAReader(address=server.address, top_k=1))
    again = Pipeline.loads(pipeline.dumps(), allowed_modules=["electra_qa.client.haystack"])
    texts = [
        Document(content="Rome was founded by Romulus."),
        Document(content="It rained all week."),
    ]
    asked = {"reader": {"query": "Who founded Rome?", "documents": texts}}
    for one in (pipeline, again):
        answers = one.run(asked)["reader"]["answers"]
        assert [answer.data for answer in answers] == ["Romulus", None]
        assert answers[0].document == texts[0]
        one.get_component("reader").close()
    assert reader.run("Who founded Rome?", texts)["answers"][0] == answers[0]


def test_no_documents_have_no_answers(reader: ElectraQAReader) -> None:
    assert reader.run("who?", []) == {"answers": []}
    blank = reader.run("who?", [Document(content=""), Document(content=None)])["answers"]
    assert [(answer.data, answer.score) for answer in blank] == [(None, 1.0)]


def test_what_the_server_refuses_is_an_error(reader: ElectraQAReader) -> None:
    with pytest.raises(InvalidArgumentError, match="question is empty"):
        reader.run("", [Document(content="Rome")])
    with pytest.raises(ValueError, match="set one, not both"):
        ElectraQAReader("a-model", address="127.0.0.1:1")
