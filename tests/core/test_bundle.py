from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from electra_qa.bundle import (
    FORMAT,
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Bundle,
    BundleError,
    Manifest,
    begin_bundle,
    load_bundle,
    seal_bundle,
    write_bundle,
)
from electra_qa.windows import WindowSettings

FILES = {"model.fp32.onnx": b"a graph, for all that a bundle knows", "tokenizer.json": b"{}"}
VALUES = Manifest(
    format=FORMAT,
    source="tiny",
    source_sha256="0" * 64,
    architecture={"model_type": "electra"},
    precision="fp32",
    opset=20,
    max_seq_length=384,
    doc_stride=128,
    max_query_length=64,
    max_answer_length=30,
    null_score_diff_threshold=-1.5,
    n_best_size=20,
    max_seq_length_limit=512,
    max_answer_length_limit=64,
    cls_token="[CLS]",
    sep_token="[SEP]",
    pad_token="[PAD]",
    unk_token="[UNK]",
    separators=1,
    calibration=None,
    metrics={"exact": 58.014},
    files={},
)


@pytest.fixture
def small(tmp_path: Path) -> Bundle:
    """A bundle of a few bytes."""
    return write_bundle(tmp_path / "bundle", VALUES, FILES)


def edit_manifest(bundle: Bundle, **changes: Any) -> None:
    """Set fields of the manifest on disk; those set to `...` are dropped."""
    path = bundle.path / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8")) | changes
    kept = {name: value for name, value in content.items() if value is not ...}
    path.write_text(json.dumps(kept), encoding="utf-8")


def test_what_is_written_is_what_is_read(small: Bundle) -> None:
    loaded = load_bundle(small.path)
    assert loaded == small
    assert dataclasses.replace(loaded.manifest, files={}) == VALUES
    assert loaded.manifest.files.keys() == FILES.keys()
    assert loaded.graph_path.read_bytes() == FILES["model.fp32.onnx"]
    assert loaded.tokenizer_path.read_bytes() == FILES["tokenizer.json"]
    assert loaded.manifest.window_settings == WindowSettings(384, 128, 64)


def test_the_same_content_has_the_same_sum_wherever_it_lies(small: Bundle, tmp_path: Path) -> None:
    assert write_bundle(tmp_path / "other" / "place", VALUES, FILES).sha256 == small.sha256


@pytest.mark.parametrize("change", [{"source": "other"}, {"metrics": None}, {"doc_stride": 127}])
def test_another_manifest_has_another_sum(
    small: Bundle, tmp_path: Path, change: dict[str, Any]
) -> None:
    changed = dataclasses.replace(VALUES, **change)
    assert write_bundle(tmp_path / "changed", changed, FILES).sha256 != small.sha256


def test_what_is_already_written_is_sealed(small: Bundle) -> None:
    begin_bundle(small.path)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        load_bundle(small.path)
    (small.path / "model.fp32.onnx.data").write_bytes(b"weights")
    sealed = seal_bundle(small.path, VALUES, [*FILES, "model.fp32.onnx.data"])
    assert sealed.manifest.files == small.manifest.files | {
        "model.fp32.onnx.data": hashlib.sha256(b"weights").hexdigest()
    }
    assert small.graph_sha256 == small.manifest.files["model.fp32.onnx"]
    assert sealed.graph_sha256 not in (small.graph_sha256, *sealed.manifest.files.values())


def test_writing_over_a_bundle_replaces_it(small: Bundle) -> None:
    write_bundle(small.path, VALUES, {**FILES, "tokenizer.json": b"[]"})
    loaded = load_bundle(small.path)
    assert loaded.tokenizer_path.read_bytes() == b"[]"
    assert loaded.sha256 != small.sha256


def test_a_write_that_fails_leaves_no_bundle_behind(small: Bundle) -> None:
    # Else the old manifest would stand beside some of the new files.
    small.tokenizer_path.unlink()
    small.tokenizer_path.mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        write_bundle(small.path, VALUES, FILES)
    with pytest.raises(BundleError, match=f"{MANIFEST}: No such file"):
        load_bundle(small.path)


