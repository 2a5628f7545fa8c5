"""The steps of a build, in order: load, quantize, export, write, compile, measure."""

from __future__ import annotations

import dataclasses
import gc
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import Progress

from electra_qa.bundle import (
    FORMAT,
    MANIFEST,
    TOKENIZER,
    Bundle,
    Manifest,
    begin_bundle,
    graph_name,
    seal_bundle,
)
from electra_qa.engines import Engine, EngineError, EngineSettings, load_engine
from electra_qa.settings import setting
from electra_qa.squad import SquadError
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowSettings

from .accuracy import measure
from .calibration import BUILT_IN, calibration_windows, observe
from .check import check_graph
from .checkpoint import Checkpoint, load_checkpoint
from .choosing import (
    FEWEST_WINDOWS,
    Answers,
    Measured,
    answers,
    best,
    compare,
    quantize_candidates,
    report,
)
from .decode import MAX_PAIRS
from .errors import BuildError
from .graph import OPSET, build_graph
from .graph_file import read_without_weights, write_graph
from .quantization import QuantizationSettings, sites
from .quantized import QuantizedLinear

# That of `run_squad.py` and of Transformers' pipeline.
MAX_SEQ_LENGTH = 384
# ModernBERT has positions for 8192, and its attention at that length takes gigabytes.
MAX_SEQ_LENGTH_LIMIT = 512
# That the candidates of the quantization are compared on.
MEASURED_WINDOWS = 300


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What a bundle is built with; see `electra_qa.bundle.Manifest`. Every field is an option of
    `electra-qa build`. Names are `run_squad.py`'s where it has them, and so are the
    defaults but that of n_best_size, which Transformers' pipeline needs to be larger."""

    precision: Literal["fp32", "fp16", "int8"] = setting("fp32", "Of the graph.")
    max_seq_length: int | None = setting(
        None,
        "Of a window, in tokens.  [default: 384, or the checkpoint's positions if it has fewer]",
        minimum=8,
    )
    max_seq_length_limit: int | None = setting(
        None,
        "What a request may ask for, in tokens: memory grows with its square.  [default: 512, or "
        "the checkpoint's positions if it has fewer, or max_seq_length if that is more]",
        minimum=8,
    )
    doc_stride: int = setting(128, "How far one window starts behind the one before.", minimum=1)
    max_query_length: int = setting(64, "Of a question, in tokens.", minimum=1)
    max_answer_length: int = setting(30, "Of an answer, in tokens.", minimum=1)
    max_answer_length_limit: int = setting(
        64, "The longest span that the graph decodes, in tokens.", minimum=1
    )
    n_best_size: int = setting(64, "Spans of a window that the graph decodes.", minimum=1)
    null_score_diff_threshold: float | None = setting(
        None, "There is no answer over this.  [default: the checkpoint's own, or 0]"
    )
    device: Literal["cpu", "gpu"] = setting("cpu", "What to compile for, here and now.")
    calibration_windows: int = setting(300, "Windows that int8 is calibrated on.", minimum=1)
    embeddings: Literal["int8", "fp16"] = setting(
        "int8", "How an int8 bundle stores the word embeddings, half of a small model."
    )
    quantization_seconds: float = setting(
        120.0,
        "For trying settings of int8 side by side; the best on windows that were not calibrated on "
        "is taken. 0: the usual ones.",
        minimum=0,
    )
    max_f1_drop: float | None = setting(
        None, "Fail where F1 on --data is lower than that of float32 by more than this, in percent."
    )

    def windows(self, checkpoint: Checkpoint) -> WindowSettings:
        """Raises ValueError where no context would fit beside the longest question."""
        longest = self.longest(checkpoint)
        return WindowSettings(
            self.max_seq_length or min(MAX_SEQ_LENGTH, longest),
            min(self.doc_stride, longest),
            self.max_query_length,
            checkpoint.special_tokens.separators + 2,
        )

    def longest(self, checkpoint: Checkpoint) -> int:
        """Of the windows that may be asked for, in tokens."""
        positions = checkpoint.architecture.max_position_embeddings
        usual = max(MAX_SEQ_LENGTH_LIMIT, self.max_seq_length or 0)
        return self.max_seq_length_limit or min(usual, positions)


@dataclass(frozen=True, slots=True)
class BuildData:
    """SQuAD files. calibration: what int8 is calibrated on; none: the built-in calibration set.
    accuracy: what the bundle is measured on. Neither may be the dev set that is reported."""

    calibration: tuple[Path, ...] = ()
    accuracy: Path | None = None


def build_bundle(
    checkpoint_name: str,
    output: Path,
    settings: BuildSettings,
    data: BuildData,
    console: Console,
    tokenizer: str | None = None,
) -> Bundle:
    """Make a bundle in the folder `output` from a checkpoint (a folder or a hub id).

    tokenizer: a folder or a hub id whose tokenizer takes the place of the checkpoint's own.

    Progress goes to `console`. Raises BuildError; what was begun to be written does not load then.
    """
    try:
        bundle = _write(checkpoint_name, output, settings, data, console, tokenizer)
        # The checkpoint is let go of, before an engine needs its own copy of the weights: the
        # graph that reads them refers to itself in circles.
        gc.collect()
        return _finish(checkpoint_name, bundle, settings, data, console, tokenizer)
    except BaseException:
        with suppress(OSError):
            (output / MANIFEST).unlink()
        raise


