"""`electra-qa serve`."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

import click

from electra_qa.bundle import BundleError, default_bundle_path, load_bundle
from electra_qa.engines import EngineError, load_engine

from .lifecycle import AddressError, serve_until
from .settings import ServerSettings

DEFAULTS = ServerSettings()


@click.command()
@click.option(
    "--bundle",
    "bundle_path",
    type=click.Path(path_type=Path),
    help="The bundle to serve.  [default: the one in the package]",
)
@click.option(
    "--address",
    default=DEFAULTS.address,
    show_default=True,
    help="HOST:PORT (port 0 takes a free one) or unix:/PATH.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), help="CPU threads of the engine.  [default: all]"
)
@click.option(
    "--max-context-length",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_context_length,
    show_default=True,
    help="The longest context, in characters.",
)
@click.option(
    "--max-question-length",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_question_length,
    show_default=True,
    help="The longest question, in characters.",
)
@click.option(
    "--max-batch-questions",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_batch_questions,
    show_default=True,
    help="Questions in one AnswerBatch.",
)
@click.option(
    "--max-stream-questions",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_stream_questions,
    show_default=True,
    help="Questions of one AnswerStream that are worked on at a time.",
)
@click.option(
    "--max-message-bytes",
    type=click.IntRange(min=1024),
    default=DEFAULTS.max_message_bytes,
    show_default=True,
    help="The largest message.",
)
@click.option(
    "--max-batch-tokens",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_batch_tokens,
    show_default=True,
    help="The token budget of one run of the engine.",
)
@click.option(
    "--max-queue-tokens",
    type=click.IntRange(min=1),
    default=DEFAULTS.max_queue_tokens,
    show_default=True,
    help="Tokens that may wait; calls that come when more do are refused.",
)
@click.option(
    "--drain-timeout-s",
    type=click.FloatRange(min=0),
    default=DEFAULTS.drain_timeout_s,
    show_default=True,
    help="How long to finish accepted calls after SIGTERM.",
)
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
@click.option("--log-level", default="info", type=click.Choice(["debug", "info", "warning"]))
def serve(
    bundle_path: Path | None,
    threads: int | None,
    until_stdin_closes: bool,
    log_level: str,
    **settings: object,
) -> None:
    """Serve a bundle over gRPC until SIGTERM or Ctrl-C."""
    logging.basicConfig(
        level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        bundle = load_bundle(bundle_path or default_bundle_path())
        engine = load_engine(bundle, threads=threads)
        asyncio.run(_serve(bundle, engine, ServerSettings(**settings), until_stdin_closes))  # type: ignore[arg-type]
    except (BundleError, EngineError, AddressError) as error:
        raise click.ClickException(str(error)) from error


async def _serve(bundle, engine, settings, until_stdin_closes):  # type: ignore[no-untyped-def]
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_number, stop.set)
    if until_stdin_closes:
        # The private server of a client: its end of the pipe closes even if it is killed.
        loop.add_reader(sys.stdin.fileno(), lambda: sys.stdin.buffer.read1() or stop.set())

    def ready(address: str) -> None:
        logging.getLogger(__name__).info(
            "serving %s (%s, %s) on %s, %s",
            bundle.manifest.source,
            bundle.manifest.precision,
            bundle.sha256[:12],
            address,
            engine.device,
        )

    await serve_until(stop, bundle, engine, settings, ready)
