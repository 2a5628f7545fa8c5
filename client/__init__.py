"""Ask a server: one question or a million."""

from electra_qa.credentials import CredentialsError, Tls
from electra_qa.spans import Answer

from .aio import AsyncClient
from .client import Client
from .documents import Document, DocumentAnswer, DocumentFailure, DocumentsResult
from .errors import (
    ClosedError,
    DeadlineExceededError,
    ElectraQAError,
    InternalError,
    InvalidArgumentError,
    PrivateServerError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
)
from .messages import Options, Outcome, Question, Result
from .pipeline import QuestionAnsweringPipeline, pipeline
from .private import PrivateServer

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "ClosedError",
    "CredentialsError",
    "DeadlineExceededError",
    "Document",
    "DocumentAnswer",
    "DocumentFailure",
    "DocumentsResult",
    "ElectraQAError",
    "InternalError",
    "InvalidArgumentError",
    "Options",
    "Outcome",
    "PrivateServer",
    "PrivateServerError",
    "Question",
    "QuestionAnsweringPipeline",
    "ResourceExhaustedError",
    "Result",
    "Tls",
    "UnauthenticatedError",
    "UnavailableError",
    "pipeline",
]
