"""One question over a thousand paragraphs: how much of the engine's speed the server leaves.

The bare engine gets the windows of the question with each paragraph sorted by length, with nothing
else to do; the server gets one `answer_documents`. In turns, on the same machine, the client beside
the server.

pip install 'electra-qa[bench]'
python benchmarks/scripts/documents_share.py --data dev-v2.0.json
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import click
from served_share import Turn, bare, show, sorted_batches, windows_of

from electra_qa.benchmarks.server_figures import figures_between, read_counters
from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.client import Client
from electra_qa.engines import EngineSettings, load_engine
from electra_qa.private import ServerProcess
from electra_qa.squad import read_squad

QUESTION = "In what country is Normandy located?"


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--documents", "count", default=1000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--metrics-port", default=9465, show_default=True)
def main(data: Path, count: int, rounds: int, metrics_port: int) -> None:
    bundle = load_bundle(default_bundle_path())
    by_context = {question.context: question for question in read_squad(data)}
    chosen = list(by_context.values())[:count]
    asked = [dataclasses.replace(question, question=QUESTION) for question in chosen]
    engine = load_engine(bundle, EngineSettings())
    windows = windows_of(bundle, asked)
    tokens = sum(window.length for window in windows)
    batches = sorted_batches(engine, windows)
    metrics = f"127.0.0.1:{metrics_port}"
    click.echo(f"{engine.device}, {len(chosen)} paragraphs, {len(windows)} windows")
    turns: dict[str, list[Turn]] = {"bare engine": [], "answer_documents": []}
    bare(engine, batches, tokens)
    with (
        ServerProcess(bundle.path, arguments=["--metrics-address", metrics]) as server,
        Client(server.address) as client,
    ):
        url = f"http://{metrics}/metrics"
        for _ in range(rounds):
            turns["bare engine"].append(bare(engine, batches, tokens))
            before, began = read_counters(url), time.perf_counter()
            result = client.answer_documents(QUESTION, [q.context for q in chosen], top_k=5)
            seconds = time.perf_counter() - began
            assert result.documents_read == len(chosen)
            padding = figures_between(before, read_counters(url), seconds).padding_share
            assert padding is not None
            turns["answer_documents"].append(Turn(result.windows / seconds, padding))
    show(turns)
    engine.close()


if __name__ == "__main__":
    main()
