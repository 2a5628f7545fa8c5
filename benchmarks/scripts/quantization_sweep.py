r"""The tables of docs/quantization.md: what each step of the quantization brings, which layers cost
accuracy, and what NNCF and ONNX Runtime make of the same graph.

    pip install 'electra-qa[compare]'
    python benchmarks/scripts/quantization_sweep.py --checkpoint models/electra-mini-squad2 \
        --calibration squadshifts-amazon.json --data squad11-other-articles.json

Every variant answers the same questions; speed is taken in turns with float32, on one batch.
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import onnx_ir as ir
from rich.console import Console

from electra_qa.build_engine.accuracy import predict
from electra_qa.build_engine.build import BuildData, BuildSettings, build_bundle
from electra_qa.build_engine.calibration import calibration_windows, observe
from electra_qa.build_engine.checkpoint import Checkpoint, load_checkpoint
from electra_qa.build_engine.graph import build_graph
from electra_qa.build_engine.quantization import QuantizationSettings, quantize
from electra_qa.bundle import Bundle, graph_name, write_bundle
from electra_qa.engines import Engine, load_engine
from electra_qa.squad import read_squad, squad_metrics
from electra_qa.tokenization import Tokenizer
from electra_qa.windows import Window, WindowBatch, WindowSettings

KINDS = {
    "query": ".query",
    "key": ".key",
    "value": ".value",
    "attention output": ".attention.output.dense",
    "intermediate": ".intermediate.dense",
    "output": "[0-9].output.dense",
}
SPANS = {"n_best_size": 64, "max_answer_length_limit": 64}
Feeds = list[dict[str, np.ndarray]]


def full(checkpoint: Checkpoint) -> onnx.ModelProto:
    """The float32 graph with float32 weights, as other quantizers want it."""
    weights = {name: array.astype(np.float32) for name, array in checkpoint.weights.items()}
    graph: onnx.ModelProto = ir.to_proto(
        build_graph(dataclasses.replace(checkpoint, weights=weights), **SPANS)
    )
    return graph


def is_kind(name: str, kind: str) -> bool:
    return re.search(KINDS[kind].replace(".", r"\.") + "$", name) is not None


def variants(
    checkpoint: Checkpoint, windows: list[Window], feeds: Feeds
) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    observed = dict(observe(checkpoint, windows, lambda: None))

    def ours(settings: QuantizationSettings, left_out: str | None = None) -> onnx.ModelProto:
        linears = {
            name: linear
            for layer, seen in observed.items()
            for name, linear in quantize(checkpoint, layer, seen, settings, lambda: None).items()
            if left_out is None or not is_kind(name, left_out)
        }
        graph: onnx.ModelProto = ir.to_proto(
            build_graph(checkpoint, half=True, linears=linears, int8_embeddings=True, **SPANS)
        )
        return graph

    yield "as built", lambda: ours(QuantizationSettings())
    yield "smoothing 0.8", lambda: ours(QuantizationSettings(smoothing=0.8))
    yield "smoothing 0.5", lambda: ours(QuantizationSettings(smoothing=0.5))
    yield "no split", lambda: ours(QuantizationSettings(split_neurons=0))
    for kind in KINDS:
        yield (
            f"no split, {kind} left in float",
            lambda kind=kind: ours(QuantizationSettings(split_neurons=0), kind),
        )
    yield "NNCF, its defaults", lambda: by_nncf(checkpoint, feeds)
    yield "ONNX Runtime, static", lambda: by_onnxruntime(checkpoint, feeds)


def by_nncf(checkpoint: Checkpoint, feeds: Feeds) -> onnx.ModelProto:
    import nncf

    scope = nncf.IgnoredScope(
        patterns=["^bounds/.*", "^decode/.*", "^qa_outputs/.*"], validate=False
    )
    quantized: onnx.ModelProto = nncf.quantize(
        full(checkpoint),
        nncf.Dataset(feeds),
        subset_size=len(feeds),
        preset=nncf.QuantizationPreset.PERFORMANCE,
        model_type=nncf.ModelType.TRANSFORMER,
        ignored_scope=scope,
    )
    return quantized


def by_onnxruntime(checkpoint: Checkpoint, feeds: Feeds) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._feeds = iter(feeds)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._feeds, None)

    model = full(checkpoint)
    weights = {tensor.name for tensor in model.graph.initializer}
    nodes = [
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in weights and "qa_outputs" not in node.name
    ]
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.onnx", Path(folder) / "target.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            Reader(),
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=nodes,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
        return onnx.load(target)


def seconds(engine: Engine, batch: WindowBatch) -> float:
    started = time.perf_counter()
    engine.run(batch)
    return time.perf_counter() - started


@click.command()
@click.option("--checkpoint", "folder", required=True)
@click.option("--calibration", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--questions", type=int, default=600, show_default=True)
def main(folder: str, calibration: Path, data: Path, questions: int) -> None:
    """Measure variants of the quantization and print a Markdown table."""
    console = Console(stderr=True, quiet=True)
    checkpoint = load_checkpoint(folder)
    tokenizer = Tokenizer(checkpoint.tokenizer)
    windows = calibration_windows([calibration], tokenizer, WindowSettings(), 300)
    feeds = [
        {"input_ids": batch.input_ids, "bounds": batch.bounds}
        for window in windows[:100]
        for batch in [WindowBatch.pad([window], [30], length=window.length, pad_id=0)]
    ]
    asked = read_squad(data)
    asked = asked[:: max(1, len(asked) // questions)][:questions]
    batch = WindowBatch.pad(
        [window for window in windows if window.length <= 192][:20], [30] * 20, length=192, pad_id=0
    )
    with tempfile.TemporaryDirectory() as temporary:
        base = build_bundle(folder, Path(temporary) / "fp32", BuildSettings(), BuildData(), console)
        reference = load_engine(base)
        expected = predict(base, reference, asked, console)
        texts = {i: "" if p.is_impossible else p.answers[0].text for i, p in expected.items()}
        print(f"float32: F1 {squad_metrics(asked, texts)['f1']:.2f} on {len(asked)} questions")
        print("| | F1 | same answers | error of null_score_diff | speed | graph |")
        print("| --- | --- | --- | --- | --- | --- |")
        for number, (name, make) in enumerate(variants(checkpoint, windows, feeds)):
            try:
                graph = make().SerializeToString()
            except ImportError as error:
                print(f"| {name} | not installed: {error.name} | | | | |")
                continue
            row = measure(
                base, Path(temporary) / str(number), graph, reference, batch, asked, expected
            )
            print(f"| {name} | {row} | {len(graph) / 1e6:.1f} MB |", flush=True)


def measure(
    base: Bundle,
    folder: Path,
    graph: bytes,
    reference: Engine,
    batch: WindowBatch,
    asked: Any,
    expected: Any,
) -> str:
    manifest = dataclasses.replace(base.manifest, precision="int8")
    files = {graph_name("int8"): graph, "tokenizer.json": base.tokenizer_path.read_bytes()}
    bundle = write_bundle(folder, manifest, files)
    engine = load_engine(bundle)
    got = predict(bundle, engine, asked, Console(quiet=True))
    texts = {i: "" if p.is_impossible else p.answers[0].text for i, p in got.items()}
    same = np.mean(
        [texts[i] == ("" if p.is_impossible else p.answers[0].text) for i, p in expected.items()]
    )
    error = np.sqrt(
        np.mean([(got[i].null_score_diff - p.null_score_diff) ** 2 for i, p in expected.items()])
    )
    ratios = [seconds(reference, batch) / seconds(engine, batch) for _ in range(9)]
    f1 = squad_metrics(asked, texts)["f1"]
    return f"{f1:.2f} | {100 * same:.1f} % | {error:.3f} | {np.median(ratios):.2f}×"


if __name__ == "__main__":
    main()
