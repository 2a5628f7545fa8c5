"""The bundle: a folder with a graph, a tokenizer and a manifest, and nothing that is executed.

    manifest.json                what it is, and the sha256 of every other file
    model.<precision>.onnx       the typed graph, see `build_engine/graph.py`
    model.<precision>.onnx.data  its weights, where they are many
    tokenizer.json               the checkpoint's tokenizer

Beside them there may be what was compiled from the graph for a machine; that is a cache, which
nothing is read from that the manifest does not vouch for but the engine's own library.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from .files import open_regular, read_regular
from .tokenization import SpecialTokens
from .windows import WindowSettings

FORMAT = 2
PRECISIONS = ("fp32", "fp16", "int8")
MANIFEST = "manifest.json"
MAX_MANIFEST_BYTES = 2**20
# Of any size in a manifest: far more than models have, and arrays of it can still be made.
LARGEST = 2**16
TOKENIZER = "tokenizer.json"


class BundleError(Exception):
    """A bundle is missing, damaged or not of this version; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is. Everything that serving it needs to know, and where it comes from.

    source, source_sha256: the checkpoint's name and the sha256 of its weights.
    architecture: the encoder's shape, with the names of Transformers' `config.json`.
    precision: of the graph: "fp32", "fp16" or "int8".
    opset: of ONNX's default domain.
    max_seq_length, doc_stride, max_query_length, max_answer_length, null_score_diff_threshold:
        defaults for a request, with `run_squad.py`'s names and meanings, in tokens.
    n_best_size, max_answer_length_limit: how many spans of a window the graph decodes, and how
        long they are at most, in tokens; what a request wants beyond is decoded on the host.
    max_seq_length_limit: what a request may ask for, at most, in tokens.
    cls_token, sep_token, pad_token, unk_token: the tokenizer's names of them.
    separators: how many sep_tokens stand between question and context, 1 or 2.
    calibration: what the quantization was calibrated on; None where nothing was.
    metrics: EM/F1 measured at build under the keys of the official script, in percent, with
        "data" naming the file; None where nothing was measured.
    files: {name: sha256} of every file but the manifest.
    quantization: the settings that the quantization was made with, and under "candidates" what was
        measured to choose them; None where nothing was quantized, or nobody noted how.
    """

    format: int
    source: str
    source_sha256: str
    architecture: dict[str, Any]
    precision: str
    opset: int
    max_seq_length: int
    doc_stride: int
    max_query_length: int
    max_answer_length: int
    null_score_diff_threshold: float
    n_best_size: int
    max_seq_length_limit: int
    max_answer_length_limit: int
    cls_token: str
    sep_token: str
    pad_token: str
    unk_token: str
    separators: int
    calibration: str | None
    metrics: dict[str, Any] | None
    files: dict[str, str]
    quantization: dict[str, Any] | None = None

    @property
    def window_settings(self) -> WindowSettings:
        return WindowSettings(
            self.max_seq_length, self.doc_stride, self.max_query_length, self.separators + 2
        )

    @property
    def special_tokens(self) -> SpecialTokens:
        return SpecialTokens(
            self.cls_token, self.sep_token, self.pad_token, self.unk_token, self.separators
        )

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises BundleError, naming the field, where the text is no manifest of this format."""
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{MANIFEST} is not JSON: {error}") from error
        try:
            json.dumps(content, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:  # a lone surrogate, as \ud800
            raise BundleError(f"{MANIFEST} has a text that is not Unicode") from error
        if not isinstance(content, dict):
            raise BundleError(f"{MANIFEST} holds no JSON object")
        if content.get("format") != FORMAT:
            raise BundleError(
                f"{MANIFEST} has format {content.get('format')!r}, this version reads {FORMAT}: "
                "build it anew"
            )
        hints = typing.get_type_hints(cls)
        content.setdefault("quantization", None)  # bundles of before have none
        for name, hint in hints.items():
            if name not in content:
                raise BundleError(f"{MANIFEST} lacks {name}")
            if not _is_a(content[name], hint):
                raise BundleError(f"{MANIFEST}: {name} has a value of the wrong type")
        if not all(isinstance(value, str) for value in content["files"].values()):
            raise BundleError(f"{MANIFEST}: files has a value that is no sum")
        if unknown := content.keys() - hints.keys():
            raise BundleError(f"{MANIFEST} has an unknown field: {sorted(unknown)[0]}")
        manifest = cls(**content)
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raises BundleError, naming the field, where a value can't be served."""
        if self.precision not in PRECISIONS:
            raise BundleError(f"{MANIFEST}: precision must be one of {', '.join(PRECISIONS)}")
        if not _is_number(self.null_score_diff_threshold):
            raise BundleError(f"{MANIFEST}: null_score_diff_threshold must be a number")
        for name, highest in (
            ("opset", LARGEST),
            ("n_best_size", LARGEST),
            ("max_answer_length_limit", LARGEST),
            ("max_seq_length_limit", LARGEST),
            ("max_answer_length", self.max_answer_length_limit),
            ("max_seq_length", self.max_seq_length_limit),
            ("doc_stride", self.max_seq_length_limit),
            ("separators", 2),
        ):
            value = getattr(self, name)
            if not 1 <= value <= highest:
                raise BundleError(f"{MANIFEST}: {name} is out of range: {value}")
        try:
            self.window_settings  # noqa: B018
        except ValueError as error:
            raise BundleError(f"{MANIFEST}: {error}") from error


def _is_number(value: float) -> bool:
    try:
        return not math.isnan(value)
    except OverflowError:  # a whole number that no float comes near to
        return False


def _is_a(value: object, hint: Any) -> bool:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    plain = tuple(typing.get_origin(kind) or kind for kind in kinds)
    if isinstance(value, bool):
        return bool in plain
    return isinstance(value, plain) or (float in plain and isinstance(value, int))


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was when its sum was taken."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> Seen:
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose sums were right when it was loaded.

    What is used of it later must be what was checked: `read` what fits into memory; where a library
    opens a file by itself, ask `check_unchanged` afterwards.

    sha256: of the manifest, which names the sum of every other file: it stands for the whole.
    """

    path: Path
    manifest: Manifest
    sha256: str
    _seen: Mapping[str, Seen] = field(default_factory=dict, compare=False, repr=False)

    @property
    def version(self) -> str:
        """What answers say they come from: the first 12 digits of the sum."""
        return self.sha256[:12]

    @property
    def graph_path(self) -> Path:
        return self.path / graph_name(self.manifest.precision)

    @property
    def graph_sha256(self) -> str:
        """Of the graph's file; where its weights have one of their own, of both sums' digits."""
        name = graph_name(self.manifest.precision)
        files = self.manifest.files
        sums = [files[file] for file in (name, graph_data_name(name)) if file in files]
        return sums[0] if len(sums) == 1 else hashlib.sha256("".join(sums).encode()).hexdigest()

    @property
    def tokenizer_path(self) -> Path:
        return self.path / TOKENIZER

    def read(self, name: str) -> bytes:
        """The content of one of the manifest's files: its sum is taken of these very bytes.

        Raises BundleError.
        """
        try:
            with open_regular(self.path / name) as file:
                content = file.read()
            _compare(name, hashlib.sha256(content).hexdigest(), self.manifest.files[name])
        except OSError as error:
            raise BundleError(f"bundle {self.path}: {name}: {error.strerror}") from error
        except BundleError as error:
            raise BundleError(f"bundle {self.path}: {error}") from error
        return content

    def read_tokenizer(self) -> str:
        """The content of `tokenizer.json`, by the same rule. Raises BundleError."""
        try:
            return self.read(TOKENIZER).decode("utf-8")
        except UnicodeDecodeError as error:
            raise BundleError(f"bundle {self.path}: {TOKENIZER} is not UTF-8") from error

    def check_unchanged(self, names: Iterable[str]) -> None:
        """Whether files are those whose sums `load_bundle` has taken, by their times and numbers.

        Whoever can set the machine's clock can deceive it; a file that is written to, or that
        takes the place of another, is noticed. Raises BundleError.
        """
        for name in names:
            try:
                unchanged = Seen.of((self.path / name).stat()) == self._seen[name]
            except OSError as error:
                raise BundleError(f"bundle {self.path}: {name}: {error.strerror}") from error
            if not unchanged:
                raise BundleError(f"bundle {self.path}: {name} changed while it was loaded")


def graph_name(precision: str) -> str:
    return f"model.{precision}.onnx"


def graph_data_name(graph: str) -> str:
    """Of the file with the weights that are not in the graph's own file."""
    return f"{graph}.data"


def default_bundle_path() -> Path:
    """The bundle that the wheel carries."""
    return Path(str(resources.files("electra_qa"))) / "default_bundle"


def load_bundle(path: Path) -> Bundle:
    """Load a bundle and check every sum. Raises BundleError, naming the file, where one is off."""
    manifest_path = path / MANIFEST
    try:
        raw = read_regular(manifest_path, MAX_MANIFEST_BYTES)
    except OSError as error:
        raise BundleError(f"no bundle at {path}: {MANIFEST}: {error.strerror}") from error
    try:
        manifest = Manifest.from_json(raw.decode("utf-8"))
        seen = {name: _check(path, name, sha256) for name, sha256 in manifest.files.items()}
    except UnicodeDecodeError as error:
        raise BundleError(f"bundle {path}: {MANIFEST} is not UTF-8") from error
    except BundleError as error:
        raise BundleError(f"bundle {path}: {error}") from error
    for name in (graph_name(manifest.precision), TOKENIZER):
        if name not in manifest.files:
            raise BundleError(f"bundle {path}: {MANIFEST} names no {name}")
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest(), seen)


