"""The command line: one program, whose commands live in the folders that own them."""

from __future__ import annotations

import importlib
from typing import Any

import click

from . import __version__
from .configuration import configured
from .terminal import name_standard_output, tolerate_any_encoding

# Where each command is. A module is imported when its command is used or its help is asked for, so
# that `electra-qa ask` imports neither the server nor the build.
COMMANDS = {
    "answer": "electra_qa.client.answer_files.cli:answer",
    "ask": "electra_qa.client.cli:ask",
    "bench": "electra_qa.benchmarks.cli:bench",
    "build": "electra_qa.build_engine.cli:build",
    "cache": "electra_qa.cache_cli:cache",
    "check": "electra_qa.build_engine.cli:check",
    "eval": "electra_qa.client.cli:evaluate",
    "finetune": "electra_qa.build_engine.cli:finetune",
    "health": "electra_qa.client.health:health",
    "info": "electra_qa.client.cli:info",
    "playground": "electra_qa.client.playground.cli:playground",
    "reload": "electra_qa.client.admin:reload",
    "score": "electra_qa.client.cli:score",
    "serve": "electra_qa.server.cli:serve",
}
# What the list of commands says, without importing them.
SUMMARIES = {
    "answer": "Answer a file of questions.",
    "ask": "Ask one question about a text, or about many.",
    "bench": "Put a server under load and measure it.",
    "build": "Make a bundle from a checkpoint.",
    "cache": "List and prune the bundles that were built of models.",
    "check": "Say what TensorRT would refuse in an ONNX file.",
    "eval": "Measure EM and F1 on a SQuAD file, through a server.",
    "finetune": "Train a checkpoint on SQuAD files.",
    "health": "Exit with 0 where a server is ready.",
    "info": "Show the bundle in force, the device and the versions.",
    "playground": "Try it in a browser.",
    "reload": "Have a server load its bundle anew.",
    "score": "Score a predictions file, offline.",
    "serve": "Serve a bundle over gRPC.",
}
# What a command needs beyond the bare package.
EXTRAS = {
    "bench": "bench",
    "build": "build",
    "check": "build",
    "finetune": "finetune",
    "playground": "playground",
}


class LazyGroup(click.Group):
    """Loads a command by name on first use."""

    def main(self, *args: Any, **options: Any) -> Any:
        """A file or an output that fails is one line and exit code 1. That who reads has enough is
        no word, which click sees to."""
        name_standard_output()
        try:
            return super().main(*args, **options)
        except OSError as error:
            if error.filename is None:
                raise
            failure = click.ClickException(f"{error.filename}: {error.strerror or error}")
            failure.show()
            raise SystemExit(failure.exit_code) from None

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        target = COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        try:
            command = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            extra = EXTRAS.get(cmd_name)
            if extra is None:
                raise
            raise click.ClickException(
                f"{cmd_name} needs {error.name}: pip install 'electra-qa[{extra}]'"
            ) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"{target} is not a command")
        return configured(command, cmd_name, COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, SUMMARIES[name]) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="electra-qa")
def main() -> None:
    """Extractive question answering: an ELECTRA model finds the answer in a text, or that there is
    none."""
    tolerate_any_encoding()
