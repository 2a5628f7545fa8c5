"""Graphs whose weights are in a file of their own, on every engine, and what writing one needs."""

from __future__ import annotations

import dataclasses
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx.external_data_helper import uses_external_data

from electra_qa.build_engine.checkpoint import load_checkpoint
from electra_qa.build_engine.graph import build_graph
from electra_qa.build_engine.graph_file import read_without_weights, write_graph
from electra_qa.bundle import Bundle, load_bundle
from electra_qa.cli import main
from electra_qa.engines import DEFAULTS, load_engine
from electra_qa.engines.onnxruntime import OnnxRuntimeEngine
from electra_qa.windows import WindowBatch

SMALL = Path(__file__).parents[1] / "data" / "small.json"
SPANS = {"n_best_size": 8, "max_answer_length_limit": 8}


def build(checkpoint: Path, output: Path, precision: str) -> Bundle:
    arguments = ["build", "--checkpoint", str(checkpoint), "--output", str(output)]
    arguments += ["--max-seq-length", "128", "--precision", precision]
    if precision == "int8":
        arguments += ["--calibration", str(SMALL)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return load_bundle(output)


def batch() -> WindowBatch:
    ids = np.random.default_rng(0).integers(1000, 20000, (3, 64), dtype=np.int32)
    return WindowBatch(ids, np.array([[8, 60, 8, 60, 8]] * 3, np.int32))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_bundle_with_its_weights_outside_is_the_same_bundle(
    tiny_checkpoint: Callable[..., Path],
    weights_outside: Callable[[], None],
    tmp_path: Path,
    precision: str,
) -> None:
    checkpoint = tiny_checkpoint(hidden_size=128, intermediate_size=640)
    inside = build(checkpoint, tmp_path / "inside", precision)
    weights_outside()
    outside = build(checkpoint, tmp_path / "outside", precision)

    graph = f"model.{precision}.onnx"
    assert sorted(inside.manifest.files) == [graph, "tokenizer.json"]
    assert sorted(outside.manifest.files) == [graph, f"{graph}.data", "tokenizer.json"]
    size = outside.graph_path.stat().st_size
    assert size < 0.4 * inside.graph_path.stat().st_size
    assert inside.graph_path.stat().st_size < size + (outside.path / f"{graph}.data").stat().st_size
    assert CliRunner().invoke(main, ["check", str(outside.graph_path)]).exit_code == 0

    for engine in (load_engine, lambda bundle: OnnxRuntimeEngine(bundle, DEFAULTS)):
        expected, got = engine(inside).run(batch()), engine(outside).run(batch())
        for field in dataclasses.fields(got):
            np.testing.assert_array_equal(getattr(got, field.name), getattr(expected, field.name))


def test_other_weights_are_another_graph(
    tiny_checkpoint: Callable[..., Path], weights_outside: Callable[[], None], tmp_path: Path
) -> None:
    """Though the graph's own file may be the same: a plan of TensorRT is found by this sum."""
    weights_outside()
    bundle = build(tiny_checkpoint(), tmp_path / "bundle", "fp32")
    files = bundle.manifest.files
    changed = dataclasses.replace(
        bundle,
        manifest=dataclasses.replace(
            bundle.manifest, files={**files, "model.fp32.onnx.data": "0" * 64}
        ),
    )
    assert changed.graph_sha256 != bundle.graph_sha256
    assert bundle.graph_sha256 not in files.values()


def test_damaged_weights_are_refused(
    tiny_checkpoint: Callable[..., Path], weights_outside: Callable[[], None], tmp_path: Path
) -> None:
    weights_outside()
    bundle = build(tiny_checkpoint(), tmp_path / "bundle", "fp32")
    data = bundle.path / "model.fp32.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    result = CliRunner().invoke(
        main, ["ask", "Who?", "--bundle", str(bundle.path), "--context", "I"]
    )
    assert result.exit_code != 0
    assert "model.fp32.onnx.data is damaged" in result.output


def test_an_older_graphs_files_are_replaced_not_written_into(
    tiny_checkpoint: Callable[..., Path], weights_outside: Callable[[], None], tmp_path: Path
) -> None:
    graph = build_graph(load_checkpoint(str(tiny_checkpoint())), **SPANS)
    path, data, kept = (tmp_path / name for name in ("model.onnx", "model.onnx.data", "kept"))
    data.write_bytes(b"an older graph's, which an engine may have mapped")
    kept.hardlink_to(data)
    assert write_graph(graph, path) == [path]
    assert not data.exists()
    data.hardlink_to(kept)
    weights_outside()
    assert write_graph(graph, path) == [path, data]
    assert kept.read_bytes().startswith(b"an older graph's")


def test_small_constants_are_read_and_weights_are_not(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    """Other exporters put nearly everything outside."""
    graph = build_graph(load_checkpoint(str(tiny_checkpoint())), half=True, **SPANS)
    write_graph(graph, tmp_path / "inside.onnx")
    model = onnx.load(tmp_path / "inside.onnx")
    onnx.save(
        model, tmp_path / "model.onnx", save_as_external_data=True, location="w", size_threshold=0
    )
    outside = {
        tensor.name
        for tensor in read_without_weights(tmp_path / "model.onnx").graph.initializer
        if uses_external_data(tensor)
    }
    assert outside == {
        tensor.name for tensor in model.graph.initializer if len(tensor.raw_data) > 2**20
    }


class Made(Mapping[str, np.ndarray]):
    """Weights that are nowhere until they are asked for."""

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = shapes

    def __getitem__(self, name: str) -> np.ndarray:
        return np.full(self._shapes[name], 0.01, np.float32)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


def test_writing_holds_one_weight_at_a_time(
    tiny_checkpoint: Callable[..., Path], weights_outside: Callable[[], None], tmp_path: Path
) -> None:
    weights_outside()
    small = load_checkpoint(str(tiny_checkpoint("bert", vocab_size=30522)))
    architecture = dataclasses.replace(
        small.architecture, vocab_size=2000, embedding_size=256, hidden_size=256,
        intermediate_size=2048, num_hidden_layers=8,
        attention_heads_by_layer=(4,) * 8, intermediate_size_by_layer=(2048,) * 8,
    )  # fmt: skip
    shapes = small.family.shapes(architecture)
    checkpoint = dataclasses.replace(small, architecture=architecture, weights=Made(shapes))
    largest = max(4 * int(np.prod(shape)) for shape in shapes.values())
    for half in (False, True):
        path = tmp_path / f"{half}.onnx"
        tracemalloc.start()
        write_graph(build_graph(checkpoint, half=half, **SPANS), path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        written = path.with_name(f"{path.name}.data").stat().st_size
        assert written > 10 * largest / (1 + half)
        assert peak < 4 * largest


def test_what_is_written_is_the_same_every_time(
    tiny_checkpoint: Callable[..., Path], tmp_path: Path
) -> None:
    folder = str(tiny_checkpoint())
    for name in ("a", "b"):
        write_graph(build_graph(load_checkpoint(folder), **SPANS), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