def _write(
    checkpoint_name: str,
    output: Path,
    settings: BuildSettings,
    data: BuildData,
    console: Console,
    tokenizer: str | None,
) -> Bundle:
    """Load, quantize, write."""
    with _step(console, f"Loading {checkpoint_name}"):
        checkpoint = load_checkpoint(checkpoint_name, tokenizer)
        _check(checkpoint, settings, data)
    quantized = NOT_QUANTIZED
    if settings.precision == "int8":
        quantized = _quantize(checkpoint, settings, data, console)
    with _step(console, f"Writing {output} ({settings.precision}, opset {OPSET})"):
        return _write_bundle(checkpoint, output, settings, quantized)


def _write_bundle(
    checkpoint: Checkpoint, output: Path, settings: BuildSettings, quantized: _Quantized
) -> Bundle:
    graph = build_graph(
        checkpoint,
        half=settings.precision != "fp32",
        linears=quantized.linears,
        int8_embeddings=bool(quantized.linears) and settings.embeddings == "int8",
        n_best_size=settings.n_best_size,
        max_answer_length_limit=settings.max_answer_length_limit,
    )
    with _writing(output):
        begin_bundle(output)
        path = output / graph_name(settings.precision)
        files = write_graph(graph, path)
        (output / TOKENIZER).write_bytes(checkpoint.tokenizer.encode())
    if problems := check_graph(read_without_weights(path)):
        raise BuildError(f"TensorRT would refuse the graph: {problems[0]}")
    manifest = _manifest(checkpoint, settings, quantized)
    with _writing(output):
        return seal_bundle(output, manifest, [*(file.name for file in files), TOKENIZER])


def _finish(
    checkpoint_name: str,
    bundle: Bundle,
    settings: BuildSettings,
    data: BuildData,
    console: Console,
    tokenizer: str | None,
) -> Bundle:
    """Compile, measure."""
    with _step(console, "Compiling for this machine"):
        engine = _compile(bundle, settings.device)
    with closing(engine):
        console.print(f"  {engine.device}")
        if data.accuracy is None:
            return bundle
        try:
            metrics = measure(bundle, engine, data.accuracy, console)
        except (SquadError, EngineError) as error:
            raise BuildError(str(error)) from error
    if settings.max_f1_drop is not None:
        reference = _float32_f1(checkpoint_name, settings, data.accuracy, console, tokenizer)
        drop = reference - metrics["f1"]
        console.print(f"  F1 is {drop:.2f} under that of float32")
        if drop > settings.max_f1_drop:
            raise BuildError(
                f"F1 on {data.accuracy.name} drops by {drop:.2f}, "
                f"max_f1_drop is {settings.max_f1_drop:g}"
            )
    manifest = bundle.manifest
    with _writing(bundle.path):
        return seal_bundle(
            bundle.path, dataclasses.replace(manifest, metrics=metrics), manifest.files
        )


@dataclass(frozen=True, slots=True)
class _Quantized:
    """linears: the int8 linear layers by name. calibrated_on, how: for the manifest."""

    linears: dict[str, QuantizedLinear]
    calibrated_on: str | None
    how: dict[str, Any] | None


NOT_QUANTIZED = _Quantized({}, None, None)


def _quantize(
    checkpoint: Checkpoint, settings: BuildSettings, data: BuildData, console: Console
) -> _Quantized:
    tokenizer = Tokenizer(checkpoint.tokenizer, checkpoint.special_tokens)
    windows = settings.windows(checkpoint)
    count = settings.calibration_windows
    try:
        drawn = calibration_windows(
            data.calibration or (BUILT_IN,), tokenizer, windows, count + MEASURED_WINDOWS
        )
    except SquadError as error:
        raise BuildError(str(error)) from error
    if not drawn:
        raise BuildError("the calibration files hold no question")
    drawn, asked = drawn[:count], drawn[count:]
    layers = [None, *checkpoint.family.layer_names(checkpoint.architecture)]
    groups = sum(len(sites(checkpoint, layer)) for layer in layers)
    parts = checkpoint.architecture.num_hidden_layers + 1
    names = ", ".join(file.name for file in data.calibration) or "the built-in calibration set"
    drawn_from = f"{len(drawn)} windows of {names}"
    console.print(f"Calibrating on {drawn_from}")
    seconds = settings.quantization_seconds if len(asked) >= FEWEST_WINDOWS else 0
    with Progress(console=console) as progress:
        watching = progress.add_task("Calibrating", total=len(drawn) * parts)
        rounding = progress.add_task("Rounding", total=groups)
        made = quantize_candidates(
            checkpoint,
            observe(checkpoint, drawn, lambda: progress.advance(watching)),
            len(layers),
            seconds,
            lambda: progress.advance(rounding),
        )
    chosen, measured = next(iter(made)), list[Measured]()
    if len(made) > 1:
        measured = _measure(checkpoint, settings, made, asked, tokenizer.pad_id, console)
        chosen = best(measured, len(asked)).settings
    return _Quantized(made[chosen], drawn_from, report(chosen, measured, len(asked)))


