"""The best answers of many documents, kept while they are read."""

from __future__ import annotations

import math
from dataclasses import dataclass

from electra_qa.merge import utf8_bytes
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.spans import Answer, DecodeOptions, Rules

from .errors import InvalidRequestError, RequestError
from .merging import ANSWER_BYTES, Answered
from .messages import answer_message, failure

# Of the documents that could not be read, so many are told apart.
MOST_FAILURES = 100
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
    """An answer of a document. null_score_diff: its document's null score − its logits."""

    document: int
    id: str
    answer: Answer
    score: float
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
        self._null_score_diff = math.inf
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
        self._null_score_diff = min(self._null_score_diff, prediction.null_score_diff)
        self._null_probability = min(self._null_probability, prediction.null_probability)
        for answer in prediction.answers:
            logits = answer.start_logit + answer.end_logit
            self._found.append(
                _Found(
                    document.index,
                    document.id,
                    answer,
                    self._score(answer, prediction.null_score),
                    prediction.null_score - logits,
                )
            )
        self._found.sort(key=self._order)
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
                    document_id=document.id[:MOST_FAILURES],
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
                score=one.score,
                null_score_diff=one.null_score_diff,
            )
            for one in found
        ]
        if self._no_answer:
            score = self._no_answer_score()
            place = sum(one.score >= score for one in found)
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

    def _order(self, found: _Found) -> tuple[float, int, int]:
        """Best first; of equal ones that of the earlier document. The logits, where two scores are
        as good as 1."""
        rules = self._options.rules
        if rules is Rules.PIPELINE:
            value = found.score
        elif rules is Rules.READER:
            value = found.answer.start_logit + found.answer.end_logit
        else:
            value = -found.null_score_diff
        return -value, found.document, found.answer.start

    def _score(self, answer: Answer, null_score: float) -> float:
        """See DocumentAnswer.score."""
        logits = answer.start_logit + answer.end_logit
        match self._options.rules:
            case Rules.PIPELINE:
                return answer.score
            case Rules.READER:
                return _sigmoid(READER_FACTOR * logits)
        return _sigmoid(logits - null_score)

    def _no_answer_score(self) -> float:
        match self._options.rules:
            case Rules.PIPELINE:
                return self._null_probability
            case Rules.READER:
                return math.prod(1 - one.score for one in self._found)
        return _sigmoid(-self._options.null_score_diff_threshold)


def _sigmoid(x: float) -> float:
    """1 / (1 + exp(−x)), without overflow."""
    return 0.5 * (1 + math.tanh(0.5 * x))
