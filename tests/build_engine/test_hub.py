"""Fetching from the hub, against one on loopback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.hub import SMALL_FILES, Fetched, fetch, with_revision
from electra_qa.build_engine.weights import read_weights

from ..hub.repositories import DISTILBERT, MODELS
from ..hub.server import LIMITED, HubRepository, LoopbackHub

ID = "someone/some-model"
CONFIG = b'{"model_type": "bert"}'
SAFETENSORS = save({"tensor": np.arange(3, dtype=np.float32)})
PLAIN = {"config.json": CONFIG, "model.safetensors": SAFETENSORS, "vocab.txt": b"[PAD]\n"}


def shards(suffix: str) -> dict[str, bytes]:
    """Two, with their index."""
    stem, extension = suffix.split(".")
    names = [f"{stem}-0000{number}-of-00002.{extension}" for number in (1, 2)]
    index = {"weight_map": {f"tensor{number}": name for number, name in enumerate(names)}}
    contents = (save({f"tensor{number}": np.zeros(2, np.float32)}) for number in range(2))
    return {
        f"{suffix}.index.json": json.dumps(index).encode(),
        **dict(zip(names, contents, strict=True)),
    }


def refusal(folder_or_hub_id: str, **options: Any) -> str:
    with pytest.raises(BuildError) as caught:
        fetch(folder_or_hub_id, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "Request ID" not in message
    return message


def contents(fetched: Fetched) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in fetched.folder.iterdir()}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.hub_id)
def test_of_a_repository_what_is_read_is_fetched(
    hub: LoopbackHub, hub_repository: Callable[[str], HubRepository], model: Any
) -> None:
    repository = hub.add(hub_repository(model.hub_id))
    fetched = fetch(model.hub_id)
    commit = repository.refs["main"]
    assert (fetched.source, fetched.commit) == (model.hub_id, commit)
    unread = {".gitattributes", *model.others}
    expected = {
        name: content for name, content in repository.commits[commit].items() if name not in unread
    }
    assert contents(fetched) == expected
    assert hub.files_of(model.hub_id) == set(expected)
    assert expected.keys() <= {*SMALL_FILES, *model.weights}
    assert len(read_weights(fetched.folder)) > 10


@pytest.mark.parametrize("model", [model for model in MODELS if model.former_ids])
def test_an_id_that_has_moved_is_followed(
    hub: LoopbackHub, hub_repository: Callable[[str], HubRepository], model: Any
) -> None:
    repository = hub.add(hub_repository(model.hub_id))
    fetched = fetch(model.former_ids[0])
    assert fetched.source == model.former_ids[0]
    assert fetched.commit == repository.refs["main"]
    assert "config.json" in contents(fetched)


FORMS: list[dict[str, bytes]] = [
    {"model.safetensors": SAFETENSORS},
    shards("model.safetensors"),
    {"pytorch_model.bin": b"pickle"},
    shards("pytorch_model.bin"),
]


@pytest.mark.parametrize("best", range(len(FORMS)))
def test_one_form_of_the_weights_is_fetched_the_best(hub: LoopbackHub, best: int) -> None:
    files = {"config.json": CONFIG, "onnx/model.onnx": b"not read"}
    for form in FORMS[best:]:
        files |= form
    hub.add(HubRepository.of(ID, files))
    fetched = fetch(ID)
    assert hub.files_of(ID) == {"config.json", *FORMS[best]}
    assert contents(fetched).keys() == {"config.json", *FORMS[best]}


@pytest.fixture
def revisions(hub: LoopbackHub) -> dict[str, str]:
    """The commit of each revision of a repository: all four have other weights."""
    repository = hub.add(HubRepository.of(ID, PLAIN))
    for number, ref in enumerate(("v1.0", "a-branch", "refs/pr/3")):
        repository.add(ref, PLAIN | {"model.safetensors": save({"x": np.full(2, number)})})
    old = repository.add("gone", PLAIN | {"vocab.txt": b"old"})
    del repository.refs["gone"]
    return {**repository.refs, old: old}


def test_revisions_are_branches_tags_commits_and_pull_requests(
    hub: LoopbackHub, revisions: dict[str, str]
) -> None:
    assert fetch(ID).commit == revisions["main"]
    for revision, commit in revisions.items():
        fetched = fetch(f"{ID}@{revision}")
        assert (fetched.source, fetched.commit) == (f"{ID}@{revision}", commit)
        assert contents(fetched) == hub.repositories[ID].commits[commit]


def test_a_branch_that_moves_is_followed(hub: LoopbackHub) -> None:
    repository = hub.add(HubRepository.of(ID, PLAIN))
    before = fetch(ID)
    moved = repository.add("main", PLAIN | {"vocab.txt": b"[PAD]\n[UNK]\n"})
    after = fetch(ID)
    assert (before.commit, after.commit) == (commit_of(before), moved)
    assert contents(before)["vocab.txt"] != contents(after)["vocab.txt"]


def commit_of(fetched: Fetched) -> str:
    return fetched.folder.name


@pytest.mark.parametrize("revision", ["v9", "refs/pr/8", "0" * 40])
def test_a_revision_that_is_missing_is_named(hub: LoopbackHub, revision: str) -> None:
    hub.add(HubRepository.of(ID, PLAIN))
    assert refusal(f"{ID}@{revision}") == f"{ID} has no revision '{revision}'"


def test_missing_and_private_look_alike_and_both_are_said(hub: LoopbackHub) -> None:
    hub.add(HubRepository.of(ID, PLAIN, private=True, tokens=("hf_mine",)))
    hub.tokens.add("hf_other")
    expected = (
        "no such folder, and on the hub it is missing, misspelled or private; if it is private, "
        "log in: hf auth login"
    )
    for name in (ID, "someone/no-such-model", "no-such-model"):
        assert refusal(name) == f"{name}: {expected}"
        assert refusal(name, token="hf_other") == f"{name}: {expected}"
    assert fetch(ID, token="hf_mine").commit


def test_the_token_of_the_environment_is_used(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(HubRepository.of(ID, PLAIN, private=True, tokens=("hf_mine",)))
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    assert contents(fetch(ID)) == PLAIN
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    assert refusal(ID).startswith(f"{ID}: the hub does not take the access token; ")


def test_a_gated_repository_says_where_to_ask(hub: LoopbackHub) -> None:
    hub.add(HubRepository.of(ID, PLAIN, gated=True, tokens=("hf_mine",)))
    hub.tokens.add("hf_other")
    expected = f"{ID} is gated: ask for access at {hub.endpoint}/{ID}, then log in: hf auth login"
    assert refusal(ID) == expected
    assert refusal(ID, token="hf_other") == expected
    assert contents(fetch(ID, token="hf_mine")) == PLAIN


def test_a_token_of_few_rights_is_told_which_it_lacks(hub: LoopbackHub) -> None:
    hub.add(HubRepository.of(ID, PLAIN, gated=True, limited_tokens=("hf_fine",)))
    message = refusal(ID, token="hf_fine")
    assert message.startswith(f"{ID} was not fetched from the hub: 403 Forbidden: {LIMITED}")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (("tf_model.h5",), "has only weights for TensorFlow (tf_model.h5), which are not read "),
        (
            ("flax_model.msgpack", "rust_model.ot"),
            "has only weights for Flax and Rust (flax_model.msgpack, rust_model.ot), ",
        ),
        (("onnx/model.onnx",), "has only weights for ONNX (onnx/model.onnx), "),
        (("README.md",), "has no weights: neither model.safetensors nor pytorch_model.bin, "),
    ],
)
def test_weights_of_another_framework_are_named(
    hub: LoopbackHub, files: tuple[str, ...], message: str
) -> None:
    hub.add(HubRepository.of(ID, {"config.json": CONFIG, **dict.fromkeys(files, b"content")}))
    assert refusal(ID).startswith(f"{ID} {message}")
    assert hub.fetched == []


def test_a_repository_that_is_no_checkpoint_is_named(hub: LoopbackHub) -> None:
    hub.add(HubRepository.of(ID, {"README.md": b"# Nothing"}))
    assert refusal(ID) == f"{ID} has no config.json: it is no checkpoint of Transformers"


def test_a_shard_that_is_missing_is_named(hub: LoopbackHub) -> None:
    files = {"config.json": CONFIG, **shards("model.safetensors")}
    del files["model-00002-of-00002.safetensors"]
    hub.add(HubRepository.of(ID, files))
    expected = "model.safetensors.index.json names model-00002-of-00002.safetensors, which is not "
    assert refusal(ID).startswith(f"{ID}: {expected}")


def test_what_was_fetched_is_there_without_the_hub(
    hub: LoopbackHub, revisions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [ID, f"{ID}@v1.0", f"{ID}@refs/pr/3", f"{ID}@{revisions['a-branch']}"]
    online = [fetch(name) for name in names]
    hub.down = True
    assert [fetch(name) for name in names] == online
    unreached = refusal(f"{ID}@a-branch")  # its commit is there, that it is the branch's is not
    assert unreached.startswith(f"{ID}@a-branch: no such folder, and not fetched from the hub: ")
    assert hub.endpoint in unreached
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert [fetch(name) for name in names] == online
    assert refusal(f"{ID}@a-branch").endswith(
        "not fetched from the hub: HF_HUB_OFFLINE is set, and this is not in its cache"
    )


def test_no_connection_is_said(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = "http://127.0.0.1:9"  # discard, which nobody serves
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nobody)
    message = refusal(ID)
    assert message.startswith(
        f"{ID}: no such folder, and not fetched from the hub: {nobody} does not answer ("
    )
    assert hub.fetched == []


@pytest.mark.parametrize("form", ["model.safetensors", "pytorch_model.bin"])
def test_half_a_fetch_is_none_without_the_hub(
    hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    hub.add(HubRepository.of(ID, {"config.json": CONFIG, **shards(form)}))
    fetched = fetch(ID)
    extension = form.split(".")[1]
    next(fetched.folder.glob(f"*-00002-of-00002.{extension}")).unlink()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in refusal(ID)


def test_a_full_disk_is_named(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add(HubRepository.of(ID, PLAIN))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    message = refusal(ID)
    assert message.startswith(f"{ID} was not fetched from the hub: no space left for ")
    assert message.endswith("HF_HUB_CACHE moves it")


def test_a_folder_is_taken_as_it_is(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "name@with-at"
    folder.mkdir()
    assert fetch(str(folder)) == Fetched(folder, "name@with-at", None)
    file = folder / "model.safetensors"
    file.write_bytes(SAFETENSORS)
    assert refusal(str(file)).startswith(f"{file} is a file; ")
    assert hub.fetched == []


@pytest.mark.parametrize("name", ["../x y", "a/b/c", "x y", "no--such", "/no/such/folder"])
def test_a_name_that_can_be_no_hub_id_is_named(hub: LoopbackHub, name: str) -> None:
    assert refusal(name) == f"{name}: no such folder, and not a hub id"
    assert refusal(f"{name}@v1") == f"{name}@v1: no such folder, and not a hub id"
    assert hub.fetched == []


def test_a_revision_is_put_behind_the_id(tmp_path: Path) -> None:
    assert with_revision(ID, None) == ID
    assert with_revision(ID, "refs/pr/1") == f"{ID}@refs/pr/1"
    with pytest.raises(BuildError, match=r"revision is for hub ids; .* is a folder"):
        with_revision(str(tmp_path), "v1")
    with pytest.raises(BuildError, match="names a revision already, and revision is v2"):
        with_revision(f"{ID}@v1", "v2")
    with pytest.raises(BuildError, match="names no revision behind its @"):
        fetch(f"{ID}@")


def test_a_process_of_its_own_reads_the_environment(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.add(HubRepository.of(ID, PLAIN, private=True, tokens=("hf_mine",)))
    program = f"from electra_qa.build_engine.hub import fetch; print(fetch({ID!r}).folder)"
    environment = {**os.environ, **hub.environment(tmp_path / "home"), "HF_TOKEN": "hf_mine"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).is_relative_to(tmp_path / "home")


def test_the_distilbert_of_the_pipeline_is_found_by_its_short_name(
    hub: LoopbackHub, hub_repository: Callable[[str], HubRepository]
) -> None:
    """What `pipeline("question-answering")` without a model used."""
    commit = hub.add(hub_repository(DISTILBERT)).refs["main"]
    assert fetch(f"distilbert-base-cased-distilled-squad@{commit}").commit == commit
