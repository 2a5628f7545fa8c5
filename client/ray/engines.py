"""An engine an actor: a private server that the actor asks, and that ends with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray

from electra_qa.model_options import ModelChoice
from electra_qa.models import ModelError
from electra_qa.private import ServerProcess, ServerProcessError
from electra_qa.rpc import electra_qa_pb2 as pb

from ..client import Client
from ..errors import PrivateServerError, UnavailableError
from ..messages import Options, Outcome


@dataclass(frozen=True, slots=True)
class Share:
    """How a cluster is divided: so many actors, with so many CPUs each."""

    actors: int
    cpus: int


def share(device: str, *, left_for_others: int = 0) -> Share:
    """One actor for each node of the smallest kind, several on larger ones; with GPUs one for each.

    left_for_others: CPUs of a node that are not taken, where it has more.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    smallest = min((n for n in cpus if n), default=1)
    own = max(1, smallest - left_for_others)
    if device == "gpu":
        return Share(max(1, sum(int(node.get("GPU", 0)) for node in nodes)), own)
    return Share(max(1, sum(n // smallest for n in cpus)), own)


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """choice: of the model; a folder has to be on every node, by the same path."""

    choice: ModelChoice
    device: str
    cpus: int

    @property
    def remote_options(self) -> dict[str, Any]:
        """What an actor asks Ray for."""
        return {"num_cpus": self.cpus, "num_gpus": 1 if self.device == "gpu" else 0}


class Engine:
    """Made inside an actor. Raises PrivateServerError where no server comes up there."""

    def __init__(self, choice: EngineChoice) -> None:
        self._choice = choice
        self._start()

    def _start(self) -> None:
        choice = self._choice
        arguments = ["--warm-up-lengths", "none", "--threads", str(choice.cpus)]
        try:
            self._server = ServerProcess(
                choice.choice.path(choice.device, progress=False),
                device=choice.device,
                arguments=arguments,
            )
        except (ModelError, ServerProcessError) as error:
            raise PrivateServerError(str(error)) from None
        # Nobody else waits for it.
        self._client = Client(self._server.address, timeout=None)

    def info(self) -> pb.GetInfoResponse:
        return self._client.info()

    def outcomes(self, questions: Sequence[tuple[str, str]], options: Options) -> list[Outcome]:
        """Of all of them, in their order. Raises an ElectraQAError."""
        try:
            return self._asked(questions, options)
        except UnavailableError:  # its server has ended: another one, once
            self.close()
            self._start()
            return self._asked(questions, options)

    def _asked(self, questions: Sequence[tuple[str, str]], options: Options) -> list[Outcome]:
        return list(self._client.answer_many(questions, timeout=math.inf, **options))

    def close(self) -> None:
        self._client.close()
        self._server.close()
