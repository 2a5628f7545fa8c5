"""What is asked of servers under load, and what the answers must be."""

from __future__ import annotations

from pathlib import Path

import grpc

from electra_qa.bundle import Bundle
from electra_qa.client import Client
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub

from .serving import server

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend. "
# Some share a context; of one window and of many.
QUESTIONS = [
    (f"Who founded Rome in {n}?", CONTEXT * (1 + n % 4) + f"Not {n // 2}.") for n in range(40)
]

# Text, start, end.
Answer = tuple[str, int, int]


def answer(response: pb.AnswerResponse) -> Answer:
    best = response.answers[0]
    return best.text, best.start, best.end


def expected(bundle: Bundle, folder: Path, *options: str) -> list[Answer]:
    """Asked one by one, of a server that does nothing else."""
    address = f"unix:{folder}/socket"
    with server(folder, "--bundle", str(bundle.path), "--address", address, *options):
        with Client(address) as client:
            client.wait_until_ready(60)
        with grpc.insecure_channel(address) as channel:
            stub = QuestionAnsweringStub(channel)
            return [
                answer(stub.Answer(pb.AnswerRequest(question=question, context=context)))
                for question, context in QUESTIONS
            ]