def _measure(
    checkpoint: Checkpoint,
    settings: BuildSettings,
    made: Mapping[QuantizationSettings, dict[str, QuantizedLinear]],
    windows: Sequence[Window],
    pad_id: int,
    console: Console,
) -> list[Measured]:
    """What each candidate's graph, and float32's, say of the same windows."""

    def said(precision: Literal["fp32", "int8"], quantized: _Quantized) -> Answers:
        of_this = dataclasses.replace(settings, precision=precision)
        with tempfile.TemporaryDirectory() as folder:
            bundle = _write_bundle(checkpoint, Path(folder), of_this, quantized)
            try:
                return answers(bundle, windows, pad_id)
            except EngineError as error:
                raise BuildError(str(error)) from error

    with _step(console, f"Comparing {len(made)} ways to round on {len(windows)} other windows"):
        wanted = said("fp32", NOT_QUANTIZED)
        measured = [
            compare(how, said("int8", _Quantized(linears, None, None)), wanted)
            for how, linears in made.items()
        ]
    for one in measured:
        console.print(
            f"  {one.settings}: null_score_diff off by {one.null_score_diff_rms:.3f} rms, best "
            f"span the same in {100 * one.same_best_span:.1f} %",
            highlight=False,
        )
    return measured


def _float32_f1(
    checkpoint_name: str,
    settings: BuildSettings,
    accuracy: Path,
    console: Console,
    tokenizer: str | None,
) -> float:
    """F1, in percent, of a float32 bundle that is built for this and thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        float32 = dataclasses.replace(settings, precision="fp32", max_f1_drop=None)
        data = BuildData(accuracy=accuracy)
        bundle = build_bundle(checkpoint_name, Path(folder), float32, data, console, tokenizer)
    return float((bundle.manifest.metrics or {})["f1"])


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    with console.status(f"{what} …"):
        yield
    console.print(f"{what}: done")


def _check(checkpoint: Checkpoint, settings: BuildSettings, data: BuildData) -> None:
    """Raises BuildError for settings that this checkpoint can't have."""
    if data.accuracy is not None and data.accuracy in data.calibration:
        raise BuildError(f"{data.accuracy.name}: calibrate on other data than it is measured on")
    if settings.max_f1_drop is not None and data.accuracy is None:
        raise BuildError("max_f1_drop needs questions to measure on: --data SQUAD_FILE")
    positions = checkpoint.architecture.max_position_embeddings
    longest = settings.longest(checkpoint)
    for name, length, highest, of in (
        ("max_seq_length", settings.max_seq_length, positions, "the checkpoint's positions"),
        ("max_seq_length_limit", longest, positions, "the checkpoint's positions"),
        ("max_seq_length", settings.max_seq_length, longest, "max_seq_length_limit"),
    ):
        if length is not None and length > highest:
            raise BuildError(f"{name} must be at most {highest} ({of}), got {length}")
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
        settings.windows(checkpoint)
        vocab_size = Tokenizer(checkpoint.tokenizer, checkpoint.special_tokens).vocab_size
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


def _manifest(checkpoint: Checkpoint, settings: BuildSettings, quantized: _Quantized) -> Manifest:
    threshold = settings.null_score_diff_threshold
    windows = settings.windows(checkpoint)
    return Manifest(
        format=FORMAT,
        source=checkpoint.source,
        source_sha256=checkpoint.sha256,
        architecture=dataclasses.asdict(checkpoint.architecture),
        precision=settings.precision,
        opset=OPSET,
        max_seq_length=windows.max_seq_length,
        doc_stride=windows.doc_stride,
        max_query_length=settings.max_query_length,
        max_answer_length=settings.max_answer_length,
        null_score_diff_threshold=(
            checkpoint.null_score_diff_threshold if threshold is None else threshold
        ),
        n_best_size=settings.n_best_size,
        max_seq_length_limit=settings.longest(checkpoint),
        max_answer_length_limit=settings.max_answer_length_limit,
        cls_token=checkpoint.special_tokens.cls,
        sep_token=checkpoint.special_tokens.sep,
        pad_token=checkpoint.special_tokens.pad,
        unk_token=checkpoint.special_tokens.unk,
        separators=checkpoint.special_tokens.separators,
        calibration=quantized.calibrated_on,
        metrics=None,
        files={},
        quantization=quantized.how,
    )


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BuildError(f"{output} can't be written: {error.strerror}") from error


def _compile(bundle: Bundle, device: Literal["cpu", "gpu"]) -> Engine:
    try:
        return load_engine(bundle, EngineSettings(device))
    except EngineError as error:
        raise BuildError(str(error)) from error
