"""Weights from the files that checkpoints have them in."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from electra_qa.build_engine.errors import BuildError
from electra_qa.build_engine.weights import read_weights

# In an order that is not that of the alphabet.
TENSORS = {
    "bert.z.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "bert.a.LayerNorm.gamma": np.array([1.5, -2.0], np.float16),
    "bert.a.LayerNorm.beta": np.array([0.25, 3.0], np.float32),
    "bert.position_ids": np.arange(4).reshape(1, 4),
    "bert.bfloat": np.array([1.0, -0.5, 3.0], ml_dtypes.bfloat16),
    "bert.double": np.array([0.1]),
    "bert.scalar": np.array(7.0, np.float32),
}
EXPECTED = {
    "bert.z.weight": TENSORS["bert.z.weight"],
    "bert.a.LayerNorm.weight": TENSORS["bert.a.LayerNorm.gamma"],
    "bert.a.LayerNorm.bias": TENSORS["bert.a.LayerNorm.beta"],
    "bert.position_ids": TENSORS["bert.position_ids"],
    "bert.bfloat": TENSORS["bert.bfloat"].astype(np.float32),
    "bert.double": TENSORS["bert.double"].astype(np.float32),
    "bert.scalar": TENSORS["bert.scalar"],
}

Tensors = dict[str, Any]


def torch_tensors(tensors: Tensors) -> dict[str, torch.Tensor]:
    return {
        name: torch.tensor(array.astype(np.float32)).bfloat16()
        if array.dtype == ml_dtypes.bfloat16
        else torch.from_numpy(array.copy())
        for name, array in tensors.items()
    }


def save_safetensors(tensors: Tensors, path: Path) -> None:
    save_file(tensors, path)


def save_pickle(tensors: Tensors, path: Path) -> None:
    torch.save(torch_tensors(tensors), path)


def save_old_pickle(tensors: Tensors, path: Path) -> None:
    """As PyTorch wrote them before 1.6."""
    torch.save(torch_tensors(tensors), path, _use_new_zipfile_serialization=False)


Save = Callable[[Tensors, Path], None]
FORMATS = {
    "safetensors": (save_safetensors, "model.safetensors"),
    "pickle": (save_pickle, "pytorch_model.bin"),
    "old pickle": (save_old_pickle, "pytorch_model.bin"),
}
of_each_format = pytest.mark.parametrize(("save", "name"), FORMATS.values(), ids=FORMATS)


def save_shards(save: Save, name: str, folder: Path) -> list[str]:
    """In three shards with an index; their names, in order."""
    stem, extension = name.split(".")
    shards = [f"{stem}-0000{number}-of-00003.{extension}" for number in (1, 2, 3)]
    names = list(TENSORS)
    weight_map = {}
    for shard, part in zip(shards, (names[:3], names[3:4], names[4:]), strict=True):
        save({tensor: TENSORS[tensor] for tensor in part}, folder / shard)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / f"{name}.index.json").write_text(json.dumps(index), encoding="utf-8")
    return shards


def assert_expected(folder: Path) -> None:
    weights = read_weights(folder)
    assert weights.keys() == EXPECTED.keys()
    for name, expected in EXPECTED.items():
        assert weights[name].dtype == expected.dtype
        np.testing.assert_array_equal(weights[name], expected)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@of_each_format
def test_weights_in_one_file(save: Save, name: str, tmp_path: Path) -> None:
    save(TENSORS, tmp_path / name)
    assert_expected(tmp_path)
    assert read_weights(tmp_path).sha256 == sha256(tmp_path / name)


@of_each_format
def test_weights_in_shards(save: Save, name: str, tmp_path: Path) -> None:
    shards = save_shards(save, name, tmp_path)
    assert_expected(tmp_path)
    sums = "".join(sha256(tmp_path / shard) for shard in shards)
    assert read_weights(tmp_path).sha256 == hashlib.sha256(sums.encode()).hexdigest()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_the_order_is_that_of_the_file(name: str, tmp_path: Path) -> None:
    save = save_pickle if name.endswith("bin") else save_safetensors
    save(TENSORS, tmp_path / name)
    names = list(read_weights(tmp_path))
    if name.endswith("bin"):
        assert names == list(EXPECTED)
    else:  # which its own writer sorts by alignment
        header = json.loads((tmp_path / name).read_bytes()[8:].split(b"}}", 1)[0] + b"}}")
        offsets = {stored: entry["data_offsets"] for stored, entry in header.items()}
        stored = sorted(offsets, key=offsets.__getitem__)
        assert names == [
            tensor.replace("gamma", "weight").replace("beta", "bias") for tensor in stored
        ]


def test_the_best_form_is_read(tmp_path: Path) -> None:
    save_pickle({"from": np.zeros(1)}, tmp_path / "pytorch_model.bin")
    save_shards(save_pickle, "pytorch_model.bin", tmp_path)
    assert list(read_weights(tmp_path)) == ["from"]
    save_shards(save_safetensors, "model.safetensors", tmp_path)
    assert_expected(tmp_path)
    save_safetensors({"of": np.zeros(1)}, tmp_path / "model.safetensors")
    assert list(read_weights(tmp_path)) == ["of"]


def test_a_tensor_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    """A damaged one is no hindrance to the others, and is not read by looking for its name."""
    save_safetensors(TENSORS, tmp_path / "model.safetensors")
    weights = read_weights(tmp_path)
    assert "bert.scalar" in weights
    assert "bert.a.LayerNorm.gamma" not in weights
    assert len(weights) == len(TENSORS)
    first, again = weights["bert.z.weight"], weights["bert.z.weight"]
    assert first is not again


def refusal(folder: Path) -> str:
    with pytest.raises(BuildError) as caught:
        read_weights(folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


class Program:
    """What an attacker puts into a pickle: loading it with `pickle` would make a file."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self._file}'",)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(
    zipped: bool, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    path = tmp_path / "pytorch_model.bin"
    content = {"bert.z.weight": torch.zeros(2), "x": Program(made)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    message = refusal(tmp_path)
    assert message.startswith("pytorch_model.bin is refused: ")
    assert message.endswith(f"loading it would call {os.system.__module__}.system")
    assert not made.exists()
    torch.load(path, weights_only=False)  # it is what it claims to be
    assert made.exists()


def test_a_pickle_in_a_shard_is_no_safer(tmp_path: Path) -> None:
    shards = save_shards(save_pickle, "pytorch_model.bin", tmp_path)
    torch.save({"x": Program(tmp_path / "made")}, tmp_path / shards[1])
    assert refusal(tmp_path).startswith(f"{shards[1]} is refused: ")
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [{"state_dict": {"x": torch.zeros(1)}}, [torch.zeros(1)], 7])
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "pytorch_model.bin")
    assert refusal(tmp_path) == "pytorch_model.bin holds no plain table of tensors (a state_dict)"


