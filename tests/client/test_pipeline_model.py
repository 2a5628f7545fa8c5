"""`pipeline(model=…)`: what people wrote for Transformers, with its import line changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.bundle_cache import entries
from electra_qa.cli import main
from electra_qa.client import PrivateServer, PrivateServerError, pipeline
from electra_qa.client.pipeline_arguments import bundle_precision, server_device

from ..hub.server import HubRepository, LoopbackHub

WHO, ROME = "Who founded Rome?", "Rome was founded by Romulus in 753 BC, says the legend."


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """One cache for these tests: what one built the next finds."""
    folder = tmp_path_factory.getbasetemp() / "pipeline-model-cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(max_position_embeddings=512)


def test_the_call_of_the_card(checkpoint: Path) -> None:
    # fmt: off
    QnA_pipeline = pipeline('question-answering', model=str(checkpoint))  # noqa: N806
    answer = QnA_pipeline({
        'context': "A new strain of flu that has the potential to become a pandemic has been "
                   "identified in China by scientists.",
        'question': "What has been discovered by scientists from China ?",
    })
    # fmt: on
    QnA_pipeline.close()
    assert answer["answer"] == "A new strain of flu"
    assert (answer["start"], answer["end"]) == (0, 19)


def test_the_call_of_the_card_with_the_hub(
    hub: LoopbackHub,
    hub_repository: Callable[[str], HubRepository],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in hub.environment(tmp_path / "hub").items():
        monkeypatch.setenv(name, value)
    hub.add(hub_repository("mrm8488/electra-base-finetuned-squadv2"))
    context = "A new strain of flu that has the potential to become a pandemic has been identified."
    # fmt: off
    QnA_pipeline = pipeline('question-answering', model='mrm8488/electra-base-finetuned-squadv2')  # noqa: N806
    answer = QnA_pipeline({
        'context': context,
        'question': "What has been discovered by scientists from China ?",
    })
    # fmt: on
    QnA_pipeline.close()
    assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
    assert 0 < answer["score"] < 1
    # From then on it is there without the hub.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "mrm8488/electra-base-finetuned-squadv2"
    with pipeline("question-answering", model=name) as again:
        assert again(question=WHO, context=ROME)["answer"]


def test_a_hub_id_that_is_none_is_said(
    hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hub.environment(tmp_path / "hub").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(PrivateServerError, match=r"missing, misspelled or private.*hf auth login"):
        pipeline("question-answering", model="deepset/no-such-model")


def test_the_answers_are_those_of_the_bundle_that_it_was_built_to(
    checkpoint: Path, bundle: Bundle
) -> None:
    with pipeline(model=checkpoint) as built, pipeline(model=bundle.path) as given:
        assert built(question=WHO, context=ROME) == given(question=WHO, context=ROME)


def test_arguments_that_mean_something(tiny: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    tokenizer = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer["normalizer"]["lowercase"] = False
    (words / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.warns() as warned:
        qa = pipeline(
            "question-answering",
            str(tiny),
            tokenizer=str(words),
            torch_dtype="float16",
            device=-1,
            framework="pt",
            trust_remote_code=False,
            use_fast=True,
            batch_size=2,
            top_k=3,
        )
    with qa:
        assert len(qa(question=WHO, context=ROME)) == 3
    assert [str(one.message) for one in warned] == [
        "framework, trust_remote_code, use_fast: taken as Transformers did, but it changes "
        "nothing here"
    ]
    (made,) = [one for one in entries() if one.about and one.about.tokenizer == str(words)]
    assert made.about is not None
    assert made.about.precision == "fp16"
    served = json.loads(load_bundle(made.path / "bundle").read_tokenizer())
    assert not served["normalizer"]["lowercase"]


def test_objects_of_transformers(tiny: Path) -> None:
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    model = AutoModelForQuestionAnswering.from_pretrained(tiny)
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    with pytest.raises(TypeError, match="tokenizer must be given"):
        pipeline("question-answering", model=model)
    with (
        pipeline("question-answering", model=model, tokenizer=tokenizer) as saved,
        pipeline("question-answering", model=tiny) as named,
    ):
        expected = named(question=WHO, context=ROME)
        assert saved(question=WHO, context=ROME)["answer"] == expected["answer"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "a", "address": "b"}, ValueError, "address and model: set one, not both"),
        ({"model": "a", "bundle": "b"}, ValueError, "model and bundle: set one, not both"),
        ({"address": "a", "bundle": "b"}, ValueError, "address and bundle: set one, not both"),
        ({"revision": "main"}, ValueError, "revision is of model, and there is none"),
        ({"tokenizer": "x"}, ValueError, "tokenizer is of model, and there is none"),
        ({"precision": "fp16"}, ValueError, "dtype is of model, and there is none"),
        ({"address": "a", "device": 0}, ValueError, "device is of a private server"),
        ({"address": "a", "token": True}, TypeError, "token must be a str"),
        ({"token": "x"}, ValueError, "are for the server at address"),
        ({"model": 3}, TypeError, "model must be a folder, a hub id or an object of Tr.*, got int"),
        ({"model": "a", "modle": "b"}, TypeError, r"'modle'; did you mean model\?"),
        ({"model": "a", "top_k": 0}, ValueError, "top_k parameter should be >= 1"),
        ({"model": "/no/such/folder"}, PrivateServerError, "/no/such/folder: no such folder"),
    ],
)
def test_what_is_refused(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        pipeline("question-answering", **arguments)


class Device:
    """As much of a torch.device as is looked at."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        *((device, "cpu") for device in (None, "cpu", -1, "cpu:0", Device("cpu"))),
        *((device, "gpu") for device in (0, "cuda", "gpu", "cuda:0", Device("cuda:0"))),
    ],
)
def test_devices(device: Any, expected: str) -> None:
    assert server_device(device) == expected


