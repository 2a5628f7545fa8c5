"""The steps of a build, in order: load, export, write, compile, measure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from electra_qa.bundle import FORMAT, TOKENIZER, Bundle, Manifest, graph_name, write_bundle
from electra_qa.engines import Engine, EngineError, load_engine
from electra_qa.settings import setting
from electra_qa.squad import SquadError
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import WindowSettings

from .accuracy import measure
from .check import check_graph
from .checkpoint import Checkpoint, load_checkpoint
from .errors import BuildError
from .graph import MAX_PAIRS, OPSET, build_graph


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What a bundle is built with; see `electra_qa.bundle.Manifest`. Every field is an option of
    `electra-qa build`. Names and defaults are `run_squad.py`'s where it has them."""

    precision: Literal["fp32"] = setting("fp32", "Of the graph.")
    max_seq_length: int = setting(384, "Of a window, in tokens.", minimum=8)
    doc_stride: int = setting(128, "How far one window starts behind the one before.", minimum=1)
    max_query_length: int = setting(64, "Of a question, in tokens.", minimum=1)
    max_answer_length: int = setting(30, "Of an answer, in tokens.", minimum=1)
    max_answer_length_limit: int = setting(64, "What a request may ask for.", minimum=1)
    n_best_size: int = setting(64, "Spans of a window that the graph decodes.", minimum=1)
    null_score_diff_threshold: float | None = setting(
        None, "There is no answer over this.  [default: the checkpoint's own, or 0]"
    )


def build_bundle(
    checkpoint_name: str,
    output: Path,
    settings: BuildSettings,
    data: Path | None,
    console: Console,
) -> Bundle:
    """Make a bundle in the folder `output` from a checkpoint (a folder or a hub id).

    data: a SQuAD file to measure EM and F1 on, for the manifest.

    Progress goes to `console`. Raises BuildError.
    """
    with _step(console, f"Loading {checkpoint_name}"):
        checkpoint = load_checkpoint(checkpoint_name)
        _check(checkpoint, settings)
    with _step(console, f"Exporting the graph ({settings.precision}, opset {OPSET})"):
        graph = build_graph(
            checkpoint,
            n_best_size=settings.n_best_size,
            max_answer_length_limit=settings.max_answer_length_limit,
        )
        if problems := check_graph(graph):
            raise BuildError(f"TensorRT would refuse the graph: {problems[0]}")
        files = {
            graph_name(settings.precision): graph.SerializeToString(deterministic=True),
            TOKENIZER: checkpoint.tokenizer.encode(),
        }
    manifest = _manifest(checkpoint, settings)
    with _step(console, f"Writing {output}"):
        bundle = _write(output, manifest, files)
    with _step(console, "Compiling for this machine"):
        engine = _compile(bundle)
    console.print(f"  {engine.device}")
    if data is None:
        return bundle
    try:
        metrics = measure(bundle, engine, data, console)
    except (SquadError, EngineError) as error:
        raise BuildError(str(error)) from error
    return _write(output, dataclasses.replace(manifest, metrics=metrics), files)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    with console.status(f"{what} …"):
        yield
    console.print(f"{what}: done")


def _check(checkpoint: Checkpoint, settings: BuildSettings) -> None:
    """Raises BuildError for settings that this checkpoint can't have."""
    longest = checkpoint.architecture.max_position_embeddings
    if settings.max_seq_length > longest:
        raise BuildError(
            f"max_seq_length must be at most {longest} (the checkpoint's max_position_embeddings), "
            f"got {settings.max_seq_length}"
        )
    if settings.max_answer_length > settings.max_answer_length_limit:
        raise BuildError(
            f"max_answer_length must be at most {settings.max_answer_length_limit} "
            f"(max_answer_length_limit), got {settings.max_answer_length}"
        )
    pairs = longest * settings.max_answer_length_limit
    if pairs > MAX_PAIRS:
        raise BuildError(
            f"max_answer_length_limit must be at most {MAX_PAIRS // longest} for windows of up to "
            f"{longest} tokens, got {settings.max_answer_length_limit}"
        )
    try:
        WindowSettings(settings.max_seq_length, settings.doc_stride, settings.max_query_length)
        vocab_size = Tokenizer(checkpoint.tokenizer).vocab_size
    except ValueError as error:
        raise BuildError(str(error)) from error
    if vocab_size > checkpoint.architecture.vocab_size:
        raise BuildError(
            f"the tokenizer has {vocab_size} tokens, the checkpoint's vocab_size is "
            f"{checkpoint.architecture.vocab_size}"
        )
    if settings.null_score_diff_threshold is not None and math.isnan(
        settings.null_score_diff_threshold
    ):
        raise BuildError("null_score_diff_threshold must be a number, got NaN")


def _manifest(checkpoint: Checkpoint, settings: BuildSettings) -> Manifest:
    threshold = settings.null_score_diff_threshold
    return Manifest(
        format=FORMAT,
        source=checkpoint.source,
        source_sha256=checkpoint.sha256,
        architecture=dataclasses.asdict(checkpoint.architecture),
        precision=settings.precision,
        opset=OPSET,
        max_seq_length=settings.max_seq_length,
        doc_stride=settings.doc_stride,
        max_query_length=settings.max_query_length,
        max_answer_length=settings.max_answer_length,
        null_score_diff_threshold=(
            checkpoint.null_score_diff_threshold if threshold is None else threshold
        ),
        n_best_size=settings.n_best_size,
        max_seq_length_limit=checkpoint.architecture.max_position_embeddings,
        max_answer_length_limit=settings.max_answer_length_limit,
        do_lower_case=checkpoint.do_lower_case,
        calibration=None,
        metrics=None,
        files={},
    )


def _write(output: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    try:
        return write_bundle(output, manifest, files)
    except OSError as error:
        raise BuildError(f"{output} can't be written: {error.strerror}") from error


def _compile(bundle: Bundle) -> Engine:
    try:
        return load_engine(bundle)
    except EngineError as error:
        raise BuildError(str(error)) from error
