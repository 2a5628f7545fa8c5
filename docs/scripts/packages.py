"""For MkDocs: the sources under the names that they are imported by, where mkdocstrings looks."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ROOT / "build" / "packages"


def on_startup(**_: object) -> None:
    """A hook of MkDocs."""
    shutil.rmtree(PACKAGES, ignore_errors=True)
    PACKAGES.mkdir(parents=True)
    shutil.copytree(ROOT / "electra_qa", PACKAGES / "electra_qa")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for name, folder in project["tool"]["setuptools"]["package-dir"].items():
        if "." in name:
            shutil.copytree(ROOT / folder, PACKAGES / name.replace(".", "/"))
