"""Engines of a cluster, asked like one server: for `electra-qa answer --ray`."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from types import TracebackType
from typing import Any, Self, Unpack

import ray
from ray.exceptions import RayActorError, RayTaskError

from electra_qa.model_options import ModelChoice
from electra_qa.rpc import electra_qa_pb2 as pb

from ..errors import ElectraQAError, UnavailableError
from ..messages import Options, Outcome
from .engines import Engine, EngineChoice, share

# Questions that an actor gets at a time, and how many times that it may have: one that it works
# on, and one for when that is done.
CHUNK = 256
CHUNKS_OF_ACTOR = 2
# How long an actor may be away while no other takes its questions, in seconds.
AWAY_S = 600.0
PAUSE_S = 0.5


@contextmanager
def on_cluster(
    address: str | None, choice: ModelChoice, device: str, actors: int | None, cpus: int | None
) -> Iterator[Pool]:
    """address: None for the cluster that Ray finds, else one of this machine's own.

    Raises UnavailableError where there is none at the address.
    """
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    except ConnectionError as error:
        raise UnavailableError(f"no Ray cluster at {address}: {error}") from None
    try:
        divided = share(device)
        chosen = EngineChoice(choice, device, cpus or divided.cpus)
        with Pool(chosen, actors or divided.actors) as pool:
            yield pool
    finally:
        ray.shutdown()


class Pool:
    """Actors with an engine each. What one that dies had is asked of the others, and Ray brings it
    back where it finds room."""

    def __init__(self, choice: EngineChoice, actors: int) -> None:
        make = ray.remote(Engine).options(**choice.remote_options, max_restarts=-1)
        self._actors: list[Any] = [make.remote(choice) for _ in range(actors)]
        self._next = cycle(self._actors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for actor in self._actors:
            ray.kill(actor)

    def info(self) -> pb.GetInfoResponse:
        """Of the first one that is up."""
        response: pb.GetInfoResponse = self._got(next(self._next).info.remote())
        return response

    def answer_many(
        self,
        questions: Iterable[tuple[str, str]],
        *,
        timeout: float | None = None,  # noqa: ARG002
        **options: Unpack[Options],
    ) -> Iterator[Outcome]:
        """See `Client.answer_many`; a call has no timeout."""
        pending: deque[tuple[Sequence[tuple[str, str]], Any]] = deque()
        for chunk in _chunks(questions):
            if len(pending) == len(self._actors) * CHUNKS_OF_ACTOR:
                yield from self._outcomes(*pending.popleft(), options)
            pending.append((chunk, self._ask(chunk, options)))
        while pending:
            yield from self._outcomes(*pending.popleft(), options)

    def _ask(self, chunk: Sequence[tuple[str, str]], options: Options) -> Any:
        return next(self._next).outcomes.remote(chunk, options)

    def _outcomes(
        self, chunk: Sequence[tuple[str, str]], asked: Any, options: Options
    ) -> Sequence[Outcome]:
        give_up = time.monotonic() + AWAY_S
        while True:
            try:
                outcomes: Sequence[Outcome] = self._got(asked)
                return outcomes
            except UnavailableError:
                if time.monotonic() > give_up:
                    raise
            time.sleep(PAUSE_S)
            asked = self._ask(chunk, options)

    def _got(self, asked: Any) -> Any:
        """Raises the actor's own ElectraQAError, and UnavailableError where it is gone."""
        try:
            return ray.get(asked)
        except RayTaskError as error:
            if isinstance(error.cause, ElectraQAError):
                raise error.cause from None
            raise
        except RayActorError as error:
            raise UnavailableError(f"an actor is gone: {error}") from None


def _chunks(questions: Iterable[tuple[str, str]]) -> Iterator[Sequence[tuple[str, str]]]:
    following = iter(questions)
    while chunk := list(islice(following, CHUNK)):
        yield chunk
