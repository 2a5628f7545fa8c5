"""From what a user calls a model to a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from electra_qa.bundle import Bundle, load_bundle
from electra_qa.cli import main
from electra_qa.models import ModelError, bundle_for

RECORDER = """#!{python}
import json, os, sys
with open({record!r}, "w") as file:
    json.dump({{"arguments": sys.argv[1:], "environment": dict(os.environ)}}, file)
print({outcome!r})
sys.exit({status})
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """In place of Python a program that notes what it was called with, and says what it is told."""

    def instead(outcome: str = '{"bundle": "x"}', status: int = 0) -> Callable[[], dict[str, Any]]:
        record, program = tmp_path / "record.json", tmp_path / "python"
        program.write_text(
            RECORDER.format(
                python=sys.executable, record=str(record), outcome=outcome, status=status
            )
        )
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        return lambda: dict(json.loads(record.read_text()))

    return instead


def test_a_bundle_is_taken_as_it_is(bundle: Bundle, cache: Path) -> None:
    assert bundle_for(bundle.path) == bundle_for(str(bundle.path), precision="fp32") == bundle.path
    assert not cache.exists()


def test_a_checkpoint_is_built_once(
    tiny_checkpoint: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = tiny_checkpoint(max_position_embeddings=512)
    capfd.readouterr()
    path = bundle_for(tiny, precision="fp16")
    assert load_bundle(path).manifest.precision == "fp16"
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == f"building a bundle of {tiny.name} (fp16) into the cache …"
    assert lines[1].startswith("done, ")
    assert len(lines) == 2
    assert bundle_for(str(tiny), precision="fp16") == path
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"revision": "main"}, "is a bundle: revision is for a checkpoint"),
        ({"tokenizer": "x"}, "is a bundle: tokenizer is for a checkpoint"),
        ({"precision": "int8"}, "is a bundle in fp32, not in int8"),
    ],
)
def test_what_a_bundle_has_no_use_for(
    bundle: Bundle, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        bundle_for(bundle.path, **arguments)


def test_what_went_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is a folder: revision is for a model of the hub"):
        bundle_for(tmp_path, revision="main")
    with pytest.raises(ModelError, match=r"^config\.json can't be read: No such file"):
        bundle_for(tmp_path, progress=False)


def test_a_build_that_dies_is_an_error(build: Callable[..., Any]) -> None:
    build("no JSON", 3)
    with pytest.raises(ModelError, match="the build ended with 3 and without a word"):
        bundle_for("some/model")


def test_a_token_is_in_the_environment_and_never_on_the_command_line(
    build: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELECTRA_QA_BUILD_DOC_STRIDE", "64")
    called = build()
    bundle_for("some/model", revision="v1", token="hf_secret", tokenizer="its/words")
    assert not [one for one in called()["arguments"] if "hf_secret" in one]
    assert {"--checkpoint=some/model@v1", "--tokenizer=its/words"} <= set(called()["arguments"])
    assert called()["environment"]["HF_TOKEN"] == "hf_secret"
    assert "ELECTRA_QA_BUILD_DOC_STRIDE" not in called()["environment"]
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    bundle_for("some/model")
    assert called()["environment"]["HF_TOKEN"] == "hf_mine"
    bundle_for("some/model", token=False, local_files_only=True)
    assert "HF_TOKEN" not in called()["environment"]
    assert called()["environment"]["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    assert called()["environment"]["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "fp32"),
        ({"device": "null"}, "fp32"),
        ({"device": "gpu"}, "fp16"),
        ({"device": "gpu", "precision": "int8"}, "int8"),
    ],
)
def test_on_a_gpu_the_default_is_fp16(
    build: Callable[..., Any], arguments: dict[str, Any], expected: str
) -> None:
    called = build()
    bundle_for("some/model", **arguments)
    assert f"--precision={expected}" in called()["arguments"]


def test_a_bundle_keeps_its_precision_on_a_gpu(bundle: Bundle) -> None:
    assert bundle_for(bundle.path, device="gpu") == bundle.path


def test_without_the_extra_it_names_the_command_that_helps(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name == "onnxscript":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without)
    expected = (
        r"some/model has to be built, which needs onnxscript: pip install 'electra-qa\[build\]'"
    )
    with pytest.raises(ModelError, match=expected):
        bundle_for("some/model")
    assert bundle_for(bundle.path) == bundle.path


def run(*arguments: str, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


def test_the_cache_is_listed_and_pruned(tiny_checkpoint: Callable[..., Path]) -> None:
    tiny = tiny_checkpoint(max_position_embeddings=512)
    assert run("cache", "list").stdout.startswith("0 bundles")
    path, other = bundle_for(tiny), bundle_for(tiny, precision="fp16")
    listed = json.loads(run("cache", "list", "--json").stdout)
    assert {(one["model"], one["precision"], one["path"]) for one in listed} == {
        (str(tiny), "fp32", str(path)),
        (str(tiny), "fp16", str(other)),
    }
    assert all(one["bytes"] > 10_000 and one["made"] and one["used"] for one in listed)
    assert "2 bundles" in run("cache", "list").stdout

    assert run("cache", "prune").stdout == "freed 0 bytes\n"
    assert run("cache", "prune", "--unused-days", "1").stdout == "freed 0 bytes\n"
    os.utime(path.parent / "about.json", (1e9, 1e9))
    would = run("cache", "prune", "--unused-days", "1", "--dry-run").stdout
    assert would.startswith(f"{tiny} (fp32): ")
    assert "would free" in would
    assert path.exists()
    # Its use makes it young again.
    assert bundle_for(tiny) == path
    assert run("cache", "prune", "--unused-days", "1").stdout == "freed 0 bytes\n"
    os.utime(path.parent / "about.json", (1e9, 1e9))
    run("cache", "prune", "--unused-days", "1")
    assert not path.exists()
    assert other.exists()

    (other / "tokenizer.json").write_text("{}")
    left = path.parent.with_name(f"{path.parent.name}.unfinished")
    left.mkdir()
    (left / "file").write_bytes(b"x" * 1000)
    said = run("cache", "prune").stdout
    assert f"{tiny} (fp16): " in said
    assert f"{left.name} (unfinished): 1.0 kB" in said
    assert not other.exists()
    assert not left.exists()
    assert run("cache", "list", "--json").stdout == "[]\n"


def test_what_is_being_built_is_not_pruned(tiny_checkpoint: Callable[..., Path]) -> None:
    path = bundle_for(tiny_checkpoint(max_position_embeddings=512))
    program = (
        "import sys; from pathlib import Path; from electra_qa.bundle_cache import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path.parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert run("cache", "prune", "--all").stdout == "freed 0 bytes\n"
    assert path.exists()
    holder.communicate("")
    run("cache", "prune", "--all")
    assert not path.exists()


def test_the_cache_needs_no_build(tmp_path: Path) -> None:
    program = (
        "import sys; from electra_qa.cli import main; import electra_qa.models;"
        "main(['cache', 'list'], standalone_mode=False);"
        "heavy = {'torch', 'onnx', 'openvino', 'huggingface_hub'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
