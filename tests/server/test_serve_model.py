"""`electra-qa serve --model`: a checkpoint is served, and looked up again at a reload."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from electra_qa.client import Client

from .test_lifecycle import server_process

CONTEXT = "Rome was founded by Romulus in 753 BC, says the legend."


def test_a_checkpoint_that_changed_is_served_after_a_reload(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    checkpoint = shutil.copytree(
        tiny_checkpoint(max_position_embeddings=512), tmp_path / "checkpoint"
    )
    weights_file = checkpoint / "model.safetensors"
    before = weights_file.read_bytes()
    weights = load_file(weights_file)
    weights["qa_outputs.bias"] = np.array([1, 2], np.float32)
    address, admin = f"unix:{tmp_path}/socket", f"unix:{tmp_path}/admin"

    def reload() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "electra_qa", "reload", "--address", admin]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    arguments = ["--model", str(checkpoint), "--engine", "null", "--address", address]
    arguments += ["--admin-address", admin, "--warm-up-lengths", "none"]
    with server_process(*arguments) as process, Client(address) as client:
        client.wait_until_ready(120)
        first = client.info().bundle
        assert (first.source, first.precision) == ("checkpoint", "fp32")

        save_file(weights, weights_file)
        done = reload()
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip() != first.model_version
        assert client.answer("who?", CONTEXT).model_version == done.stdout.strip()

        weights_file.write_bytes(b"")
        failed = reload()
        assert failed.returncode == 1
        assert failed.stderr == "Error: the bundle is missing, damaged, or not of this version\n"

        weights_file.write_bytes(before)
        assert reload().stdout.strip() == first.model_version
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "model.safetensors can't be read" in log
    assert "building a bundle" not in log
    assert "Traceback" not in log
