"""The files that peers run, made from the checkpoint once."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from .roster import CONTESTANTS, Need

# Under which name the files are known to commands, what makes them, and where.
_MAKERS: dict[Need, tuple[str, str, str]] = {
    "onnx": ("torch", "export.py", "onnx"),
    "openvino": ("openvino", "export_openvino.py", "openvino"),
    "openvino-int8": ("openvino", "export_openvino.py", "openvino"),
}


class ExportFailedError(Exception):
    """The message says whose export failed and where its log is."""


class Exports:
    """A folder for each checkpoint and each need.

    python: the interpreter of an environment, by its name.
    calibration: a SQuAD file, for what quantizes with data.
    """

    def __init__(
        self,
        work: Path,
        checkpoint: Path,
        calibration: Path | None,
        python: Callable[[str], Path | str],
    ) -> None:
        sha256 = hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
        self._folder = work.resolve() / "exports" / sha256[:12]
        self._checkpoint = checkpoint
        self._calibration = calibration
        self._python = python

    def folder(self, need: Need) -> Path:
        return self._folder / _MAKERS[need][2]

    def make(self, needs: Iterable[Need]) -> None:
        """Raises ExportFailedError."""
        for need in needs:
            done = self._folder / f"{need}.done"
            if not done.exists():
                self._make(need)
                done.touch()

    def _make(self, need: Need) -> None:
        environment, script, _ = _MAKERS[need]
        command = [str(self._python(environment)), str(CONTESTANTS / script)]
        command += ["--checkpoint", str(self._checkpoint), "--output", str(self.folder(need))]
        if need == "openvino-int8":
            if self._calibration is None:
                raise ExportFailedError("int8 by post-training needs --calibration FILE")
            command += ["--calibration", str(self._calibration)]
        log = self._folder / f"{need}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
                raise ExportFailedError(f"the export for {need} failed, see {log}")
