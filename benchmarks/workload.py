"""What is asked: the questions of a SQuAD file, or made-up ones about contexts of given lengths."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from electra_qa.bundle import TOKENIZER
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.squad import read_squad

Mode = Literal["unary", "batch", "stream"]

# What a question about a context of the SQuAD 2.0 dev set has on average, in tokens.
QUESTION_TOKENS = 12
# The contexts of the SQuAD 2.0 dev set: 164 tokens on average, and the standard deviation of the
# logarithm of their lengths is 0.39.
SQUAD_LENGTHS = "lognormal:164,0.39"


class WorkloadError(ValueError):
    """A file or a bundle holds nothing to ask; the message says why."""


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Lengths whose logarithm is normal.

    mean: of the lengths, in tokens.
    sigma: the standard deviation of their logarithm.
    """

    mean: float
    sigma: float

    def draw(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Lengths in tokens, at least 1, [count]."""
        # The mean of exp(N(mu, sigma)) is exp(mu + sigma² / 2).
        drawn = rng.lognormal(math.log(self.mean) - self.sigma**2 / 2, self.sigma, count)
        return np.maximum(1, np.rint(drawn)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Weighted:
    """Some lengths, in tokens, each as often as its weight says."""

    lengths: tuple[int, ...]
    weights: tuple[float, ...]

    def draw(self, count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Lengths in tokens, [count]."""
        weights = np.array(self.weights)
        return rng.choice(np.array(self.lengths, dtype=np.int64), count, p=weights / weights.sum())


Lengths = Lognormal | Weighted


def parse_lengths(text: str) -> Lengths:
    """`180`, `64:3,384:1` (length:weight) or `lognormal:MEAN,SIGMA`. Raises ValueError."""
    kind, _, numbers = text.partition(":")
    try:
        if kind == "lognormal":
            mean, sigma = (float(number) for number in numbers.split(","))
            if not (1 <= mean < math.inf and 0 <= sigma < math.inf):
                raise ValueError
            return Lognormal(mean, sigma)
        pairs = [part.partition(":") for part in text.split(",")]
        lengths = tuple(int(length) for length, _, _ in pairs)
        weights = tuple(float(weight) if colon else 1.0 for _, colon, weight in pairs)
    except ValueError:
        raise ValueError(
            f"{text!r} is none of LENGTH, LENGTH:WEIGHT,… and lognormal:MEAN,SIGMA"
        ) from None
    if min(lengths) < 1 or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"{text!r}: lengths must be at least 1, and weights over 0")
    return Weighted(lengths, weights)


@dataclass(frozen=True, slots=True)
class Workload:
    """Questions to send over and over.

    pairs: question and context.
    name: of the file, or of the distribution.
    sha256: of the file; None where they are made up.
    """

    pairs: Sequence[tuple[str, str]]
    name: str
    sha256: str | None


def read_workload(path: Path, limit: int | None = None) -> Workload:
    """The first `limit` questions of a SQuAD file. Raises SquadError, or WorkloadError if none."""
    pairs = [(q.question, q.context) for q in read_squad(path)[:limit]]
    if not pairs:
        raise WorkloadError(f"{path.name} holds no questions")
    return Workload(pairs, path.name, hashlib.sha256(path.read_bytes()).hexdigest())


def made_up_workload(lengths: str, count: int, bundle: Path, seed: int) -> Workload:
    """`count` questions, each about a context of its own, in words drawn by `seed`.

    lengths: of the contexts in tokens, see `parse_lengths`. Raises ValueError.
    bundle: whose tokenizer the words are one token each for. Raises WorkloadError if it has none.
    """
    rng = np.random.default_rng(seed)
    words = np.array(_one_token_words(bundle / TOKENIZER))
    drawn = parse_lengths(lengths).draw(count, rng)
    pairs = [
        (" ".join(rng.choice(words, QUESTION_TOKENS)), " ".join(rng.choice(words, length)))
        for length in drawn
    ]
    return Workload(pairs, f"made up, {lengths}", None)


def _one_token_words(tokenizer_file: Path) -> list[str]:
    """Words of plain letters in the vocabulary, in a fixed order, that stay one token in a text."""
    try:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    except Exception as error:  # tokenizers raises bare Exception
        raise WorkloadError(f"{tokenizer_file.name} can't be read: {error}") from None
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha())
    encodings = tokenizer.encode_batch(words, add_special_tokens=False)
    return [word for word, encoding in zip(words, encodings, strict=True) if len(encoding) == 1]


def serialized_requests(
    workload: Workload, mode: Mode, batch_size: int, rng: np.random.Generator
) -> list[bytes]:
    """A message for each `batch_size` questions (1 unless `mode` is batch), in an order drawn by
    `rng`. The last batch is filled up from the beginning.

    Questions of a batch are neighbours in the file, and a context that they share is in it once. A
    message of a stream has no id yet, see `calls.stream`.
    """
    pairs = workload.pairs
    requests = [
        _message([pairs[n % len(pairs)] for n in range(first, first + batch_size)], mode)
        for first in range(0, len(pairs), batch_size)
    ]
    return [requests[n] for n in rng.permutation(len(requests))]


def _message(pairs: Sequence[tuple[str, str]], mode: Mode) -> bytes:
    if mode == "batch":
        places = {context: n for n, context in enumerate(dict.fromkeys(c for _, c in pairs))}
        return pb.AnswerBatchRequest(
            contexts=list(places),
            questions=[
                pb.BatchQuestion(question=question, context_index=places[context])
                for question, context in pairs
            ],
        ).SerializeToString()
    ((question, context),) = pairs
    request = pb.AnswerRequest(question=question, context=context)
    if mode == "stream":
        return pb.AnswerStreamRequest(request=request).SerializeToString()
    return request.SerializeToString()
