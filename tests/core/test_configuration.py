"""Flags, variables and a file: which wins, and what is refused."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from electra_qa.bundle import Bundle
from electra_qa.cli import COMMANDS, main
from electra_qa.configuration import effective, settings_of, variable
from electra_qa.private import ServerProcess

# Where the configuration is not refused, the bundle is, and the test ends.
SERVE = ("serve", "--bundle", "/no/such")
NUMBERS = st.none() | st.integers(1, 10**6)


def serve_settings(*flags: str, **variables: str) -> dict[str, tuple[Any, str]]:
    """{name: (value, source)} of `electra-qa serve` with these."""
    with mock.patch.dict(os.environ, variables), click.Context(main) as root:
        command = main.get_command(root, "serve")
        assert command is not None
        with command.make_context("serve", list(flags), parent=root) as ctx:
            return {one.name: (one.value, one.source) for one in effective(ctx)}


def run(*arguments: str, exit_code: int = 0, **variables: str) -> Any:
    result = CliRunner().invoke(main, list(arguments), env=variables)
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "electra-qa.toml"


@given(flag=NUMBERS, from_variable=NUMBERS, from_file=NUMBERS)
def test_a_flag_is_over_a_variable_over_the_file_over_the_default(
    flag: int | None, from_variable: int | None, from_file: int | None
) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        if from_file is not None:
            file.write(f"[serve]\nmax_windows = {from_file}\n")
            file.flush()
        flags = ["--config", file.name]
        flags += [] if flag is None else ["--max-windows", str(flag)]
        name = "ELECTRA_QA_SERVE_MAX_WINDOWS"
        variables = {} if from_variable is None else {name: str(from_variable)}
        expected = next(
            (value, source)
            for value, source in (
                (flag, "flag"),
                (from_variable, name),
                (from_file, file.name),
                (4096, "default"),
            )
            if value is not None
        )
        assert serve_settings(*flags, **variables)["max_windows"] == expected


def test_every_type_of_setting_comes_from_the_file_and_from_variables(file: Path) -> None:
    file.write_text(
        '[serve]\naddress = "unix:/a"\nmax_windows = 5\ndrain_timeout_s = 1\n'
        'hardware_compatible = true\ndevice = "gpu"\nbundle = "b"\n'
        "[ask]\ntop_k = 3\n"
    )
    expected = {
        "address": "unix:/a",
        "max_windows": 5,
        "drain_timeout_s": 1.0,
        "hardware_compatible": True,
        "device": "gpu",
        "bundle": Path("b"),
    }
    got = serve_settings(ELECTRA_QA_CONFIG=str(file))
    assert {name: got[name] for name in expected} == {
        name: (value, str(file)) for name, value in expected.items()
    }
    variables = {variable("serve", name): str(value) for name, value in expected.items()}
    got = serve_settings(**variables)
    assert {name: got[name] for name in expected} == {
        name: (value, variable("serve", name)) for name, value in expected.items()
    }
    assert {source for name, (_, source) in got.items() if name not in expected} == {"default"}


def test_a_switch_in_the_file_is_turned_off_by_a_variable(file: Path) -> None:
    file.write_text("[serve]\nhardware_compatible = true\n")
    name = "ELECTRA_QA_SERVE_HARDWARE_COMPATIBLE"
    got = serve_settings("--config", str(file), **{name: "false"})
    assert got["hardware_compatible"] == (False, name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[serve]\nmax_windows = x\n", "is not TOML: Invalid value (at line 2, column 15)"),
        (b"\xff", "is not UTF-8"),
        ("[serve]\nmax_window = 5", "max_window is no setting of [serve]; did you mean max_w"),
        ("[serve]\nmax-windows = 5", "did you mean max_windows?"),
        ("[serve]\nbundle_path = 'x'", "bundle_path is no setting of [serve]"),
        ("[serve]\nuntil_stdin_closes = true", "until_stdin_closes is no setting of [serve]"),
        ("[serve]\nconfig = 'x'", "config is no setting of [serve]"),
        ("[server]\naddress = 'x'", "server is no command's table; did you mean serve?"),
        ("[zzz]\n", "zzz is no command's table, like [serve]"),
        ("address = 'x'", "address is no command's table"),
        ("serve = 1", "serve must be a table, [serve]"),
        ("[serve]\naddress = ['x']", "Invalid value for address in [serve] of"),
        ("[serve]\naddress = {x = 1}", "it must be one value"),
        ("[serve]\nmax_windows = 0", "0 is not in the range x>=1"),
        ("[serve]\nmax_windows = 5.5", "'5.5' is not a valid integer"),
        ("[serve]\nmax_windows = true", "'True' is not a valid integer"),
        ("[serve]\nhardware_compatible = 5", "'5' is not a valid boolean"),
        ("[serve]\ndevice = 'tpu'", "'tpu' is not cpu, gpu, or a list like gpu:0,gpu:1"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(file: Path, content: str | bytes, message: str) -> None:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    error = run(*SERVE, "--config", str(file), exit_code=2).stderr
    assert message in error
    assert str(file) in error


def test_flags_and_the_file_are_checked_with_the_same_words(file: Path) -> None:
    file.write_text("[serve]\nmax_windows = 'many'")
    in_file = run(*SERVE, "--config", str(file), exit_code=2).stderr
    as_flag = run(*SERVE, "--max-windows", "many", exit_code=2).stderr
    assert in_file.rpartition(": ")[2] == as_flag.rpartition(": ")[2]


def test_a_file_that_is_not_there_is_an_error() -> None:
    assert "'/no/such' does not exist" in run(*SERVE, "--config", "/no/such", exit_code=2).stderr


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ELECTRA_QA_SERVE_MAX_WINDOW", "5", "did you mean ELECTRA_QA_SERVE_MAX_WINDOWS?"),
        ("ELECTRA_QA_MAX_WINDOWS", "5", "did you mean ELECTRA_QA_SERVE_MAX_WINDOWS?"),
        ("ELECTRA_QA_CONFIGS", "5", "did you mean ELECTRA_QA_CONFIG?"),
        ("ELECTRA_QA_SERVE_BUNDLE_PATH", "5", "is no setting's variable"),
        ("ELECTRA_QA_SERVE_PORT", "5", "is no setting's variable"),
        ("ELECTRA_QA_SERVE_MAX_WINDOWS", "0", "Invalid value for ELECTRA_QA_SERVE_MAX_WINDOWS: 0"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(name: str, value: str, message: str) -> None:
    error = run(*SERVE, exit_code=2, **{name: value}).stderr
    assert name in error
    assert message in error


def test_variables_of_other_commands_and_of_kubernetes_are_let_be() -> None:
    got = serve_settings(
        ELECTRA_QA_ASK_TOP_K="2",
        ELECTRA_QA_SERVICE_HOST="10.0.0.1",
        ELECTRA_QA_SERVICE_PORT="50051",
        ELECTRA_QA_SERVICE_PORT_GRPC="50051",
        ELECTRA_QA_PORT="tcp://10.0.0.1:50051",
        ELECTRA_QA_PORT_50051_TCP="tcp://10.0.0.1:50051",
        ELECTRA_QA_PORT_50051_TCP_ADDR="10.0.0.1",
        ELECTRA_QA_METRICS_PORT="tcp://10.0.0.2:9090",
    )
    assert {source for _, source in got.values()} == {"default"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_has_a_variable_and_a_name_in_the_file(command: str) -> None:
    with click.Context(main) as root:
        found = main.get_command(root, command)
    assert found is not None
    if isinstance(found, click.Group):
        assert not settings_of(found)
        return
    for key, option in settings_of(found).items():
        assert option.envvar == f"ELECTRA_QA_{command}_{key}".upper()
        assert {f"--{key}", f"--{key.replace('_', '-')}"} & set(option.opts)
    visible = [p for p in found.params if isinstance(p, click.Option) and not p.hidden]
    assert len(settings_of(found)) == len(visible) - 1  # all but --config


def test_info_says_what_is_in_force_and_where_from(bundle: Bundle, file: Path) -> None:
    file.write_text(f"[serve]\nbundle = {str(bundle.path)!r}\nmax_windows = 5\n")
    arguments = ["info", "--config", str(file)]
    variables = {"ELECTRA_QA_SERVE_ENGINE": "null", "ELECTRA_QA_SERVE_MAX_WINDOWS": "7"}
    facts = json.loads(run(*arguments, "--json", **variables).stdout)
    assert facts["bundle"]["sha256"] == bundle.sha256
    serve = facts["serve"]
    assert serve["bundle"] == {"value": str(bundle.path), "source": str(file)}
    assert serve["max_windows"] == {"value": 7, "source": "ELECTRA_QA_SERVE_MAX_WINDOWS"}
    assert serve["drain_timeout_s"] == {"value": 30.0, "source": "default"}
    words = run(*arguments, **variables).stdout
    assert f"  bundle: {bundle.path} ({file})\n" in words
    assert "  max_windows: 7 (ELECTRA_QA_SERVE_MAX_WINDOWS)\n" in words
    assert "  metrics_address: not set (default)\n" in words


def test_info_fails_where_serve_would() -> None:
    error = run("info", exit_code=2, ELECTRA_QA_SERVE_MAX_WINDOWS="x").stderr
    assert "ELECTRA_QA_SERVE_MAX_WINDOWS" in error


def test_a_private_server_takes_nothing_from_the_environment(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ELECTRA_QA_SERVE_MAX_WINDOWS", "no number")
    with ServerProcess(bundle.path, arguments=["--engine", "null"]) as server:
        assert server.address
