"""NVIDIA's own client, unchanged, gets the answers that ours gets."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from electra_qa.bundle import Bundle
from electra_qa.client import AsyncClient, Result
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.server.lifecycle import running
from electra_qa.server.settings import ServerSettings
from electra_qa.squad import read_squad

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tritonclient") is None, reason="needs tritonclient"
)

PROGRAM = Path(__file__).with_name("tritonclient_program.py")
PAIRS = [
    ("Who founded Rome?", "Rome was founded by Romulus in 753 BC, says the legend."),
    ("Where did Zeus live?", "Zeus lived on Olympus, the highest mountain of Greece."),
    ("Where was it cold?", "In Łódź – and in 東京 – it was cold."),
] * 3


async def triton_asks(address: str, pairs: list[tuple[str, str]]) -> Any:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(PROGRAM), address),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, errors = await process.communicate(json.dumps(pairs).encode())
    assert process.returncode == 0, errors.decode()
    return json.loads(output)


async def both_ask(bundle: Bundle, pairs: list[tuple[str, str]]) -> tuple[Any, list[Result]]:
    """The same questions to one server with the real engine."""
    engine = load_engine(bundle, EngineSettings("cpu"))
    settings = ServerSettings(address="127.0.0.1:0", warm_up_lengths="none")
    try:
        async with running(bundle, engine, settings) as address, AsyncClient(address) as client:
            theirs = await triton_asks(address, pairs)
            ours = [outcome async for outcome in client.answer_many(pairs)]
    finally:
        engine.close()
    results = [outcome for outcome in ours if isinstance(outcome, Result)]
    assert len(results) == len(pairs)
    return theirs, results


def same(theirs: dict[str, Any], ours: Result) -> bool:
    """The same text at the same place with the same scores."""
    best = ours.answers[0]
    start, end, score = (
        (0, 0, ours.null_probability) if ours.is_impossible else (best.start, best.end, best.score)
    )
    return (
        (theirs["answer"], theirs["start"], theirs["end"]) == (ours.text, start, end)
        and theirs["score"] == pytest.approx(score, abs=1e-3)
        and theirs["null_score"] == pytest.approx(ours.null_score, abs=1e-2)
    )


async def test_everything_that_tritonclient_asks_for(bundle: Bundle) -> None:
    version = bundle.sha256[:12]
    report, ours = await both_ask(bundle, PAIRS)
    assert (report["live"], report["ready"], report["model_ready"]) == (True, True, [True, False])
    assert report["server"]["name"] == "electra-qa"
    assert report["model"]["versions"] == [version]
    assert [one["name"] for one in report["model"]["inputs"]] == ["question", "context"]
    assert [same(*one) for one in zip(report["answers"], ours, strict=True)] == [True] * 9
    assert {result.text for result in ours} >= {"Romulus"}
    assert list(report["best_of_three"]) == ["answer"]
    assert len(set(report["best_of_three"]["answer"])) == 3
    assert report["best_of_three"]["answer"][0] == ours[0].answers[0].text
    texts = [result.text for result in ours]
    assert [one.get("answer") for one in report["stream"]] == [
        *([text] for text in texts[:5]),
        None,
        *([text] for text in texts[5:8]),
    ]
    assert report["stream"][5] == {"error": "question is empty"}
    assert [one["answer"] for one in report["asyncio"]] == [[text] for text in texts[:5]]
    assert report["errors"] == {
        "name": ["StatusCode.NOT_FOUND", "Request for unknown model: 'bert' is not found"],
        "version": [
            "StatusCode.NOT_FOUND",
            "Request for unknown model: 'electra-qa' version '7' is not found",
        ],
        "metadata": ["StatusCode.NOT_FOUND", "Request for unknown model: 'bert' is not found"],
        "missing": [
            "StatusCode.INVALID_ARGUMENT",
            "expected 2 inputs but got 1 inputs for model 'electra-qa'. Got input(s) "
            "['question'], but missing required input(s) ['context']. "
            "Please provide all required input(s).",
        ],
        "output": [
            "StatusCode.INVALID_ARGUMENT",
            "unexpected inference output 'logits' for model 'electra-qa'",
        ],
        "parameter": [
            "StatusCode.INVALID_ARGUMENT",
            "options.top_k must be 1 to 256, got 257",
        ],
    }


async def test_the_answers_to_200_dev_questions_are_those_of_our_client(
    bundle: Bundle, squad_folder: Path
) -> None:
    questions = read_squad(squad_folder / "dev-v2.0.json")
    pairs = [(one.question, one.context) for one in questions[:: len(questions) // 200][:200]]
    report, ours = await both_ask(bundle, pairs)
    differing = [
        (pair, theirs, result)
        for pair, theirs, result in zip(pairs, report["answers"], ours, strict=True)
        if not same(theirs, result)
    ]
    assert differing == []
    assert len(report["answers"]) == 200
    assert 0 < sum(result.is_impossible for result in ours) < 200
