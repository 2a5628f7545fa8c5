"""A virtual environment for each library that is compared, as no single one can hold them all."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

REQUIREMENTS = Path(__file__).parent / "environments"
REPOSITORY = Path(__file__).parents[2]


class EnvironmentFailedError(Exception):
    """pip said no; the message is its last word."""


def prepare(folder: Path, name: str) -> Path:
    """Its interpreter, after making it and installing its requirements where that is not done.

    One that exists already, made by another Python, say, is taken as it is. Raises
    EnvironmentFailedError.
    """
    environment = folder.resolve() / name
    python = environment / "bin" / "python"
    done = environment / "done.txt"
    requirements = [REQUIREMENTS / f"{name}.txt", REQUIREMENTS / f"{name}.no-deps.txt"]
    wanted = "\n".join(file.read_text(encoding="utf-8") for file in requirements if file.exists())
    if done.exists() and done.read_text(encoding="utf-8") == wanted:
        return python
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(environment)])
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--requirement", str(requirements[0])])
    if requirements[1].exists():
        _run([*pip, "--no-deps", "--requirement", str(requirements[1])])
    # Its core has the windows and the tokenizer. Whoever made the requirements saw to the rest.
    _run([*pip, "--no-deps", "--editable", str(REPOSITORY)])
    done.write_text(wanted, encoding="utf-8")
    return python


def versions(python: Path | str, libraries: Iterable[str]) -> dict[str, str]:
    """{distribution: its version} in an environment."""
    code = (
        "import importlib.metadata, json, platform, sys\n"
        "found = {name: importlib.metadata.version(name) for name in sys.argv[1:]}\n"
        "print(json.dumps(found | {'python': platform.python_version()}))"
    )
    output = _run([str(python), "-c", code, *libraries])
    content: dict[str, str] = json.loads(output)
    return content


def _run(command: list[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["no word"]
        raise EnvironmentFailedError(f"{Path(command[0]).name} {command[1]}: {lines[-1]}")
    return result.stdout
