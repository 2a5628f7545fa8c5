"""A reader for Haystack: `ExtractiveReader`, answered by a server.

pip install 'electra-qa[haystack,server]'
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from haystack import (
    Document,
    ExtractedAnswer,
    component,
    default_from_dict,
    default_to_dict,
    logging,
)
from haystack.utils import Secret

from electra_qa.models import Precision
from electra_qa.spans import N_BEST_SIZE, sigmoid

from .client import Client
from .cutting import longest_question
from .documents import Document as Text
from .documents import DocumentAnswer
from .errors import is_nothing_to_read
from .messages import given_options
from .private import PrivateServer

log = logging.getLogger(__name__)


@component
class ElectraQAReader:
    """Finds answers to a query in Documents, with the parameters and the results of
    `TransformersExtractiveReader` (`ExtractiveReader` up to Haystack 2).

    model: a checkpoint's folder or its id on the Hugging Face hub, of which a bundle is built once;
        by default the bundle in the package. It is served by a private server, which `warm_up`
        starts, and which ends with this reader.
    address: of a server that runs already, HOST:PORT or unix:/PATH, instead.
    token: of the hub; with `address` the bearer token of the server there.
    device: "cpu" or "gpu", of the private server.
    precision: "fp32", "fp16" or "int8", of a `model`; by default "fp32", and "fp16" on a GPU.
    top_k: how many answers, beside the one that there is none.
    score_threshold: answers with a lower score are left out.
    max_seq_length, stride: of the windows, and how much two of them share, in tokens.
    max_batch_size: taken for the sake of other readers; a server batches by itself.
    answers_per_seq: how many spans of each window are looked at, 20 by default.
    no_answer: whether "no answer" is one of the results, with the probability that all others are
        wrong.
    calibration_factor: a score is 1 / (1 + exp(−calibration_factor × (start + end logit))).
    overlap_threshold: an answer is left out that shares more than this part of its characters, or
        of the other's, with a better one of the same Document; None keeps all.

    A model with segments (BERT, ELECTRA) is given them here, as it was trained;
    `TransformersExtractiveReader` leaves them out, so that its answers differ.
    """

    def __init__(
        self,
        model: Path | str | None = None,
        *,
        address: str | None = None,
        token: Secret | None = None,
        device: str = "cpu",
        precision: Precision | None = None,
        top_k: int = 20,
        score_threshold: float | None = None,
        max_seq_length: int = 384,
        stride: int = 128,
        max_batch_size: int | None = None,
        answers_per_seq: int | None = None,
        no_answer: bool = True,
        calibration_factor: float = 0.1,
        overlap_threshold: float | None = 0.01,
    ) -> None:
        if model is not None and address is not None:
            raise ValueError("model and address: set one, not both")
        self.model = None if model is None else str(model)
        self.address = address
        self.token = token
        self.device = device
        self.precision = precision
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.max_seq_length = max_seq_length
        self.stride = stride
        self.max_batch_size = max_batch_size
        self.answers_per_seq = answers_per_seq
        self.no_answer = no_answer
        self.calibration_factor = calibration_factor
        self.overlap_threshold = overlap_threshold
        self._server: PrivateServer | None = None
        self._client: Client | None = None

    def to_dict(self) -> dict[str, Any]:
        """For a pipeline that is written down."""
        return default_to_dict(
            self,
            model=self.model,
            address=self.address,
            token=self.token,
            device=self.device,
            precision=self.precision,
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            max_seq_length=self.max_seq_length,
            stride=self.stride,
            max_batch_size=self.max_batch_size,
            answers_per_seq=self.answers_per_seq,
            no_answer=self.no_answer,
            calibration_factor=self.calibration_factor,
            overlap_threshold=self.overlap_threshold,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ElectraQAReader:
        """Of what `to_dict` gave."""
        reader: ElectraQAReader = default_from_dict(cls, data)
        return reader

    def warm_up(self) -> None:
        """Start the private server, which builds the model the first time; or connect to the server
        at `address`. Raises an ElectraQAError."""
        if self._client is not None:
            return
        token = None if self.token is None else self.token.resolve_value()
        if self.address is not None:
            self._client = Client(self.address, timeout=None, token=token)
            return
        self._server = PrivateServer(
            model=self.model, precision=self.precision, token=token, device=self.device
        )
        self._client = Client(self._server.address, timeout=None)

    def close(self) -> None:
        """End the private server, if there is one."""
        if self._client is not None:
            self._client.close()
        if self._server is not None:
            self._server.close()
        self._client = self._server = None

    @component.output_types(answers=list[ExtractedAnswer])
    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        score_threshold: float | None = None,
        max_seq_length: int | None = None,
        stride: int | None = None,
        max_batch_size: int | None = None,  # noqa: ARG002  see the class
        answers_per_seq: int | None = None,
        no_answer: bool | None = None,
        overlap_threshold: float | None = None,
    ) -> dict[str, list[ExtractedAnswer]]:
        """The answers to `query`, best first. What is not given is as the reader was made.

        Documents without text are passed over. Raises an ElectraQAError where the server can't be
        asked, or refuses.
        """
        if not documents:
            return {"answers": []}
        self.warm_up()
        assert self._client is not None
        top_k = top_k or self.top_k
        max_seq_length = max_seq_length or self.max_seq_length
        score_threshold = score_threshold or self.score_threshold
        overlap_threshold = overlap_threshold or self.overlap_threshold
        read = _readable(documents, twice=overlap_threshold is None)
        result = self._client.answer_documents(
            query,
            [Text(document.content or "", document.id) for document in read],
            answers_per_document=top_k,
            **given_options(
                rules="reader",
                top_k=top_k,
                n_best_size=answers_per_seq or self.answers_per_seq or N_BEST_SIZE,
                max_seq_length=max_seq_length,
                max_answer_length=max_seq_length,
                max_query_length=longest_question(max_seq_length),
                window_overlap=stride or self.stride,
                max_overlap=overlap_threshold,
            ),
        )
        for failure in result.failures:
            if not is_nothing_to_read(failure.error):
                log.warning(
                    "Document {id} was not read: {error}", id=failure.id, error=str(failure.error)
                )
        answers = [self._answer(query, one, read[one.document]) for one in result.answers]
        if self.no_answer if no_answer is None else no_answer:
            score = math.prod(1 - answer.score for answer in answers)
            answers.append(ExtractedAnswer(query=query, score=score))
            answers.sort(key=lambda answer: -answer.score)
        if score_threshold is not None:
            answers = [answer for answer in answers if answer.score >= score_threshold]
        return {"answers": answers}

    def _answer(self, query: str, one: DocumentAnswer, document: Document) -> ExtractedAnswer:
        answer = one.answer
        assert answer is not None  # it was not asked for
        logits = answer.start_logit + answer.end_logit
        page = document.meta.get("page_number")
        meta = {}
        if isinstance(page, int):
            before = (document.content or "")[: answer.start]
            meta["answer_page_number"] = page + before.count("\f")
        return ExtractedAnswer(
            query=query,
            score=sigmoid(self.calibration_factor * logits),
            data=answer.text,
            document=document,
            document_offset=ExtractedAnswer.Span(answer.start, answer.end),
            meta=meta,
        )


def _readable(documents: list[Document], *, twice: bool) -> list[Document]:
    """Those with a text; one that comes again only where its answers may overlap."""
    read: dict[object, Document] = {}
    for index, document in enumerate(documents):
        if document.content is None:
            log.warning("Document {id} has no text, and is not read", id=document.id)
        else:
            read.setdefault((document.id, index) if twice else document.id, document)
    return list(read.values())
