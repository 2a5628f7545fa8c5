r"""What a build costs: time, memory and size, for a checkpoint of random weights of a given shape.

    python benchmarks/scripts/build_footprint.py --shape base --precision int8 \
        --calibration squadshifts-amazon.json

The build is a process of its own, run with as many threads as CPUs. Its peak is that of resident
memory, pages of mapped files included; CPU seconds are what to compare on a machine that others
use too.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

REPOSITORY = Path(__file__).parents[2]
AT_ONCE = 2**20  # random values, so that this process stays small

# vocab_size, embedding and hidden size, layers, heads, intermediate size
SHAPES = {
    "tiny": (30522, 32, 2, 4, 64),
    "base": (30522, 768, 12, 12, 3072),  # 110 M parameters
    "large": (30522, 1024, 24, 16, 4096),  # 335 M
    "xlm-r-large": (250002, 1024, 24, 16, 4096),  # 560 M
}


def config_of(shape: str) -> dict[str, object]:
    vocab_size, hidden, layers, heads, intermediate = SHAPES[shape]
    return {
        "model_type": "electra",
        "vocab_size": vocab_size,
        "embedding_size": hidden,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "max_position_embeddings": 512,
    }


def tensors_of(shape: str) -> dict[str, tuple[int, ...]]:
    vocab_size, hidden, layers, _, intermediate = SHAPES[shape]

    def linear(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.LayerNorm.weight": (hidden,), f"{name}.LayerNorm.bias": (hidden,)}

    tensors: dict[str, tuple[int, ...]] = {
        "electra.embeddings.word_embeddings.weight": (vocab_size, hidden),
        "electra.embeddings.position_embeddings.weight": (512, hidden),
        "electra.embeddings.token_type_embeddings.weight": (2, hidden),
        **norm("electra.embeddings"),
        **linear("qa_outputs", hidden, 2),
    }
    for index in range(layers):
        layer = f"electra.encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            tensors |= linear(f"{layer}.attention.{part}", hidden, hidden)
        tensors |= norm(f"{layer}.attention.output")
        tensors |= linear(f"{layer}.intermediate.dense", hidden, intermediate)
        tensors |= linear(f"{layer}.output.dense", intermediate, hidden)
        tensors |= norm(f"{layer}.output")
    return tensors


def write_checkpoint(folder: Path, shape: str) -> None:
    """As trained ones are: norms near 1, the rest normal with a standard deviation of 0.02."""
    (folder / "config.json").write_text(json.dumps(config_of(shape)))
    shutil.copy(REPOSITORY / "models" / "electra-minilm-squad2" / "tokenizer.json", folder)
    header: dict[str, object] = {}
    end = 0
    tensors = tensors_of(shape)
    for name, size in tensors.items():
        begin, end = end, end + 4 * math.prod(size)
        header[name] = {"dtype": "F32", "shape": size, "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for values in random_values(tensors):
            values.tofile(file)


def random_values(tensors: dict[str, tuple[int, ...]]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for name, size in tensors.items():
        mean = 1.0 if name.endswith("LayerNorm.weight") else 0.0
        left = math.prod(size)
        while left:
            count = min(left, AT_ONCE)
            yield rng.standard_normal(count, np.float32) * np.float32(0.02) + np.float32(mean)
            left -= count


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="base", show_default=True)
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True
)
@click.option("--calibration", type=click.Path(exists=True, path_type=Path))
@click.option("--ask", is_flag=True, help="Answer a question with the bundle, too.")
def main(shape: str, precision: str, calibration: Path | None, ask: bool) -> None:
    """Build and print a row of a Markdown table."""
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint, bundle = Path(temporary) / shape, Path(temporary) / "bundle"
        checkpoint.mkdir()
        write_checkpoint(checkpoint, shape)
        program = [sys.executable, "-m", "electra_qa"]
        command = [*program, "build", "--checkpoint", str(checkpoint), "--output", str(bundle)]
        command += ["--precision", precision]
        if calibration is not None:
            command += ["--calibration", str(calibration)]
        started = time.perf_counter()
        process = subprocess.Popen(command)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        if status:
            raise SystemExit(os.waitstatus_to_exitcode(status))
        size = sum(file.stat().st_size for file in bundle.iterdir()) / 1e6
        print("| shape | precision | seconds | CPU seconds | peak | bundle |")
        print("| --- | --- | --- | --- | --- | --- |")
        print(
            f"| {shape} | {precision} | {seconds:.0f} | {usage.ru_utime + usage.ru_stime:.0f} | "
            f"{usage.ru_maxrss * 1024 / 1e9:.2f} GB | {size:.0f} MB |"
        )
        print({file.name: file.stat().st_size for file in bundle.iterdir()}, file=sys.stderr)
        if ask:
            context = "Rome was founded by Romulus in 753 BC, says the legend."
            options = ["--bundle", str(bundle), "--context", context, "--json"]
            subprocess.run([*program, "ask", "Who founded Rome?", *options], check=True)


if __name__ == "__main__":
    main()
