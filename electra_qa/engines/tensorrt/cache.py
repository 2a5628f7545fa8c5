"""Where plans and timing caches are kept: beside the bundle, or in the user's cache folder.

    NAME.plan    the plan, as TensorRT wrote it
    NAME.json    what it was built from and for, and its sha256
    TIMING.timing    what TensorRT measured, which makes the next build faster

Names say GPU and TensorRT version. A plan is used only where everything in its .json is as it is
here now; anything else is built anew.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from ...bundle import Bundle
from ...cache import user_cache
from .build import TensorRTOptions
from .cuda import Gpu
from .profiles import Profiles

log = logging.getLogger(__name__)

# One more with each change of how plans are built: 4 has packed products.
FORMAT = 4
FOLDER = "tensorrt"


@dataclass(frozen=True, slots=True)
class PlanKey:
    """What a plan depends on.

    gpu, compute_capability, tensorrt: less exact for a plan that is made to be moved.
    graph: the sha256 of the bundle's graph, its weights included.
    """

    gpu: str
    compute_capability: str
    tensorrt: str
    graph: str
    precision: str
    lengths: tuple[int, ...]
    max_batch_tokens: int
    hardware_compatible: bool
    version_compatible: bool
    auxiliary_streams: int | None
    optimization_level: int
    format: int = FORMAT

    @property
    def name(self) -> str:
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()
        return f"{_machine(self.gpu, self.compute_capability, self.tensorrt)}.{digest[:12]}"

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), sort_keys=True)


def plan_key(
    bundle: Bundle, profiles: Profiles, options: TensorRTOptions, gpu: Gpu, version: str
) -> PlanKey:
    manifest = bundle.manifest
    anywhere = options.hardware_compatible
    return PlanKey(
        gpu="ampere-or-later" if anywhere else gpu.name,
        compute_capability="8.0" if anywhere else gpu.compute_capability,
        tensorrt=version.partition(".")[0] if options.version_compatible else version,
        graph=bundle.graph_sha256,
        precision=manifest.precision,
        lengths=profiles.lengths,
        max_batch_tokens=profiles.max_batch_tokens,
        hardware_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
        auxiliary_streams=options.auxiliary_streams,
        optimization_level=options.optimization_level,
    )


class PlanCache:
    """Reads from the bundle's folder and the user's; writes to the first that can be written."""

    def __init__(self, bundle: Bundle, gpu: Gpu, version: str) -> None:
        user = [folder / bundle.sha256[:16] for folder in _user_folders()]
        self._folders = (bundle.path / FOLDER, *user)
        self._timing = f"{_machine(gpu.name, gpu.compute_capability, version)}.timing"

    def load_plan(self, key: PlanKey) -> bytes | None:
        for folder in self._folders:
            plan_path = folder / f"{key.name}.plan"
            try:
                about = json.loads(plan_path.with_suffix(".json").read_bytes())
                plan = plan_path.read_bytes()
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                log.warning("%s can't be read, so it is built anew: %s", plan_path, error)
                continue
            if about == _about(key, plan):
                return plan
            log.warning("%s is damaged, so it is built anew", plan_path)
        return None

    def save_plan(self, key: PlanKey, plan: bytes) -> None:
        about = json.dumps(_about(key, plan), indent=2) + "\n"
        # The .json comes last: it vouches for the plan.
        self._save(f"{key.name}.plan", plan)
        self._save(f"{key.name}.json", about.encode())

    def load_timing(self) -> bytes:
        for folder in self._folders:
            try:
                return (folder / self._timing).read_bytes()
            except OSError:
                continue
        return b""

    def save_timing(self, content: bytes) -> None:
        if content:
            self._save(self._timing, content)

    def _save(self, name: str, content: bytes) -> None:
        for folder in self._folders:
            try:
                _write(folder, name, content)
            except OSError as error:
                log.debug("can't write to %s: %s", folder, error)
            else:
                return
        log.warning("no folder for %s can be written: the next start builds it again", name)


def _about(key: PlanKey, plan: bytes) -> dict[str, object]:
    about: dict[str, object] = json.loads(key.to_json())
    return about | {"sha256": hashlib.sha256(plan).hexdigest()}


def _machine(gpu: str, compute_capability: str, version: str) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return f"{slug}.sm{compute_capability.replace('.', '')}.trt{version}"


def _write(folder: Path, name: str, content: bytes) -> None:
    """The file is there whole, or not at all. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{name}.{uuid.uuid4().hex}"
    try:
        temporary.write_bytes(content)
        temporary.replace(folder / name)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def _user_folders() -> tuple[Path, ...]:
    """None for a user without a home, as in many containers."""
    try:
        return (user_cache() / FOLDER,)
    except RuntimeError:
        return ()
