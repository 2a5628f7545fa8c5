"""`electra-qa bench`, as a user types it."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Histogram, start_http_server

from electra_qa import __version__
from electra_qa.benchmarks.cli import _without_folder
from electra_qa.bundle import default_bundle_path, load_bundle
from electra_qa.cli import main
from electra_qa.private import ServerProcess

SHORT = ("--duration", "0.6", "--warm-up", "0.2", "--lengths", "16", "--questions", "40")


def run(*arguments: str, exit_code: int = 0) -> Any:
    result = CliRunner().invoke(main, ["bench", *arguments])
    assert result.exit_code == exit_code, result.output + repr(result.exception)
    return result


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with ServerProcess() as server:
        yield server.address


@pytest.mark.parametrize(
    ("load", "scenario", "mode", "size"),
    [
        (["--qps", "15"], "Server", "unary", 1),
        (["--qps", "15", "--mode", "stream"], "Server", "stream", 1),
        (["--concurrency", "1"], "SingleStream", "unary", 1),
        (["--concurrency", "1", "--mode", "batch", "--batch-size", "4"], "MultiStream", "batch", 4),
        (["--concurrency", "3"], "closed loop", "unary", 1),
        (["--offline", "--batch-size", "16"], "Offline", "batch", 16),
    ],
)
def test_every_scenario_reports_what_was_answered(
    address: str, load: list[str], scenario: str, mode: str, size: int
) -> None:
    report = json.loads(run(*load, *SHORT, "--address", address, "--json", "-").stdout)
    assert (report["scenario"], report["mode"]) == (scenario, mode)
    assert report["questions_per_request"] == size
    (measurement,) = report["measurements"]
    answered = measurement["statuses"]
    assert list(answered) == ["OK"]
    assert answered["OK"] == measurement["requests"] * size
    # Every context here is one window.
    for rate in ("questions_per_second", "windows_per_second"):
        assert measurement[rate] == pytest.approx(answered["OK"] / measurement["seconds"])
    latencies = list(measurement["latencies_ms"].values())
    assert latencies == sorted(latencies)
    assert measurement["rate_asked"] == (15 if "--qps" in load else None)
    if scenario == "Offline":
        assert answered["OK"] == 48  # 40 questions, and the last batch filled up


def test_the_report_says_what_it_depends_on(address: str, small: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.json"
    arguments = ["--offline", "--data", str(small), "--warm-up", "0", "--seed", "7"]
    result = run(*arguments, "--address", address, "--json", str(output))
    text = output.read_text()
    report = json.loads(text)
    assert report["data"]["name"] == "small.json"
    assert report["data"]["questions"] == 12
    assert len(report["data"]["sha256"]) == 64
    assert report["seed"] == 7
    assert report["server"]["bundle_sha256"] == load_bundle(default_bundle_path()).sha256
    assert report["server"]["own"] is False
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["memory_gib"] > 0
    assert report["machine"]["cpu"]
    assert report["versions"]["electra-qa"] == __version__
    assert report["command"] == (
        "electra-qa bench --offline --warm-up 0 --data small.json --seed 7 --json report.json "
        "--address unix:socket"
    )
    for folder in (small.parent, tmp_path, Path(address.removeprefix("unix:")).parent, Path.home()):
        assert str(folder) + os.sep not in text
    # And the table has the same.
    assert re.search(r"questions OK +64 ", result.stdout)  # one batch
    assert "sha256 " + report["data"]["sha256"][:12] in result.stdout


def test_the_same_seed_asks_the_same_at_the_same_times(address: str) -> None:
    requests = []
    for seed in ("3", "3", "4"):
        arguments = ["--qps", "40", *SHORT, "--seed", seed, "--address", address, "--json", "-"]
        requests.append(json.loads(run(*arguments).stdout)["measurements"][0]["requests"])
    assert requests[0] == requests[1] != requests[2]


def test_a_picture_is_a_png_of_its_size(address: str, tmp_path: Path) -> None:
    picture = tmp_path / "run.png"
    run("--qps", "15", *SHORT, "--address", address, "--picture", str(picture))
    raw = picture.read_bytes()
    assert raw[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", raw[16:24]) == (1200, 750)
    assert len(raw) > 20_000  # not a blank sheet


@pytest.mark.parametrize("first", [["--qps", "1000"], []])
def test_a_sweep_shows_its_steps_and_its_verdict(
    address: str, tmp_path: Path, first: list[str]
) -> None:
    files = ["--json", str(tmp_path / "sweep.json"), "--picture", str(tmp_path / "sweep.png")]
    # With a bound that no answer can keep, the sweep ends after its eleven rates.
    strict = ["--sweep", *first, "--slo-ms", "0.01", "--duration", "0.02"]
    result = run(*strict, "--warm-up", "0", *SHORT[4:], "--address", address, *files)
    report = json.loads((tmp_path / "sweep.json").read_text())
    assert report["scenario"] == "Server, highest rate"
    rates = [measurement["rate_asked"] for measurement in report["measurements"]]
    assert rates == [rates[0] / 2**n for n in range(11)]
    assert rates[0] == 1000 if first else rates[0] > 0
    assert report["highest_rate"] is None
    assert "No rate that was tried" in result.stdout
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"


def test_questions_that_fail_are_counted_by_status_and_never_hidden(address: str) -> None:
    arguments = ["--qps", "30", *SHORT, "--deadline-ms", "0.001", "--address", address]
    output = run(*arguments).stdout
    assert re.search(r"questions OK +0 ", output)
    assert "questions DEADLINE_EXCEEDED" in output
    assert "latency" not in output


def test_the_servers_own_figures_are_shown_where_it_has_some(address: str) -> None:
    registry = CollectorRegistry()
    sizes = Histogram("electra_qa_batch_windows", "", registry=registry)
    sizes.observe(5)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    arguments = ["--concurrency", "1", *SHORT, "--address", address]
    try:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        report = json.loads(run(*arguments, "--metrics", url, "--json", "-").stdout)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    # Nothing was observed in between.
    assert set(report["measurements"][0]["server"].values()) == {None}
    message = run(*arguments, "--metrics", url, exit_code=1).stderr
    assert "refused" in message


def test_without_an_address_it_measures_a_server_of_its_own(tmp_path: Path) -> None:
    picture = tmp_path / "a b" / "run.png"
    picture.parent.mkdir()
    options = ["--concurrency", "2", *SHORT, "--bundle", str(default_bundle_path())]
    own = ["--", "--threads", "1"]
    report = json.loads(run(*options, "--json", "-", "--picture", str(picture), *own).stdout)
    assert report["server"]["own"] is True
    assert report["server"]["arguments"] == ["--threads", "1"]
    assert "1 threads" in report["server"]["device"]
    assert report["command"].endswith("--bundle default_bundle -- --threads 1")
    assert "--picture run.png" in report["command"]
    figures = report["measurements"][0]["server"]
    assert figures["batch_windows"] >= 1
    assert 0 <= figures["padding_share"] < 1
    assert figures["queue_ms"] >= 0
    assert 0 < figures["engine_busy_share"] <= 1.05
    assert 0 <= figures["cached_share"] <= 1


@pytest.mark.parametrize(
    ("argument", "shown"),
    [
        ("/home/somebody/bundle", "bundle"),
        ("/home/somebody/bundle/", "bundle"),
        ("unix:/run/somebody/socket", "unix:socket"),
        ("--bundle=/home/somebody/bundle", "--bundle=bundle"),
        ("here/bundle", "here/bundle"),
        ("--threads", "--threads"),
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("http://127.0.0.1:9000/metrics", "http://127.0.0.1:9000/metrics"),
    ],
)
def test_a_command_is_shown_without_the_folders_of_the_machine(argument: str, shown: str) -> None:
    assert _without_folder(argument) == shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "set one of --qps, --concurrency, --offline and --sweep"),
        (["--qps", "1", "--concurrency", "1"], "set one of"),
        (["--qps", "1", "--offline"], "set one of"),
        (["--sweep", "--concurrency", "1"], "set one of"),
        (["--sweep", "--duration", "1", "--slo-ms", "101"], "ten times --slo-ms"),
        (["--qps", "1", "--batch-size", "2"], "--batch-size is of --mode batch"),
        (["--qps", "1", "--lengths", "long"], "'long' is none of LENGTH"),
        (["--qps", "1", "--lengths", "5", "--data", __file__], "set one, not both"),
        (["--qps", "1", "--address", "x", "--bundle", "y"], "not both"),
        (["--qps", "1", "--address", "x", "--", "--threads", "1"], "not both"),
        (["--qps", "1", "--metrics", "http://x"], "--metrics is of the server at --address"),
        (["--qps", "1", "--picture", "/no/such/folder/run.png"], "there is no folder"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str) -> None:
    assert message in run(*arguments, exit_code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", __file__], "is not JSON"),
        (["--bundle", "/no/such"], "tokenizer.json can't be read"),
        (["--address", "unix:/no/such", "--wait", "0.2"], "DEADLINE_EXCEEDED"),
        (["--", "--no-such-option"], "No such option"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    error = run("--qps", "1", "--questions", "2", *arguments, exit_code=1).stderr
    assert message in error
    assert "Traceback" not in error