def test_devices_that_there_are_none_of() -> None:
    for device in (1, "cuda:1", Device("cuda:1")):
        with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES=1 and device=0"):
            server_device(device)
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'mps'"):
        server_device("mps")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((None, None, None, {}), None),
        ((None, "auto", None, {}), None),
        ((None, "float16", None, {}), "fp16"),
        ((None, Device("torch.bfloat16"), None, {}), "fp16"),
        ((None, None, Device("torch.float32"), {}), "fp32"),
        ((None, None, None, {"dtype": "float16"}), "fp16"),
        (("int8", "auto", None, {}), "int8"),
        (("fp16", "float16", None, {}), "fp16"),
    ],
)
def test_dtypes(arguments: Any, expected: str | None) -> None:
    assert bundle_precision(*arguments) == expected


def test_dtypes_that_there_are_none_of() -> None:
    with pytest.raises(ValueError, match=r"dtype must be float32, .*, got int4"):
        bundle_precision(None, "int4", None, {})
    with pytest.raises(ValueError, match="precision and dtype ask for fp16 and int8"):
        bundle_precision("int8", "float16", None, {})


def run(*arguments: str, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


def test_commands_take_a_model(checkpoint: Path, tiny: Path) -> None:
    ask = ["ask", WHO, "--context", ROME]
    assert run(*ask, "--model", str(checkpoint)).stdout.startswith("Romulus\n")
    facts = json.loads(run("info", "--json", "--model", str(tiny), "--precision", "fp16").stdout)
    assert facts["bundle"]["source"] == tiny.name
    assert facts["bundle"]["precision"] == "fp16"
    assert "is a folder" in run(*ask, "--model", str(tiny), "--revision", "x", exit_code=1).stderr


def test_for_a_gpu_a_model_is_built_in_fp16(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not there is one."""
    monkeypatch.setenv("ELECTRA_QA_SERVE_DEVICE", "gpu")
    facts = json.loads(run("info", "--json", "--model", str(tiny)).stdout)
    assert facts["bundle"]["precision"] == "fp16"


@pytest.mark.parametrize(
    ("command", "options", "message"),
    [
        ("ask", ["--bundle", "x", "--model", "y"], "--bundle and --model: set one, not both"),
        ("ask", ["--address", "x", "--model", "y"], "--address and --model: set one, not both"),
        ("ask", ["--revision", "main"], "--revision is of --model"),
        ("serve", ["--precision", "fp16"], "--precision is of --model"),
        ("serve", ["--bundle", "x", "--model", "y"], "--bundle and --model: set one, not both"),
        ("bench", ["--qps", "1", "--address", "x", "--model", "y"], "a model or options"),
        ("playground", ["--server", "x", "--model", "y"], "--server and --model: set one, not"),
    ],
)
def test_options_that_do_not_go_together(command: str, options: list[str], message: str) -> None:
    question = [WHO, "--context", ROME] if command == "ask" else []
    assert message in run(command, *question, *options, exit_code=2).stderr


def test_a_private_server_of_a_model(tiny: Path) -> None:
    with PrivateServer(model=tiny) as server:
        facts = json.loads(run("info", "--json", "--address", server.address).stdout)
    assert facts["bundle"]["source"] == tiny.name
    with pytest.raises(ValueError, match="set one, not both"):
        PrivateServer("bundle", model="model")
