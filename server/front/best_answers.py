"""The best answers of many documents, kept while they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from electra_qa.merge import utf8_bytes
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Answer, DecodeOptions, Rules, sigmoid

from ..errors import InvalidRequestError, RequestError
from .merging import ANSWER_BYTES, Answered
from .messages import answer_message, failure

# Of the documents that could not be read, so many are told apart, with so much of their ids.
MOST_FAILURES, LONGEST_ID = 100, 100
# Haystack's `calibration_factor`.
READER_FACTOR = 0.1


@dataclass(frozen=True, slots=True)
class Document:
    """index: its place among all documents of the call, from 0. id: the caller's own."""

    index: int
    id: str
    text: str


@dataclass(frozen=True, slots=True)
class _Found:
    """An answer of a document.

    value: what answers are ordered by; `score` is the same as a share.
    null_score_diff: its document's null score − its logits.
    """

    document: int
    id: str
    answer: Answer
    value: float
    null_score_diff: float


class BestAnswers:
    """Of one call.

    top_k: how many answers are kept. no_answer: whether it is one of the results.
    max_bytes: of the response.
    """

    def __init__(self, options: DecodeOptions, top_k: int, no_answer: bool, max_bytes: int) -> None:
        self._options = options
        self._top_k = top_k
        self._no_answer = no_answer
        self._max_bytes = max_bytes
        self._found: list[_Found] = []
        self._null_probability = 1.0
        self._documents = 0
        self._read = 0
        self._windows = 0
        self._failed = 0
        self._failures: list[pb.DocumentFailure] = []

    def came(self, documents: int) -> None:
        """So many documents came."""
        self._documents += documents

    def add(self, document: Document, answered: Answered) -> None:
        """Raises InvalidRequestError where the answers take more than a response may."""
        prediction = answered.prediction
        self._read += 1
        self._windows += answered.windows
        self._null_probability = min(self._null_probability, prediction.null_probability)
        for answer in prediction.answers:
            null_score_diff = prediction.null_score - (answer.start_logit + answer.end_logit)
            value = self._value(answer, null_score_diff)
            self._found.append(_Found(document.index, document.id, answer, value, null_score_diff))
        # Of equal ones that of the earlier document comes first.
        self._found.sort(key=lambda one: (-one.value, one.document, one.answer.start))
        del self._found[self._top_k :]
        size = sum(
            utf8_bytes(found.answer.text) + utf8_bytes(found.id) + ANSWER_BYTES
            for found in self._found
        )
        if size > self._max_bytes:
            raise InvalidRequestError(
                f"the answers hold more than {self._max_bytes} bytes (max_response_bytes): ask for "
                "fewer of them (options.top_k), or give the documents shorter ids"
            )

    def failed(self, document: Document, error: RequestError) -> None:
        self._failed += 1
        if len(self._failures) < MOST_FAILURES:
            self._failures.append(
                pb.DocumentFailure(
                    document_index=document.index,
                    document_id=document.id[:LONGEST_ID],
                    failure=failure(error),
                )
            )

    def response(self, model_version: str) -> pb.AnswerDocumentsResponse:
        found = self._found
        diff = min((one.null_score_diff for one in found), default=math.inf)
        threshold = self._options.null_score_diff_threshold
        answers = [
            pb.DocumentAnswer(
                answer=answer_message(one.answer),
                document_index=one.document,
                document_id=one.id,
                score=self._score(one.value),
                null_score_diff=one.null_score_diff,
            )
            for one in found
        ]
        if self._no_answer:
            score = self._no_answer_score()
            place = sum(answer.score >= score for answer in answers)
            answers.insert(place, pb.DocumentAnswer(score=score, null_score_diff=threshold))
        self._failures.sort(key=lambda failure: failure.document_index)
        return pb.AnswerDocumentsResponse(
            answers=answers,
            is_impossible=diff > threshold or not found,
            null_score_diff=diff,
            documents=self._documents,
            documents_read=self._read,
            windows=self._windows,
            documents_failed=self._failed,
            failures=self._failures,
            model_version=model_version,
        )

    def _value(self, answer: Answer, null_score_diff: float) -> float:
        match self._options.rules:
            case Rules.PIPELINE:
                return answer.score
            case Rules.READER:
                return answer.start_logit + answer.end_logit
        return -null_score_diff

    def _score(self, value: float) -> float:
        """See DocumentAnswer.score: two that are as good as 1 may have other values."""
        match self._options.rules:
            case Rules.PIPELINE:
                return value
            case Rules.READER:
                return sigmoid(READER_FACTOR * value)
        return sigmoid(value)

    def _no_answer_score(self) -> float:
        match self._options.rules:
            case Rules.PIPELINE:
                return self._null_probability
            case Rules.READER:
                return math.prod(1 - self._score(one.value) for one in self._found)
        return self._score(-self._options.null_score_diff_threshold)