def test_the_bundle_of_a_build_loads(bundle: Bundle) -> None:
    assert load_bundle(bundle.path) == bundle


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_every_byte_of_damage_is_found(small: Bundle, name: str, flip: int) -> None:
    path = small.path / name
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= flip
        path.write_bytes(damaged)
        with pytest.raises(BundleError, match=f"{name} is damaged"):
            load_bundle(small.path)


@pytest.mark.parametrize("flip", [0x01, 0x80])
def test_a_manifest_with_another_byte_is_refused_or_has_another_sum(
    small: Bundle, flip: int
) -> None:
    path = small.path / MANIFEST
    content = path.read_bytes()
    for index in range(len(content)):
        damaged = bytearray(content)
        damaged[index] ^= flip
        path.write_bytes(damaged)
        with contextlib.suppress(BundleError):
            assert load_bundle(small.path).sha256 != small.sha256


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"a graph, for all"])
def test_a_file_that_is_cut_short_is_found(small: Bundle, name: str, content: bytes) -> None:
    (small.path / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} is damaged"):
        load_bundle(small.path)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
def test_a_missing_file_is_named(small: Bundle, name: str) -> None:
    (small.path / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: No such file"):
        load_bundle(small.path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=f"no bundle at {tmp_path}/nowhere"):
        load_bundle(tmp_path / "nowhere")


@pytest.mark.parametrize("name", FILES)
def test_a_manifest_must_vouch_for_graph_and_tokenizer(small: Bundle, name: str) -> None:
    sums = dict(small.manifest.files)
    del sums[name]
    edit_manifest(small, files=sums)
    with pytest.raises(BundleError, match=f"names no {name}"):
        load_bundle(small.path)


@pytest.mark.parametrize("name", ["../{}", "{}/", "./{}", "/etc/{}", "a/../{}", "", ".", ".."])
def test_a_file_name_never_leaves_the_folder(small: Bundle, name: str) -> None:
    # The sum is right and the file is there: only its name is at fault.
    name = name.format("secret")
    (small.path.parent / "secret").write_bytes(FILES["tokenizer.json"])
    (small.path / "secret").write_bytes(FILES["tokenizer.json"])
    edit_manifest(
        small, files=small.manifest.files | {name: small.manifest.files["tokenizer.json"]}
    )
    with pytest.raises(BundleError, match="which is not a file's name"):
        load_bundle(small.path)


@pytest.mark.parametrize("name", ["tokenizer\0.json", "\ud800"])
def test_a_name_that_no_file_can_have_is_refused(small: Bundle, name: str) -> None:
    edit_manifest(small, files=small.manifest.files | {name: "0" * 64})
    with pytest.raises(BundleError):
        load_bundle(small.path)


def test_how_it_was_quantized_may_be_unknown(small: Bundle) -> None:
    edit_manifest(small, quantization=...)
    assert load_bundle(small.path).manifest.quantization is None


@pytest.mark.parametrize(
    "name", [f.name for f in dataclasses.fields(Manifest) if f.name != "quantization"]
)
def test_a_missing_field_is_named(small: Bundle, name: str) -> None:
    edit_manifest(small, **{name: ...})
    with pytest.raises(BundleError, match=rf"manifest.json .*\b{name}\b"):
        load_bundle(small.path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", None),
        ("architecture", []),
        ("precision", 32),
        ("opset", "20"),
        ("max_seq_length", 384.0),
        ("max_seq_length", True),
        ("max_seq_length", None),
        ("null_score_diff_threshold", "0"),
        ("null_score_diff_threshold", False),
        ("cls_token", 1),
        ("calibration", 5),
        ("metrics", "58"),
        ("files", ["model.fp32.onnx"]),
    ],
)
def test_a_value_of_the_wrong_type_is_named(small: Bundle, name: str, value: Any) -> None:
    edit_manifest(small, **{name: value})
    with pytest.raises(BundleError, match=f"{name} has a value of the wrong type"):
        load_bundle(small.path)


@pytest.mark.parametrize("value", [5, None])
def test_a_sum_that_is_no_text_is_refused(small: Bundle, value: Any) -> None:
    edit_manifest(small, files=small.manifest.files | {"tokenizer.json": value})
    with pytest.raises(BundleError, match="files"):
        load_bundle(small.path)


