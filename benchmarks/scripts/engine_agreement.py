"""How many answers two engines share on one graph: OpenVINO and ONNX Runtime.

pip install 'electra-qa[compare]'
python benchmarks/scripts/engine_agreement.py --bundle bundle/ --data dev-v2.0.json --questions 2000
"""

from __future__ import annotations

from pathlib import Path

import click
import onnxruntime
from rich.console import Console

from electra_qa.build_engine.accuracy import predict
from electra_qa.bundle import Bundle, load_bundle
from electra_qa.engines import load_engine
from electra_qa.spans import OUTPUTS, DecodedWindows, Prediction
from electra_qa.squad import read_squad
from electra_qa.windows import WindowBatch


class OnnxRuntimeEngine:
    """The graph on ONNX Runtime's CPU kernels, for comparison only."""

    slots = 1
    batch_tokens = 4096

    def __init__(self, bundle: Bundle, buckets: tuple[int, ...]) -> None:
        self.device = f"ONNX Runtime {onnxruntime.__version__}"
        self.buckets = buckets
        self._session = onnxruntime.InferenceSession(bundle.graph_path)

    def run(self, batch: WindowBatch) -> DecodedWindows:
        feed = {"input_ids": batch.input_ids, "bounds": batch.bounds}
        results = self._session.run(list(OUTPUTS), feed)
        return DecodedWindows(**dict(zip(OUTPUTS, results, strict=True)))

    def close(self) -> None:
        """Nothing to free."""


def text(prediction: Prediction) -> str:
    return "" if prediction.is_impossible else prediction.answers[0].text


@click.command()
@click.option("--bundle", "path", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--questions", type=int, default=2000, show_default=True)
def main(path: Path, data: Path, questions: int) -> None:
    """Count the questions whose answers have the same text on both engines."""
    bundle = load_bundle(path)
    asked = read_squad(data)
    asked = asked[:: max(1, len(asked) // questions)][:questions]
    engine = load_engine(bundle)
    other = OnnxRuntimeEngine(bundle, engine.buckets)
    console = Console(stderr=True)
    ours = predict(bundle, engine, asked, console)
    theirs = predict(bundle, other, asked, console)
    same = sum(text(ours[id_]) == text(theirs[id_]) for id_ in ours)
    spans = sum(
        ours[id_].answers[:1] == theirs[id_].answers[:1]
        or (ours[id_].answers[0].start, ours[id_].answers[0].end)
        == (theirs[id_].answers[0].start, theirs[id_].answers[0].end)
        for id_ in ours
    )
    print(f"{engine.device} against {other.device}, {bundle.manifest.precision}:")
    print(f"{same} of {len(asked)} answers the same ({100 * same / len(asked):.2f} %),")
    print(f"{spans} best spans the same ({100 * spans / len(asked):.2f} %)")


if __name__ == "__main__":
    main()