def _check(folder: Path, name: str, expected: str) -> Seen:
    if Path(name).name != name or name in ("", ".", ".."):
        raise BundleError(f"{MANIFEST} names {name!r}, which is not a file's name")
    try:
        with open_regular(folder / name) as file:
            seen = Seen.of(os.fstat(file.fileno()))
            actual = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{name}: {error.strerror}") from error
    except ValueError as error:  # a NUL or a lone surrogate in it
        raise BundleError(f"{MANIFEST} names {name!r}, which is not a file's name") from error
    _compare(name, actual, expected)
    return seen


def _compare(name: str, actual: str, expected: str) -> None:
    if actual != expected:
        raise BundleError(
            f"{name} is damaged: its sha256 is {actual[:12]}…, {MANIFEST} has {expected[:12]}…"
        )


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_bundle(path: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle; the sums of `files` replace those of `manifest`. The manifest comes last."""
    if any(Path(name).name != name for name in files):
        raise ValueError("files must have plain names")
    begin_bundle(path)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return seal_bundle(path, manifest, files)


def begin_bundle(path: Path) -> None:
    """Make the folder that the files of a bundle are written to; one that is there is no bundle
    any more."""
    path.mkdir(parents=True, exist_ok=True)
    (path / MANIFEST).unlink(missing_ok=True)


def seal_bundle(path: Path, manifest: Manifest, names: Iterable[str]) -> Bundle:
    """Make a bundle of the files of these names in a folder; their sums replace those of
    `manifest`, which is written last."""
    sums = {name: sha256_of(path / name) for name in names}
    complete = dataclasses.replace(manifest, files=sums)
    (path / MANIFEST).write_text(complete.to_json(), encoding="utf-8")
    return load_bundle(path)
