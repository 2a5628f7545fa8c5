"""`electra-qa bench`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
import numpy as np
from click.core import ParameterSource
from grpc_health.v1.health_pb2_grpc import HealthStub
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from electra_qa.bundle import BundleError
from electra_qa.credentials import Credentials, CredentialsError
from electra_qa.credentials_options import credentials_options
from electra_qa.interrupts import closed_after
from electra_qa.model_options import ModelChoice, model_options
from electra_qa.private import ServerProcess, ServerProcessError, becomes_healthy
from electra_qa.rpc import electra_qa_pb2 as pb
from electra_qa.rpc.electra_qa_pb2_grpc import QuestionAnsweringStub
from electra_qa.squad import SquadError
from electra_qa.squad_files import SquadFile
from electra_qa.versions import installed_versions

from .addresses import free_address
from .bench import Bench, NothingAnsweredError, Settings
from .calls import CHANNEL_OPTIONS
from .environment import server_info, this_machine
from .load import run
from .measurement import Measurement
from .picture import write_picture
from .report import Data, Report, tables
from .workload import (
    SQUAD_LENGTHS,
    Mode,
    Workload,
    WorkloadError,
    made_up_workload,
    parse_lengths,
    read_workload,
    serialized_requests,
)

BATCH_SIZE = 64
# Questions under way in Offline: enough for full batches, and no server's queue is full with them.
OFFLINE_QUESTIONS = 256
# How many questions are made up: more than a server would keep in a cache.
MADE_UP_QUESTIONS = 10_000
INFO_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Load:
    """Which scenario, and its numbers."""

    qps: float | None
    concurrency: int | None
    offline: bool
    sweep: bool

    def __post_init__(self) -> None:
        chosen = [self.sweep, self.offline, self.qps is not None and not self.sweep]
        chosen.append(self.concurrency is not None and not self.offline)
        if sum(chosen) != 1:
            raise click.UsageError(
                "set one of --qps, --concurrency, --offline and --sweep "
                "(--sweep takes --qps as its first rate, --offline takes --concurrency)"
            )

    def scenario(self, mode: Mode) -> str:
        """As MLPerf inference calls it; a closed loop of several callers has no name there."""
        if self.sweep:
            return "Server, highest rate"
        if self.qps is not None:
            return "Server"
        if self.offline:
            return "Offline"
        if self.concurrency == 1:
            return "MultiStream" if mode == "batch" else "SingleStream"
        return "closed loop"

    async def measure(self, bench: Bench) -> tuple[list[Measurement], float | None]:
        """The measurements and, of a sweep, the highest rate."""
        if self.sweep:
            return await bench.sweep(self.qps)
        if self.qps is not None:
            return [await bench.server(self.qps)], None
        assert self.concurrency is not None
        if self.offline:
            return [await bench.offline(self.concurrency)], None
        return [await bench.closed_loop(self.concurrency)], None


def _lengths(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            parse_lengths(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error
    return value


def _writable(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Known before an hour of measuring, not after it."""
    if value is not None and not value.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {value.parent}")
    return value


POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command()
@click.option("--qps", type=POSITIVE, help="Server: so many requests a second, as they come.")
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    help="Closed loop: so many requests under way. 1 is SingleStream, with batches MultiStream.",
)
@click.option("--offline", is_flag=True, help="Offline: every question once, at full speed.")
@click.option("--sweep", is_flag=True, help="Server: look for the highest rate within --slo-ms.")
@click.option(
    "--duration", type=POSITIVE, default=30.0, show_default=True, help="Seconds of sending."
)
@click.option(
    "--warm-up",
    type=click.FloatRange(min=0),
    default=5.0,
    show_default=True,
    help="Seconds of the same before, not counted.",
)
@click.option(
    "--slo-ms",
    type=POSITIVE,
    default=130.0,
    show_default=True,
    help="The latency bound, of goodput and of --sweep.",
)
@click.option(
    "--deadline-ms", type=POSITIVE, default=60_000.0, show_default=True, help="Of each call."
)
@click.option(
    "--mode",
    type=click.Choice(["unary", "batch", "stream"]),
    help="A call for each question, AnswerBatch, or one AnswerStream.  "
    "[default: unary; batch with --offline]",
)
@click.option(
    "--batch-size",
    type=click.IntRange(min=1),
    help=f"Questions in a request of --mode batch.  [default: {BATCH_SIZE}]",
)
@click.option(
    "--data",
    type=SquadFile(),
    help="Ask the questions of this SQuAD file, or of squad-v2-dev.",
)
@click.option(
    "--lengths",
    callback=_lengths,
    help="Ask made-up questions about contexts of so many tokens: LENGTH, LENGTH:WEIGHT,… or "
    f"lognormal:MEAN,SIGMA.  [default: {SQUAD_LENGTHS}, like SQuAD 2.0's dev set]",
)
@click.option(
    "--questions",
    type=click.IntRange(min=1),
    help="How many different ones; they are asked over and over.  "
    f"[default: all of the file, or {MADE_UP_QUESTIONS:,} made-up ones]",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option(
    "--json",
    "json_path",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    callback=_writable,
    help="Write everything here; - for stdout, instead of the table.",
)
@click.option(
    "--picture",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_writable,
    help="Write a PNG here.",
)
@click.option("--address", help="Of the server: HOST:PORT or unix:/PATH.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    help="Seconds to wait for the server at the address to be ready.",
)
@credentials_options()
@click.option("--metrics", help="URL of the Prometheus endpoint of the server at the address.")
@model_options("Start a private server on this bundle.")
@click.option(
    "--device",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Of the private server.",
)
@click.argument("serve_arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- SERVE OPTIONS]")
@click.pass_context
def bench(
    ctx: click.Context,
    qps: float | None,
    concurrency: int | None,
    offline: bool,
    sweep: bool,
    duration: float,
    warm_up: float,
    slo_ms: float,
    deadline_ms: float,
    mode: Mode | None,
    batch_size: int | None,
    data: Path | None,
    lengths: str | None,
    questions: int | None,
    seed: int,
    json_path: Path | None,
    picture: Path | None,
    address: str | None,
    wait: float,
    credentials: Credentials,
    metrics: str | None,
    choice: ModelChoice,
    device: str,
    serve_arguments: tuple[str, ...],
) -> None:
    """Put a server under load and measure it, modelled on the scenarios of MLPerf inference.

    Options of `electra-qa serve` for the private server go behind a --.
    """
    mode = mode or ("batch" if offline else "unary")
    if batch_size is not None and mode != "batch":
        raise click.UsageError("--batch-size is of --mode batch")
    if data is not None and lengths is not None:
        raise click.UsageError("--data and --lengths: set one, not both")
    if address is not None and (choice != ModelChoice() or serve_arguments):
        raise click.UsageError(
            "--address, and a bundle, a model or options of a private server: not both"
        )
    if address is None and metrics is not None:
        raise click.UsageError("--metrics is of the server at --address; a private one has its own")
    if sweep and 10 * slo_ms > 1e3 * duration:
        # What comes after the last question, within the bound, would pass for a growing queue.
        raise click.UsageError("--sweep needs a --duration of ten times --slo-ms at least")
    size = (batch_size or BATCH_SIZE) if mode == "batch" else 1
    if offline and concurrency is None:
        concurrency = max(1, OFFLINE_QUESTIONS // size)
    load = Load(qps, concurrency, offline, sweep)
    with _reported():
        bundle = choice.path(device)
        workload = (
            read_workload(data, questions)
            if data is not None
            else made_up_workload(
                lengths or SQUAD_LENGTHS,
                questions or MADE_UP_QUESTIONS,
                bundle,
                seed,
            )
        )
        with _server(address, wait, credentials, metrics, bundle, device, serve_arguments) as (
            at,
            metrics_url,
        ):
            settings = Settings(
                mode=mode,
                requests=serialized_requests(workload, mode, size, np.random.default_rng(seed)),
                questions_per_request=size,
                deadline_s=deadline_ms / 1e3,
                duration_s=duration,
                warm_up_s=warm_up,
                slo_ms=slo_ms,
                seed=seed,
                metrics_url=metrics_url,
                metadata=credentials.metadata,
            )
            info = _info(at, credentials)
            measurements, highest = run(_measure(at, credentials, load, settings))
    report = Report(
        scenario=load.scenario(mode),
        mode=mode,
        questions_per_request=size,
        concurrency=concurrency,
        duration_s=duration,
        warm_up_s=warm_up,
        deadline_ms=deadline_ms,
        slo_ms=slo_ms,
        seed=seed,
        data=_data(workload),
        server=server_info(info, address is None, [_without_folder(a) for a in serve_arguments]),
        machine=this_machine(),
        versions=installed_versions(),
        command=_command(ctx),
        is_sweep=sweep,
        highest_rate=highest,
        measurements=measurements,
    )
    _hand_out(report, json_path, picture)


async def _measure(
    address: str, credentials: Credentials, load: Load, settings: Settings
) -> tuple[list[Measurement], float | None]:
    console = Console(stderr=True)
    # No thread that draws while requests are due: `Bench` says when.
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[finished]:,} requests"),
        TimeRemainingColumn(),
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        async with credentials.open_async_channel(address, CHANNEL_OPTIONS) as channel:
            return await load.measure(Bench(channel, settings, progress))


@contextmanager
def _server(
    address: str | None,
    wait_s: float,
    credentials: Credentials,
    metrics_url: str | None,
    bundle: Path,
    device: str,
    arguments: Sequence[str],
) -> Iterator[tuple[str, str | None]]:
    """The address of a server that is ready, and the URL of its figures."""
    if address is not None:
        with closed_after(credentials.open_channel(address, ())) as channel:
            if not becomes_healthy(HealthStub(channel), wait_s):
                raise click.ClickException(f"the server at {address} is shutting down")
        yield address, metrics_url
        return
    metrics_address = free_address()
    arguments = ["--metrics-address", metrics_address, *arguments]
    with ServerProcess(bundle, device=device, arguments=arguments) as server:
        yield server.address, f"http://{metrics_address}/metrics"


def _info(address: str, credentials: Credentials) -> pb.GetInfoResponse:
    with credentials.open_channel(address, ()) as channel:
        return QuestionAnsweringStub(channel).GetInfo(
            pb.GetInfoRequest(), timeout=INFO_TIMEOUT_S, metadata=credentials.metadata
        )


def _data(workload: Workload) -> Data:
    return Data(workload.name, workload.sha256, len(workload.pairs))


def _hand_out(report: Report, json_path: Path | None, picture: Path | None) -> None:
    if json_path == Path("-"):
        click.echo(report.to_json(), nl=False)
    else:
        Console().print(tables(report))
        if json_path is not None:
            json_path.write_text(report.to_json(), encoding="utf-8")
    if picture is not None:
        write_picture(report, picture)


def _command(ctx: click.Context) -> str:
    """What was set, as if it had been typed, without the folders of this machine."""
    words = ["electra-qa", "bench"]
    for parameter in ctx.command.params:
        name, value = parameter.name or "", ctx.params.get(parameter.name or "")
        if value is None or value is False:
            continue
        if ctx.get_parameter_source(name) is ParameterSource.DEFAULT:
            continue
        if isinstance(parameter, click.Argument):
            words += ["--", *(_without_folder(argument) for argument in value)]
        elif value is True:
            words.append(parameter.opts[0])
        else:
            words += [
                parameter.opts[0],
                _without_folder(f"{value:g}" if isinstance(value, float) else str(value)),
            ]
    return " ".join(words)


def _without_folder(argument: str) -> str:
    """`/some/where/file` as `file`, also behind `unix:` and `--option=`."""
    return re.sub(r"^(unix:|--[\w-]+=|)/.*?([^/]*)/*$", r"\1\2", argument)


@contextmanager
def _reported() -> Iterator[None]:
    """What went wrong, as one line and exit code 1."""
    try:
        yield
    except (
        BundleError,
        CredentialsError,
        ServerProcessError,
        SquadError,
        WorkloadError,
        NothingAnsweredError,
        OSError,
    ) as error:
        raise click.ClickException(str(error)) from error
    except grpc.RpcError as error:
        call: Any = error
        raise click.ClickException(
            f"the server: {call.code().name}: {call.details()}"
            if hasattr(call, "code")
            else str(error)
        ) from error
