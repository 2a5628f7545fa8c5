"""What the tests share: the checkpoint in the repository, a bundle made from it, tiny models."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from electra_qa.bundle import Bundle
from electra_qa.tokenization import Tokenizer

from .hub.server import HubRepository, LoopbackHub, loopback_hub
from .random_weights import randomize

REPOSITORY = Path(__file__).parents[1]
SHARED = Path(__file__).parents[2] / "shared"

# No deadline: the machines that run this are shared.
hypothesis.settings.register_profile("electra-qa", deadline=None, print_blob=True)
hypothesis.settings.load_profile("electra-qa")


def _shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip("needs ../shared")
    return folder


class Authority:
    """Issues certificates as PEM files of a folder: NAME.pem with NAME.key; its own is ca.pem."""

    def __init__(self, folder: Path) -> None:
        trustme = pytest.importorskip("trustme")
        folder.mkdir()
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, *hosts: str) -> tuple[Path, Path]:
        """The certificate and its key, in place of those issued by this name before."""
        issued = self._authority.issue_cert(*(hosts or ("localhost", "127.0.0.1")))
        cert, key = self._folder / f"{name}.pem", self._folder / f"{name}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(key)
        return cert, key


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "other-authority")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    """A hub on loopback, empty, and huggingface_hub set to it, with an empty cache and no token.

    Its constants are set, since it reads the environment when it is imported; a program that is
    started has `hub.environment(folder)`.
    """
    constants = pytest.importorskip("huggingface_hub.constants")
    with loopback_hub() as hub:
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.endpoint
            + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_OFFLINE": False,
        }.items():
            monkeypatch.setattr(constants, name, value)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub


@pytest.fixture(scope="session")
def hub_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], HubRepository]:
    """Makes one of `tests/hub/repositories.py` by its hub id, once."""
    from .hub.repositories import MODELS, make_repository

    models = {model.hub_id: model for model in MODELS}
    made: dict[str, HubRepository] = {}

    def make(hub_id: str) -> HubRepository:
        if hub_id not in made:
            made[hub_id] = make_repository(models[hub_id], tmp_path_factory.mktemp("repository"))
        return made[hub_id]

    return make


@pytest.fixture(scope="session")
def squad_folder() -> Path:
    return _shared("squad")


@pytest.fixture(scope="session")
def shared_models() -> Path:
    return _shared("models")


@pytest.fixture(scope="session")
def checkpoint() -> Path:
    """The one that the default bundle is built from."""
    return REPOSITORY / "models" / "electra-minilm-squad2"


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The checkpoint in the repository as an fp32 bundle, with the settings that `build` has."""
    return _fp32_bundle(checkpoint, tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def reference_bundle(shared_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The same of the checkpoint whose answers in PyTorch are known."""
    checkpoint = shared_models / "electra-mini-squad2"
    return _fp32_bundle(checkpoint, tmp_path_factory.mktemp("reference"))


def _fp32_bundle(checkpoint: Path, output: Path) -> Bundle:
    from rich.console import Console

    from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle

    quiet = Console(file=io.StringIO())
    return build_bundle(str(checkpoint), output, BuildSettings(), BuildData(), quiet)


@pytest.fixture(scope="session")
def reference(shared_models: Path) -> dict[str, dict[str, Any]]:
    """By question id: text, start, end, best and null, see ../shared/models/README.md."""
    path = shared_models / "electra-mini-squad2" / "reference_predictions.json"
    content: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return content


@pytest.fixture
def weights_outside(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called, has graphs of any size written and read as large ones are."""

    def make() -> None:
        from electra_qa.build_engine import graph_file
        from electra_qa.engines.onnxruntime import graph

        monkeypatch.setattr(graph_file, "MOST_INSIDE", 0)
        monkeypatch.setattr(graph_file, "SMALL", 2**16)
        monkeypatch.setattr(graph, "SMALL", 2**16)

    return make


@pytest.fixture(scope="session")
def tiny_checkpoint(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Makes a question-answering checkpoint with random weights in a new folder.

    `tiny_checkpoint("bert", dtype="float16", hidden_act="relu")`: the keywords that it doesn't
    know are those of Transformers' config; with the fields of a pruned checkpoint it is one.
    """

    def make(model_type: str = "electra", *, dtype: str = "float32", **config: Any) -> Path:
        import torch
        from transformers import AutoConfig, AutoModelForQuestionAnswering

        from electra_qa.build_engine.finetune.narrowing import (
            architecture_of,
            first_ones,
            is_pruned,
            narrow,
        )

        shape: dict[str, Any] = {
            "vocab_size": 30522,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 128,
        }
        if model_type in ("electra", "albert"):
            shape["embedding_size"] = 16
        shape |= config
        if model_type == "distilbert":
            theirs = {"num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}
            theirs |= {"hidden_size": "dim", "num_hidden_layers": "n_layers"}
            theirs |= {"hidden_act": "activation"}
            shape = {theirs.get(name, name): value for name, value in shape.items()}
        model: Any = AutoModelForQuestionAnswering.from_config(
            AutoConfig.for_model(model_type, **shape)
        )
        if is_pruned(model.config):
            narrow(model, first_ones(architecture_of(model.config)))
        randomize(model)
        folder = tmp_path_factory.mktemp(f"tiny-{model_type}-", numbered=True)
        model.to(getattr(torch, dtype)).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(checkpoint / name, folder)
        return folder

    return make
