r"""The README's table: the same questions through one server a bundle, in turns.

    python benchmarks/scripts/precisions.py --data dev-v2.0.json \
        --bundle fp32/ --bundle fp16/ --bundle int8/

The questions are cut into rounds, and in every round each bundle has its turn, so that a machine
whose speed drifts is as unfair to one as to the other. The first bundle is what the others are
compared with.
"""

from __future__ import annotations

import platform
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from electra_qa.bundle import load_bundle
from electra_qa.client import Client, PrivateServer
from electra_qa.client.evaluate import evaluate
from electra_qa.squad import read_squad, squad_metrics

ROUNDS = 8


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--bundle", "paths", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--limit", type=int)
def main(data: Path, paths: tuple[Path, ...], limit: int | None) -> None:
    """Measure bundles side by side and print a Markdown table."""
    console = Console(stderr=True)
    questions = read_squad(data)[:limit]
    predictions: dict[Path, dict[str, str]] = {path: {} for path in paths}
    windows = dict.fromkeys(paths, 0)
    seconds = dict.fromkeys(paths, 0.0)
    with ExitStack() as stack:
        clients = {}
        for path in paths:
            server = stack.enter_context(PrivateServer(path))
            clients[path] = stack.enter_context(Client(server.address, timeout=600))
            clients[path].answer_batch([(q.question, q.context) for q in questions[:64]])
        for number in range(ROUNDS):
            turn = questions[number::ROUNDS]
            for path in paths:
                evaluation = evaluate(clients[path], turn, lambda: None)
                predictions[path] |= evaluation.predictions
                windows[path] += evaluation.windows
                seconds[path] += evaluation.seconds
                console.print(f"round {number + 1}/{ROUNDS}, {path}: {evaluation.seconds:.0f} s")
        device = clients[paths[0]].info().device
    first = paths[0]
    base = windows[first] / seconds[first]
    print("| | EM | F1 | HasAns F1 | NoAns F1 | bundle | windows a second | other answers |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for path in paths:
        bundle = load_bundle(path)
        metrics = squad_metrics(questions, predictions[path])
        size = sum(file.stat().st_size for file in path.iterdir() if file.is_file()) / 1e6
        rate = windows[path] / seconds[path]
        other = sum(predictions[path][q.id] != predictions[first][q.id] for q in questions)
        print(
            f"| {bundle.manifest.precision} | {metrics['exact']:.2f} | {metrics['f1']:.2f} "
            f"| {metrics['HasAns_f1']:.2f} | {metrics['NoAns_f1']:.2f} | {size:.1f} MB "
            f"| {rate:.1f} ({rate / base:.2f}×) | {100 * other / len(questions):.2f} % |"
        )
    print(
        f"\n{len(questions)} questions of {data.name}, {device}, Python", platform.python_version()
    )


if __name__ == "__main__":
    main()
