"""Which versions are installed here."""

from __future__ import annotations

import platform
from importlib import metadata

PACKAGES = (
    "electra-qa",
    "grpcio",
    "protobuf",
    "tokenizers",
    "numpy",
    "openvino",
    "onnxruntime",
    "tensorrt",
)


def installed_versions() -> dict[str, str | None]:
    """Of Python and of the packages that decide how fast it is; None for one that is not here."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
