"""One question about many documents: what a caller gives and gets, and its way over the wire."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Answer

from .errors import ElectraQAError, InvalidArgumentError, from_failure
from .messages import Options, answer_of, check_text, options_message

# Of one message: so many documents, and characters of them.
MESSAGE_DOCUMENTS, MESSAGE_CHARACTERS = 256, 100_000


class Document(NamedTuple):
    """A text to look in. Plain texts do as well.

    id: the caller's own; it comes back with the document's answers.
    """

    text: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class DocumentAnswer:
    """An answer, and the document that it is of.

    answer: None where this one says that there is no answer; it is of no document then.
    document, id: which of the documents, from 0, and its id.
    score: what the answers are ordered by, comparable between documents: how probable the span is
        beside "no answer", 1 / (1 + exp(null_score_diff)). By other rules than `run_squad` see
        DocumentAnswer in electra_qa.proto.
    null_score_diff: the document's null score − (start + end logit of the answer).
    """

    answer: Answer | None
    document: int
    id: str
    score: float
    null_score_diff: float

    @property
    def text(self) -> str:
        return "" if self.answer is None else self.answer.text


@dataclass(frozen=True, slots=True)
class DocumentFailure:
    """A document that could not be read, and why."""

    document: int
    id: str
    error: ElectraQAError


@dataclass(frozen=True, slots=True)
class DocumentsResult:
    """What became of a question about many documents.

    answers: best first, also where is_impossible says that none is the answer.
    null_score_diff: the smallest of the answers'.
    documents, documents_read, documents_failed: how many came, were read, and could not be read.
    failures: the first 100 of those that could not.
    windows: how many the documents were cut into.
    model_version: see `Result`.
    """

    answers: tuple[DocumentAnswer, ...]
    is_impossible: bool
    null_score_diff: float
    documents: int
    documents_read: int
    documents_failed: int
    failures: tuple[DocumentFailure, ...]
    windows: int
    model_version: str

    @property
    def text(self) -> str:
        """The answer, "" where there is none."""
        if self.is_impossible:
            return ""
        return next(answer.text for answer in self.answers if answer.answer is not None)


@dataclass(frozen=True, slots=True)
class DocumentsQuestion:
    """What is asked of the documents, see `Client.answer_documents`."""

    question: str
    options: Options
    answers_per_document: int
    no_answer: bool
    read_top: int | None

    def message(self) -> pb.AnswerDocumentsRequest:
        """The first message, without documents. Raises InvalidArgumentError."""
        message = pb.AnswerDocumentsRequest(
            question=check_text("question", self.question),
            options=options_message(self.options),
            no_answer=self.no_answer,
        )
        for name in ("answers_per_document", "read_top"):
            value = getattr(self, name)
            if value is not None:
                try:
                    setattr(message, name, value)
                except (TypeError, ValueError) as error:
                    raise InvalidArgumentError(f"{name}: {error}") from error
        return message

    def messages(self, documents: Iterable[str | Document]) -> Iterator[pb.AnswerDocumentsRequest]:
        """As the documents come. Raises InvalidArgumentError for what is none."""
        packing = _Packing(self.message())
        for document in documents:
            if (full := packing.add(document)) is not None:
                yield full
        yield packing.message

    async def messages_async(
        self, documents: AsyncIterable[str | Document]
    ) -> AsyncIterator[pb.AnswerDocumentsRequest]:
        packing = _Packing(self.message())
        async for document in documents:
            if (full := packing.add(document)) is not None:
                yield full
        yield packing.message


class _Packing:
    """Documents into messages. message: the last one, when all documents are in."""

    def __init__(self, first: pb.AnswerDocumentsRequest) -> None:
        self.message = first
        self._room = MESSAGE_CHARACTERS

    def add(self, given: str | Document) -> pb.AnswerDocumentsRequest | None:
        """A message that is full, if the document does not fit into it."""
        document = _document(given)
        text = check_text("document", document.text)
        full = None
        if self.message.documents and (
            len(self.message.documents) == MESSAGE_DOCUMENTS or len(text) > self._room
        ):
            full = self.message
            self.message, self._room = pb.AnswerDocumentsRequest(), MESSAGE_CHARACTERS
        self.message.documents.add(id=check_text("document id", document.id), text=text)
        self._room -= len(text)
        return full


def check_documents(documents: object) -> None:
    """Raises InvalidArgumentError for a single text, whose characters would be the documents."""
    if isinstance(documents, str | bytes | Document):
        raise InvalidArgumentError(
            f"documents must be many texts, got a single {type(documents).__name__}"
        )


def _document(given: object) -> Document:
    """Raises InvalidArgumentError."""
    if isinstance(given, Document):
        return given
    if isinstance(given, str):
        return Document(given)
    raise InvalidArgumentError(
        f"a document must be a str or a Document, got {type(given).__name__}"
    )


def documents_result(response: pb.AnswerDocumentsResponse) -> DocumentsResult:
    return DocumentsResult(
        answers=tuple(
            DocumentAnswer(
                answer_of(one.answer) if one.HasField("answer") else None,
                one.document_index,
                one.document_id,
                one.score,
                one.null_score_diff,
            )
            for one in response.answers
        ),
        is_impossible=response.is_impossible,
        null_score_diff=response.null_score_diff,
        documents=response.documents,
        documents_read=response.documents_read,
        documents_failed=response.documents_failed,
        failures=tuple(
            DocumentFailure(one.document_index, one.document_id, from_failure(one.failure))
            for one in response.failures
        ),
        windows=response.windows,
        model_version=response.model_version,
    )
