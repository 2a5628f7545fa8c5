"""What is asked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from electra_qa.benchmarks.workload import (
    QUESTION_TOKENS,
    Lognormal,
    Weighted,
    Workload,
    WorkloadError,
    made_up_workload,
    parse_lengths,
    read_workload,
    serialized_requests,
)
from electra_qa.bundle import TOKENIZER, default_bundle_path
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.squad import SquadError
from electra_qa.tokenization import Tokenizer

BUNDLE = default_bundle_path()


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("180", Weighted((180,), (1.0,))),
        ("64:3,384:1", Weighted((64, 384), (3.0, 1.0))),
        ("64,384:0.5", Weighted((64, 384), (1.0, 0.5))),
        ("lognormal:164,0.39", Lognormal(164.0, 0.39)),
    ],
)
def test_lengths_are_said_in_three_ways(text: str, lengths: Lognormal | Weighted) -> None:
    assert parse_lengths(text) == lengths


@pytest.mark.parametrize(
    "text",
    [
        *("", "many", "0", "-5", "64:0", "64:-1", "64:nan", "64:", "1.5", "64,,384"),
        *("lognormal:", "lognormal:164", "lognormal:0,1", "lognormal:164,-1", "lognormal:nan,1"),
    ],
)
def test_what_is_no_length_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text!r}"):
        parse_lengths(text)


def test_lengths_are_drawn_as_they_are_said() -> None:
    rng = np.random.default_rng(0)
    weighted = parse_lengths("64:3,384:1").draw(10_000, rng)
    assert set(weighted.tolist()) == {64, 384}
    assert (weighted == 64).mean() == pytest.approx(0.75, abs=0.02)
    drawn = parse_lengths("lognormal:164,0.39").draw(10_000, rng)
    assert drawn.mean() == pytest.approx(164, rel=0.02)
    assert np.log(drawn).std() == pytest.approx(0.39, rel=0.03)
    assert parse_lengths("lognormal:1,3").draw(1000, rng).min() == 1


def test_made_up_contexts_have_the_tokens_that_were_asked_for() -> None:
    tokenizer = Tokenizer((BUNDLE / TOKENIZER).read_text(encoding="utf-8"))
    workload = made_up_workload("1:1,37:1,512:1", 300, BUNDLE, seed=3)
    lengths = [len(tokenizer.context(context).ids) for _, context in workload.pairs]
    assert set(lengths) == {1, 37, 512}
    questions = {len(tokenizer.question(question)) for question, _ in workload.pairs}
    assert questions == {QUESTION_TOKENS}
    assert len({context for _, context in workload.pairs if " " in context}) > 150


def test_the_seed_makes_the_questions() -> None:
    first, again, other = (made_up_workload("20", 50, BUNDLE, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.pairs != other.pairs
    assert (first.name, first.sha256) == ("made up, 20", None)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WorkloadError, match=r"tokenizer\.json can't be read"):
        made_up_workload("20", 1, tmp_path, seed=0)


def test_a_squad_file_is_named_by_its_sum(small: Path, tmp_path: Path) -> None:
    workload = read_workload(small)
    assert (workload.name, len(workload.pairs)) == ("small.json", 12)
    assert workload.sha256 == hashlib.sha256(small.read_bytes()).hexdigest()
    assert read_workload(small, 5).pairs == workload.pairs[:5]
    empty = tmp_path / "empty.json"
    empty.write_text(json.dumps({"data": []}))
    with pytest.raises(WorkloadError, match=r"empty\.json holds no questions"):
        read_workload(empty)
    with pytest.raises(SquadError):
        read_workload(tmp_path / "none.json")


PAIRS = [(f"question {n}?", f"context {n // 4}") for n in range(10)]
WORKLOAD = Workload(PAIRS, "a test", None)


def test_requests_of_one_question_are_in_an_order_drawn_by_the_seed() -> None:
    orders = []
    for seed in (0, 0, 1):
        raw = serialized_requests(WORKLOAD, "unary", 1, np.random.default_rng(seed))
        requests = [pb.AnswerRequest.FromString(message) for message in raw]
        orders.append([(request.question, request.context) for request in requests])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(PAIRS)
    assert orders[0] != PAIRS


def test_a_batch_has_neighbours_and_each_context_once() -> None:
    raw = serialized_requests(WORKLOAD, "batch", 4, np.random.default_rng(0))
    batches = []
    for message in raw:
        request = pb.AnswerBatchRequest.FromString(message)
        assert len(set(request.contexts)) == len(request.contexts)
        batches.append([(q.question, request.contexts[q.context_index]) for q in request.questions])
    expected = [PAIRS[:4], PAIRS[4:8], PAIRS[8:] + PAIRS[:2]]
    assert sorted(batches) == sorted(expected)
    assert len(pb.AnswerBatchRequest.FromString(raw[batches.index(PAIRS[:4])]).contexts) == 1


def test_a_message_of_a_stream_takes_its_id_by_being_put_behind_it() -> None:
    raw = serialized_requests(WORKLOAD, "stream", 1, np.random.default_rng(0))[0]
    id_ = pb.AnswerStreamRequest(id="7").SerializeToString()
    message = pb.AnswerStreamRequest.FromString(id_ + raw)
    assert message.id == "7"
    assert (message.request.question, message.request.context) in PAIRS
