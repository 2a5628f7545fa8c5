"""From what a user calls a model to a bundle: a bundle's folder, a checkpoint's, or a hub id.

A checkpoint is built once, by `electra-qa build --cached` in a process of its own: who serves or
asks then imports nothing of the build, and its memory goes with it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from .bundle import MANIFEST, BundleError, Manifest
from .configuration import PREFIX

Precision = Literal["fp32", "fp16", "int8"]

# A requirement of pyproject.toml's extra `build`, as the package's metadata has it.
_REQUIREMENT = re.compile(r"([\w.-]+)[^;]*; *extra == ['\"]build['\"]")


class ModelError(BundleError):
    """There is no bundle of this model, and none can be built; the message says why."""


def bundle_for(
    model: str | Path,
    *,
    revision: str | None = None,
    precision: Precision | None = None,
    tokenizer: str | Path | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    device: str = "cpu",
    progress: bool = True,
) -> Path:
    """The folder of a bundle of a model. Raises ModelError.

    model: a bundle's folder, which is taken as it is; or a checkpoint's, or its id on the Hugging
        Face hub: built if the user's cache has no bundle of it yet, as it is now.
    revision: a branch, a tag or a commit of the hub.
    precision: by default "fp32", and "fp16" where `device` is "gpu"; a bundle has its own.
    tokenizer: a folder or a hub id whose tokenizer takes the place of the checkpoint's.
    token: of the hub. None and True: the one of `hf auth login` or HF_TOKEN; False: none.
    local_files_only: ask the hub nothing, take what was fetched from it before.
    device: what it is to run on.
    progress: show it, on stderr.
    """
    folder = Path(model).expanduser()
    if (folder / MANIFEST).is_file():
        if revision is not None or tokenizer is not None:
            name = "tokenizer" if revision is None else "revision"
            raise ModelError(f"{model} is a bundle: {name} is for a checkpoint")
        _check_precision(folder, precision)
        return folder
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{model} is a folder: revision is for a model of the hub")
        model = folder
    if missing := _missing():
        raise ModelError(
            f"{model} has to be built, which needs {missing}: pip install 'electra-qa[build]'"
        )
    # A name that begins with a dash must not be taken for an option.
    arguments = [f"--checkpoint={model if revision is None else f'{model}@{revision}'}"]
    # Nobody measured it on a GPU; of the three fp16 has the fewest kernels, see docs/gpu.md.
    default = "fp16" if device == "gpu" else "fp32"
    arguments.append(f"--precision={precision or default}")
    if tokenizer is not None:
        arguments.append(f"--tokenizer={tokenizer}")
    return _build(arguments, _environment(token, local_files_only), progress)


def _check_precision(bundle: Path, precision: Precision | None) -> None:
    try:
        manifest = Manifest.from_json((bundle / MANIFEST).read_text(encoding="utf-8"))
    except (BundleError, OSError, ValueError):
        return  # whoever loads it says what is wrong
    if precision not in (None, manifest.precision):
        raise ModelError(f"{bundle} is a bundle in {manifest.precision}, not in {precision}")


def _missing() -> str | None:
    """A package of the extra `build` that is not here."""
    try:
        requirements = metadata.requires("electra-qa") or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        found = _REQUIREMENT.match(requirement)
        if found:
            try:
                metadata.version(found[1])
            except metadata.PackageNotFoundError:
                return found[1]
    return None


def _environment(token: str | bool | None, local_files_only: bool) -> dict[str, str]:
    """Of the build. What is set for the commands that others type is not for this one; a token on
    a command line could be read by everyone on the machine."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
    if isinstance(token, str):
        environment["HF_TOKEN"] = token
    elif token is False:
        environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        environment.pop("HF_TOKEN", None)
    if local_files_only:
        environment["HF_HUB_OFFLINE"] = "1"
    return environment


def _build(arguments: list[str], environment: dict[str, str], progress: bool) -> Path:
    # -P: a file of the caller's that is named like a module must not be taken for it.
    command = [sys.executable, "-P", "-m", "electra_qa", "build", "--cached", "--json"]
    done = subprocess.run(
        [*command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None if progress else subprocess.DEVNULL,
        env=environment,
        text=True,
        encoding="utf-8",
        check=False,
    )
    outcome = _outcome(done.stdout)
    if "bundle" in outcome:
        return Path(outcome["bundle"])
    if "error" in outcome:
        raise ModelError(outcome["error"])
    killed = ", perhaps for want of memory" if done.returncode < 0 else ""
    raise ModelError(f"the build ended with {done.returncode} and without a word{killed}")


def _outcome(stdout: str) -> dict[str, Any]:
    try:
        outcome = json.loads(stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return {}
    return outcome if isinstance(outcome, dict) else {}
