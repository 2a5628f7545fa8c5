"""A checkpoint is built once, whoever asks, however often, and whatever becomes of a build."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from safetensors.numpy import load_file, save_file

from electra_qa.build_engine.build import BuildData, BuildSettings
from electra_qa.build_engine.cached import cached_bundle
from electra_qa.build_engine.errors import BuildError
from electra_qa.bundle import load_bundle
from electra_qa.bundle_cache import entries, locked, unfinished
from electra_qa.cli import main

SETTINGS = BuildSettings()
TIMEOUT_S = 120


@pytest.fixture(scope="session")
def tiny(tiny_checkpoint: Callable[..., Path]) -> Path:
    return tiny_checkpoint(max_position_embeddings=512)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "electra-qa" / "bundles"


def ask(
    checkpoint: Path, settings: BuildSettings = SETTINGS, tokenizer: Path | None = None
) -> tuple[Path, bool]:
    """The bundle, and whether it was built now."""
    said = io.StringIO()
    words = None if tokenizer is None else str(tokenizer)
    path = cached_bundle(str(checkpoint), settings, BuildData(), Console(file=said), words)
    return path, "building a bundle" in said.getvalue()


def asking(checkpoint: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "electra_qa", "build", "--cached"]
    return subprocess.Popen(
        [*command, "--checkpoint", str(checkpoint)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_what_was_built_is_found_again(tiny: Path) -> None:
    path, built = ask(tiny)
    assert built
    assert load_bundle(path).manifest.precision == "fp32"
    assert ask(tiny) == (path, False)
    (entry,) = entries()
    assert entry.path == path.parent
    assert entry.about is not None
    assert (entry.about.model, entry.about.precision) == (str(tiny), "fp32")
    assert (entry.about.revision, entry.about.commit) == (None, None)


def test_the_same_files_in_another_folder_are_the_same_checkpoint(
    tiny: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(tiny, tmp_path / "elsewhere" / tiny.name)
    assert ask(tiny)[0] == ask(copy)[0]


def other_weights(checkpoint: Path) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    weights["qa_outputs.bias"] = np.array([1, 2], np.float32)
    save_file(weights, checkpoint / "model.safetensors")


def other_config(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    (checkpoint / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-6}))


def other_tokenizer(checkpoint: Path) -> None:
    settings = {"tokenizer_class": "ElectraTokenizer", "do_lower_case": False}
    (checkpoint / "tokenizer_config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("change", [other_weights, other_config, other_tokenizer])
def test_a_checkpoint_that_changed_is_built_anew(
    tiny: Path, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    checkpoint = shutil.copytree(tiny, tmp_path / "checkpoint")
    before, _ = ask(checkpoint)
    change(checkpoint)
    after, built = ask(checkpoint)
    assert built
    assert after != before
    assert load_bundle(after).sha256 != load_bundle(before).sha256


def test_settings_have_bundles_of_their_own(tiny: Path) -> None:
    paths = {
        ask(tiny, settings)[0]
        for settings in (
            SETTINGS,
            replace(SETTINGS, precision="fp16"),
            replace(SETTINGS, doc_stride=64),
        )
    }
    assert len(paths) == 3


def test_another_tokenizer_has_a_bundle_of_its_own(tiny: Path, tmp_path: Path) -> None:
    words = tmp_path / "words"
    words.mkdir()
    shutil.copy(tiny / "tokenizer.json", words)
    other_tokenizer(words)
    path, built = ask(tiny, tokenizer=words)
    assert built
    assert not json.loads(load_bundle(path).read_tokenizer())["normalizer"]["lowercase"]
    assert path != ask(tiny)[0]
    assert ask(tiny, tokenizer=words) == (path, False)


def test_a_damaged_bundle_is_built_anew(tiny: Path) -> None:
    path, _ = ask(tiny)
    graph = load_bundle(path).graph_path
    graph.write_bytes(graph.read_bytes()[:-1])
    assert ask(tiny) == (path, True)
    load_bundle(path)


def test_several_that_ask_at_once_build_once(tiny: Path) -> None:
    processes = [asking(tiny) for _ in range(4)]
    said = [process.communicate(timeout=TIMEOUT_S) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert len({stdout for stdout, _ in said}) == 1
    assert sum("building a bundle" in stderr for _, stderr in said) == 1, said
    assert len(entries()) == 1


def test_one_waits_for_the_one_that_builds(tiny: Path) -> None:
    path, _ = ask(tiny)
    shutil.rmtree(path)
    with locked(path.parent):
        process = asking(tiny)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("another process builds this bundle")
        assert not path.exists()
    _, stderr = process.communicate(timeout=TIMEOUT_S)
    assert "building a bundle" in stderr
    load_bundle(path)


def test_a_killed_build_leaves_nothing_that_is_served_and_blocks_nobody(
    tiny: Path, cache: Path
) -> None:
    process = asking(tiny)
    give_up = time.monotonic() + TIMEOUT_S
    while not list(cache.glob("*.unfinished/bundle")):
        assert process.poll() is None
        assert time.monotonic() < give_up
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    (left,) = entries()
    assert left.is_unfinished
    path, built = ask(tiny)
    assert built
    load_bundle(path)
    assert [entry.path for entry in entries()] == [path.parent]


def test_a_build_that_fails_leaves_nothing(tiny: Path, tmp_path: Path) -> None:
    checkpoint = shutil.copytree(tiny, tmp_path / "checkpoint")
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(BuildError, match=r"model\.safetensors can't be read"):
        ask(checkpoint)
    assert entries() == []


def test_it_is_said_when_there_is_no_place_for_a_cache(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    with pytest.raises(BuildError, match="Not a directory; the cache is below XDG_CACHE_HOME"):
        ask(tiny)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(BuildError, match=r"there is no home .* set XDG_CACHE_HOME"):
        ask(tiny)


def test_the_unfinished_one_has_the_lock_of_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "bundles" / "name-fp32-0"
    with locked(unfinished(path)):
        pass
    assert [lock.name for lock in (path.parent / ".locks").iterdir()] == ["name-fp32-0.lock"]


@pytest.mark.parametrize("arguments", [["--cached", "--output", "x"], []])
def test_build_has_one_place_to_build_into(tiny: Path, arguments: list[str]) -> None:
    result = CliRunner().invoke(main, ["build", "--checkpoint", str(tiny), *arguments])
    assert result.exit_code == 2
    assert "set one of --output and --cached" in result.stderr
