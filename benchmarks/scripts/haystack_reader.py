r"""Haystack's own reader and ours, on one model: the same answers, and how many times as fast.

    python benchmarks/scripts/haystack_reader.py --data dev-v2.0.json \
        --checkpoint models/electra-minilm-squad2 --questions 200

Each question is put to all paragraphs of its article, by each reader in turn. Haystack's gives the
model no segments, so that both read a copy of the checkpoint whose second segment is as its first.
Questions are drawn evenly from the file. Needs `transformers-haystack` and `accelerate`.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
from haystack import Document
from haystack_integrations.components.readers.transformers import TransformersExtractiveReader
from safetensors.numpy import load_file, save_file

from electra_qa.client.haystack import ElectraQAReader
from electra_qa.squad import SquadQuestion, read_squad
from electra_qa.versions import installed_versions

SEGMENTS = "token_type_embeddings.weight"


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--questions", type=click.IntRange(min=1), default=200, show_default=True)
def main(data: Path, checkpoint: Path, questions: int) -> None:
    """Print a Markdown table, the machine and the versions."""
    everything = read_squad(data)
    chosen = everything[:: max(1, len(everything) // questions)][:questions]
    with tempfile.TemporaryDirectory() as folder:
        model = _without_segments(checkpoint, Path(folder) / "model")
        readers: dict[str, Any] = {
            "Haystack's, PyTorch float32": TransformersExtractiveReader(str(model), token=None),
            "ours, fp32": ElectraQAReader(model),
            "ours, int8": ElectraQAReader(model, precision="int8"),
        }
        _compare(readers, everything, chosen)
        for reader in readers.values():
            if isinstance(reader, ElectraQAReader):
                reader.close()
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores")
    print(json.dumps(installed_versions()))


def _without_segments(checkpoint: Path, folder: Path) -> Path:
    shutil.copytree(checkpoint, folder)
    file = folder / "model.safetensors"
    tensors = load_file(file)
    (name,) = (name for name in tensors if name.endswith(SEGMENTS))
    tensors[name][1] = tensors[name][0]
    # Transformers computes in what a checkpoint is stored in, and float16 is slow on a CPU.
    tensors = {name: tensor.astype(np.float32) for name, tensor in tensors.items()}
    file.unlink()
    save_file(tensors, file, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def _compare(
    readers: Mapping[str, Any], everything: list[SquadQuestion], chosen: list[SquadQuestion]
) -> None:
    documents: dict[str, dict[str, Document]] = {}
    for question in everything:
        of_article = documents.setdefault(question.article, {})
        of_article.setdefault(question.context, Document(content=question.context))
    answers: dict[str, list[list[Any]]] = {name: [] for name in readers}
    seconds = dict.fromkeys(readers, 0.0)
    for reader in readers.values():  # the first time is nobody's
        reader.run("Who?", [Document(content=question.context) for question in chosen[:8]])
    for question in chosen:
        texts = list(documents[question.article].values())
        for name, reader in readers.items():
            began = time.perf_counter()
            found = reader.run(question.question, texts)["answers"]
            seconds[name] += time.perf_counter() - began
            answers[name].append([(one.data, one.document and one.document.id) for one in found])
    first, *_ = readers
    print(f"{len(chosen)} questions, {sum(len(documents[q.article]) for q in chosen)} paragraphs\n")
    print("| reader | seconds | times as fast | same first answer | same 21 results |")
    print("| --- | --- | --- | --- | --- |")
    for name in readers:
        pairs = list(zip(answers[name], answers[first], strict=True))
        same_first = sum(one[0] == other[0] for one, other in pairs) / len(pairs)
        same = sum(one == other for one, other in pairs) / len(pairs)
        print(
            f"| {name} | {seconds[name]:.1f} | {seconds[first] / seconds[name]:.2f} | "
            f"{100 * same_first:.1f} % | {100 * same:.1f} % |"
        )


if __name__ == "__main__":
    main()