def test_a_whole_number_is_a_number(small: Bundle) -> None:
    edit_manifest(small, null_score_diff_threshold=-2)
    assert load_bundle(small.path).manifest.null_score_diff_threshold == -2


def test_an_unknown_field_is_named(small: Bundle) -> None:
    edit_manifest(small, zeal=1)
    with pytest.raises(BundleError, match="unknown field: zeal"):
        load_bundle(small.path)


@pytest.mark.parametrize("value", [0, 1, FORMAT + 1, "2", None, True])
def test_another_format_is_refused(small: Bundle, value: Any) -> None:
    edit_manifest(small, format=value)
    with pytest.raises(BundleError, match="format"):
        load_bundle(small.path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "no JSON object"),
        (b"\xff\xfe", "not UTF-8"),
        pytest.param(
            b"[" * 200_000,
            "not JSON",
            id="nested",
        ),
    ],
)
def test_a_manifest_that_is_none_is_refused(small: Bundle, content: bytes, message: str) -> None:
    (small.path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match=f"{MANIFEST}.*{message}"):
        load_bundle(small.path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "int9"),
        ("null_score_diff_threshold", float("nan")),
        ("n_best_size", -1),
        ("max_answer_length", 10_000),
        ("max_seq_length", 0),
        ("max_seq_length", 10_000),
        ("max_query_length", 400),
        ("doc_stride", 0),
        ("doc_stride", 10**12),
        ("n_best_size", 10**12),
        ("opset", -1),
        ("max_seq_length_limit", 10**12),
        ("max_answer_length_limit", 10**12),
        ("null_score_diff_threshold", 10**400),
    ],
)
def test_a_value_that_can_not_be_served_is_named(small: Bundle, name: str, value: Any) -> None:
    edit_manifest(small, **{name: value})
    with pytest.raises(BundleError, match=r"manifest.json: .*(doc_stride|max_seq|" + name + ")"):
        load_bundle(small.path)


@pytest.mark.parametrize("field", ["source", "calibration"])
def test_a_text_that_is_not_unicode_is_refused(small: Bundle, field: str) -> None:
    # No message could carry it.
    edit_manifest(small, **{field: "\ud800"})
    with pytest.raises(BundleError, match="not Unicode"):
        load_bundle(small.path)


def test_a_manifest_has_a_size_that_it_may_have(small: Bundle) -> None:
    with (small.path / MANIFEST).open("ab") as file:
        file.write(b" " * MAX_MANIFEST_BYTES)
    with pytest.raises(BundleError, match=f"{MANIFEST}: Larger than"):
        load_bundle(small.path)


@pytest.mark.parametrize("name", [MANIFEST, *FILES])
@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_what_is_no_regular_file_is_refused_at_once(small: Bundle, name: str, kind: str) -> None:
    path = small.path / name
    path.unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            listener.bind(str(path))
        with pytest.raises(BundleError, match=rf"{name}: (Not a regular file|No such device)"):
            load_bundle(small.path)


def test_what_is_used_is_what_was_checked(small: Bundle) -> None:
    assert small.read_tokenizer() == "{}"
    small.tokenizer_path.write_bytes(b"[]")
    with pytest.raises(BundleError, match=r"tokenizer.json is damaged"):
        small.read_tokenizer()
    small.tokenizer_path.unlink()
    with pytest.raises(BundleError, match=r"tokenizer.json: No such file"):
        small.read_tokenizer()


def test_a_file_that_another_takes_the_place_of_is_noticed(small: Bundle, tmp_path: Path) -> None:
    small.check_unchanged(FILES)
    other = tmp_path / "other"
    other.write_bytes(FILES["tokenizer.json"])
    other.replace(small.tokenizer_path)
    with pytest.raises(BundleError, match=r"tokenizer.json changed while"):
        small.check_unchanged(FILES)


def test_a_bundle_is_written_in_its_folder_only(small: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="plain names"):
        write_bundle(tmp_path / "new", small.manifest, {"../escaped": b""})
    assert not (tmp_path / "escaped").exists()
