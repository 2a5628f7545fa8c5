"""ONNX Runtime as a library."""

from __future__ import annotations

import argparse
from pathlib import Path

from lines import one_at_a_time, serve_lines
from ort_model import ort_model
from reader import Reader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--graph", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, default=1, help="1: one question at a time")
    arguments = parser.parse_args()
    reader = Reader(
        arguments.checkpoint, ort_model(arguments.graph), batch_size=arguments.batch_size
    )
    answer = one_at_a_time(reader.answer) if arguments.batch_size == 1 else reader.answer
    serve_lines(answer)


if __name__ == "__main__":
    main()