def test_without_pytorch_a_command_helps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_pickle(TENSORS, tmp_path / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    message = refusal(tmp_path)
    assert message.startswith("pytorch_model.bin is a pickle, which only PyTorch reads safely: ")
    assert "pip install torch --index-url https://download.pytorch.org/whl/cpu" in message


def test_a_pytorch_that_can_be_got_round_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_pickle(TENSORS, tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(torch, "__version__", "2.5.1+cpu")
    assert refusal(tmp_path).startswith("pytorch_model.bin is a pickle, which PyTorch 2.5.1+cpu ")


@of_each_format
@pytest.mark.parametrize("kept", [0, 3, 8, 0.5, -1])
def test_a_file_that_is_cut_short_is_named(
    save: Save, name: str, kept: float, tmp_path: Path
) -> None:
    path = tmp_path / name
    save(TENSORS, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept) if kept == 0.5 else int(kept)])
    assert refusal(tmp_path).startswith(f"{name} can't be read: ")


@of_each_format
def test_a_shard_that_is_cut_short_or_missing_is_named(
    save: Save, name: str, tmp_path: Path
) -> None:
    shards = save_shards(save, name, tmp_path)
    path = tmp_path / shards[1]
    path.write_bytes(path.read_bytes()[:-9])
    assert refusal(tmp_path).startswith(f"{shards[1]} can't be read: ")
    path.unlink()
    assert refusal(tmp_path) == f"{name}.index.json names {shards[1]}, which is not there"


@of_each_format
def test_a_tensor_that_is_not_in_its_shard_is_named(save: Save, name: str, tmp_path: Path) -> None:
    shards = save_shards(save, name, tmp_path)
    save({"other": np.zeros(1, np.float32)}, tmp_path / shards[1])
    expected = f"{shards[1]} lacks bert.position_ids, which {name}.index.json says is in it"
    assert refusal(tmp_path) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "model.safetensors.index.json is not JSON: "),
        ("[]", "model.safetensors.index.json holds no JSON object"),
        ('{"weight_map": {}}', "model.safetensors.index.json has no weight_map"),
        ('{"weight_map": {"x": 1}}', "model.safetensors.index.json: 1 is not the name of a file"),
        *(
            (
                json.dumps({"weight_map": {"x": name}}),
                f"model.safetensors.index.json: {name!r} is not the name of a file in its folder",
            )
            for name in ("../model.safetensors", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0")
        ),
    ],
)
def test_an_index_that_is_none_or_leaves_the_folder_is_refused(
    content: str, message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_safetensors({"x": np.zeros(1)}, tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    assert refusal(folder).startswith(message)


def test_names_old_and_new_of_the_same_are_refused(tmp_path: Path) -> None:
    tensors = {"x.LayerNorm.gamma": np.zeros(1), "x.LayerNorm.weight": np.zeros(1)}
    save_safetensors(tensors, tmp_path / "model.safetensors")
    assert refusal(tmp_path).startswith("the weights hold x.LayerNorm.weight twice")


def test_a_type_that_is_not_read_is_named(tmp_path: Path) -> None:
    from safetensors.torch import save_file as save_torch

    tensors = {"x": torch.zeros(2).to(torch.float8_e4m3fn)}
    save_torch(tensors, tmp_path / "model.safetensors")
    expected = "model.safetensors: x is stored as F8_E4M3, which is not read"
    assert refusal(tmp_path) == expected
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(
        BuildError, match=r"pytorch_model\.bin: x is stored as torch\.float8_e4m3fn"
    ):
        read_weights(tmp_path)["x"]


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs_is_named(name: str, tmp_path: Path) -> None:
    """What a clone without Git LFS leaves."""
    (tmp_path / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 54245363\n"
    )
    assert refusal(tmp_path) == f"{name} is only a pointer of Git LFS; fetch it: git lfs pull"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tf_model.h5"], "the checkpoint has only weights for TensorFlow (tf_model.h5), "),
        (["flax_model.msgpack"], "the checkpoint has only weights for Flax (flax_model.msgpack), "),
        ([], "the checkpoint has no weights: neither model.safetensors nor pytorch_model.bin, "),
    ],
)
def test_a_folder_without_weights_says_what_it_has(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert refusal(tmp_path).startswith(message)
