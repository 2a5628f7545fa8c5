r"""How much a bundle's F1 depends on how its questions are typed.

    python benchmarks/scripts/question_robustness.py --data dev-v2.0.json --every 4 \
        --bundle old/ --bundle new/

The same questions are asked as they are, in capitals, in lower case, without their mark, and with
one and two typos, through a server of each bundle, at its own threshold.
"""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import click
import numpy as np
from rich.console import Console

from electra_qa.build_engine.finetune.typing_slips import with_typo, without_mark
from electra_qa.client import Client, PrivateServer
from electra_qa.client.evaluate import evaluate
from electra_qa.squad import SquadQuestion, read_squad


def _typo(text: str) -> str:
    return with_typo(text, np.random.default_rng(zlib.crc32(text.encode())))


FORMS: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "IN CAPITALS": str.upper,
    "in lower case": str.lower,
    "without its mark": without_mark,
    "lower case, no mark": lambda text: without_mark(text).lower(),
    "a typo": _typo,
    "two typos": lambda text: _typo(_typo(text)),
}


@click.command()
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--bundle", "paths", type=click.Path(path_type=Path), multiple=True, required=True)
@click.option("--every", type=click.IntRange(min=1), default=1, help="Take every n-th question.")
def main(data: Path, paths: tuple[Path, ...], every: int) -> None:
    """Ask the questions in each form and print a Markdown table."""
    console = Console(stderr=True)
    questions = read_squad(data)[::every]
    print(
        "| questions | " + " | ".join(f"F1 of {path.name} | other answers" for path in paths) + " |"
    )
    print("| --- " * (1 + 2 * len(paths)) + "|")
    with ExitStack() as stack:
        clients = {}
        for path in paths:
            server = stack.enter_context(PrivateServer(path))
            clients[path] = stack.enter_context(Client(server.address))
        plain: dict[Path, Mapping[str, str]] = {}
        for name, form in FORMS.items():
            typed = [dataclasses.replace(q, question=form(q.question)) for q in questions]
            cells = [_cell(clients[path], path, typed, plain) for path in paths]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)
            console.print(name, "done")
    print(f"\n{len(questions)} questions of {data.name}, the same ones in each row.")


def _cell(
    client: Client,
    path: Path,
    typed: list[SquadQuestion],
    plain: dict[Path, Mapping[str, str]],
) -> str:
    """F1, and the share of answers that are others than to the questions as they are."""
    evaluation = evaluate(client, typed, lambda: None)
    before = plain.setdefault(path, evaluation.predictions)
    other = sum(evaluation.predictions[q.id] != before[q.id] for q in typed) / len(typed)
    return f"{evaluation.metrics['f1']:.2f} | {100 * other:.1f} %"


if __name__ == "__main__":
    main()
