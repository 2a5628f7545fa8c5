r"""The comparison with the peers.

    python -m electra_qa.benchmarks.peers.run --data dev-v2.0.json --output peers/ \
        --environments .venv-peers/ --calibration train-v2.0.json

Makes a virtual environment for each library, exports the checkpoint for those that need it, starts
everyone, and measures them in turns; whoever has no turn is stopped. Needs Linux.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import random
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console

from electra_qa.bundle import default_bundle_path
from electra_qa.squad import SquadQuestion, read_squad, squad_metrics

from .. import load
from ..environment import this_machine
from . import environments, report
from .agreement import agreement
from .exports import ExportFailedError, Exports
from .measuring import Comparison, Figures
from .roster import CONTESTANTS, OURS, PEERS, REFERENCE, Peer
from .running import Running, StartFailedError, start

CHECKPOINT = Path(__file__).parents[2] / "models" / "electra-minilm-squad2"
SEED = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the command line says."""

    data: Path
    output: Path
    environments: Path | None
    checkpoint: Path
    bundle: Path
    calibration: Path | None
    questions: int
    warm_up: int
    rounds: int
    rate: float | None
    latency_seconds: float
    null_score_diff_threshold: float


@click.command(help=(__doc__ or "").splitlines()[0])
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), required=True, help="A SQuAD file."
)
@click.option("--output", type=click.Path(path_type=Path), required=True, help="A folder.")
@click.option(
    "--environments",
    "environments_folder",
    type=click.Path(path_type=Path),
    help="Folder of the virtual environments; those that are there are used again.  "
    "[default: none, everyone runs in this one]",
)
@click.option("--checkpoint", type=click.Path(path_type=Path, exists=True), default=CHECKPOINT)
@click.option(
    "--bundle", type=click.Path(path_type=Path, exists=True), help="Ours, of that checkpoint."
)
@click.option(
    "--calibration",
    type=click.Path(exists=True, path_type=Path),
    help="A SQuAD file for those that quantize with data; not the one of --data.",
)
@click.option("--questions", type=click.IntRange(min=1), default=2000, show_default=True)
@click.option("--warm-up", type=click.IntRange(min=1), default=200, show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Questions a second for latency.  [default: 60 % of what the slowest can, but for those "
    "that are far slower than Transformers]",
)
@click.option(
    "--latency-seconds",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="Of each peer; 0 for none.",
)
@click.option(
    "--null-score-diff-threshold",
    type=float,
    help="Everybody answers where the null score is at most so much over the best span's.  "
    "[default: the bundle's]",
)
@click.option("--only", help=f"Names, with commas, of: {', '.join(p.name for p in PEERS)}.")
def main(
    data: Path,
    output: Path,
    environments_folder: Path | None,
    checkpoint: Path,
    bundle: Path | None,
    calibration: Path | None,
    questions: int,
    warm_up: int,
    rounds: int,
    rate: float | None,
    latency_seconds: float,
    null_score_diff_threshold: float | None,
    only: str | None,
) -> None:
    bundle = (bundle or default_bundle_path()).resolve()
    if null_score_diff_threshold is None:
        null_score_diff_threshold = float(_manifest(bundle)["null_score_diff_threshold"])
    settings = Settings(
        data=data,
        output=output.resolve(),
        environments=environments_folder,
        checkpoint=checkpoint.resolve(),
        bundle=bundle,
        calibration=calibration.resolve() if calibration else None,
        questions=questions,
        warm_up=warm_up,
        rounds=rounds,
        rate=rate,
        latency_seconds=latency_seconds,
        null_score_diff_threshold=null_score_diff_threshold,
    )
    peers = _chosen(only)
    settings.output.mkdir(parents=True, exist_ok=True)
    console = Console(stderr=True, highlight=False)
    result = load.run(compare(settings, peers, console.print))
    report.write(result, settings.output)
    click.echo(report.table(result))


def _chosen(only: str | None) -> list[Peer]:
    if only is None:
        return list(PEERS)
    names = {name.strip() for name in only.split(",")}
    unknown = names - {peer.name for peer in PEERS}
    if unknown:
        raise click.BadParameter(f"no peer is named {', '.join(sorted(unknown))}")
    return [peer for peer in PEERS if peer.name in names]


async def compare(
    settings: Settings, peers: Sequence[Peer], say: Callable[[str], None]
) -> report.Report:
    everything = read_squad(settings.data)
    mixed = random.Random(SEED).sample(everything, len(everything))
    sample = mixed[: settings.questions]
    # Others than those that are measured, where there are more.
    warm_up = (mixed[settings.questions :] or mixed)[: settings.warm_up]
    left_out: dict[str, str] = {}
    prepared: list[_Prepared] = []
    running: list[Running] = []
    # All of it before anyone is up: pip and the exports want the whole machine.
    for peer in peers:
        say(f"preparing {peer.name}")
        try:
            prepared.append(await asyncio.to_thread(_prepare, settings, peer))
        except (environments.EnvironmentFailedError, ExportFailedError) as error:
            left_out[peer.name] = str(error)
            say(f"{peer.name} is left out: {error}")
    try:
        for one in prepared:
            say(f"starting {one.peer.name}")
            try:
                running.append(await one.start(settings))
            except StartFailedError as error:
                left_out[one.peer.name] = str(error)
                say(f"{one.peer.name} is left out: {error}")
        comparison = Comparison(running, say)
        await comparison.warm_up([(q.question, q.context) for q in warm_up])
        await comparison.throughput(sample, settings.rounds)
        rate = settings.rate
        if settings.latency_seconds:
            rate = rate or comparison.rate_for_all()
            await comparison.latency(
                sample,
                rate,
                settings.latency_seconds,
                everyone=settings.rate is not None,
                seed=SEED,
            )
    finally:
        for up in running:
            await up.close()
    found = [
        (one, comparison.figures[one.peer.name])
        for one in prepared
        if one.peer.name not in left_out
    ]
    return _report(settings, found, sample, left_out, rate)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A peer with all that it needs to be started."""

    peer: Peer
    python: Path | str
    versions: dict[str, str]
    values: dict[str, str]

    async def start(self, settings: Settings) -> Running:
        # Ours must not find scripts where its own modules are.
        python_path = "" if self.peer.environment is None else str(CONTESTANTS)
        folder = settings.output / "work" / self.peer.name
        return await start(self.peer, self.python, self.values, folder, python_path)


def _prepare(settings: Settings, peer: Peer) -> _Prepared:
    def python(environment: str | None) -> Path | str:
        if environment is None or settings.environments is None:
            return sys.executable
        return environments.prepare(settings.environments, environment)

    interpreter = python(peer.environment)
    versions = environments.versions(interpreter, peer.libraries)
    exports = Exports(settings.output / "work", settings.checkpoint, settings.calibration, python)
    exports.make(peer.needs)
    values = {
        "checkpoint": str(settings.checkpoint),
        "bundle": str(settings.bundle),
        "contestants": str(CONTESTANTS),
        "onnx": str(exports.folder("onnx")),
        "openvino": str(exports.folder("openvino")),
    }
    return _Prepared(peer, interpreter, versions, values)


def _report(
    settings: Settings,
    found: Sequence[tuple[_Prepared, Figures]],
    sample: Sequence[SquadQuestion],
    left_out: dict[str, str],
    rate: float | None,
) -> report.Report:
    config = json.loads((settings.checkpoint / "config.json").read_text(encoding="utf-8"))
    random_weights = bool(config.get("random_weights"))
    figures = {prepared.peer.name: one for prepared, one in found}
    threshold = settings.null_score_diff_threshold
    rows = [_row(one, sample, figures, threshold, random_weights) for one, _ in found]
    return report.Report(
        machine=this_machine(),
        instructions=instructions(),
        when=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        command=shlex.join(
            ["python", "-m", "electra_qa.benchmarks.peers.run", *_shortened(sys.argv[1:])]
        ),
        checkpoint=settings.checkpoint.name,
        random_weights=random_weights,
        bundle=_bundle_name(settings.bundle),
        data=settings.data.name,
        questions=len(sample),
        rounds=settings.rounds,
        rate=rate,
        latency_seconds=settings.latency_seconds,
        null_score_diff_threshold=threshold,
        rows=rows,
        left_out=left_out,
    )


def _row(
    prepared: _Prepared,
    sample: Sequence[SquadQuestion],
    figures: dict[str, Figures],
    threshold: float,
    random_weights: bool,
) -> report.Row:
    peer = prepared.peer
    found = figures[peer.name]
    ours = figures[OURS].questions_per_second if OURS in figures else []
    reference = figures[REFERENCE].answers if REFERENCE in figures else {}
    texts = {id_: answer.at(threshold) for id_, answer in found.answers.items()}
    metrics = squad_metrics(sample, texts) if texts and not random_weights else {}
    latencies = found.latencies_ms
    return report.Row(
        name=peer.name,
        how=peer.how,
        versions=prepared.versions,
        questions_per_second=found.questions_per_second,
        single_per_second=found.single_per_second,
        # A peer that failed has fewer rounds.
        slower_by=[
            mine / theirs for mine, theirs in zip(ours, found.questions_per_second, strict=False)
        ],
        p50_ms=float(np.quantile(latencies, 0.5)) if latencies else None,
        p99_ms=float(np.quantile(latencies, 0.99)) if latencies else None,
        latency_questions=len(latencies),
        memory_mb=found.memory_mb,
        exact=metrics.get("exact"),
        f1=metrics.get("f1"),
        agreement=agreement(found.answers, reference, threshold),
        errors=found.errors,
        failed=found.failed,
    )


def _bundle_name(path: Path) -> str:
    manifest = _manifest(path)
    return f"{manifest['source']} {manifest['precision']}"


def _manifest(bundle: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    return content


def _shortened(arguments: Sequence[str]) -> list[str]:
    """Without the folders of this machine."""
    return [Path(a).name if "/" in a and not a.startswith("-") else a for a in arguments]


def instructions() -> list[str]:
    """Which of the vector extensions that decide how fast int8 and bfloat16 are this CPU has."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "").split()
    wanted = (
        *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    )
    return [flag for flag in wanted if flag in flags]


if __name__ == "__main__":
    main()
