from __future__ import annotations

import io
import json
import tomllib
from pathlib import PurePosixPath
from typing import Any

import pytest
from click.testing import CliRunner
from compose_spec import PyCompose
from dockerfile_parse import DockerfileParser

from electra_qa.cli import main
from electra_qa.server.lifecycle import LAST_GRACE_S

from .conftest import DEPLOY, REPOSITORY, documents, parse_serve

DOCKERFILES = ["Dockerfile", "Dockerfile.gpu"]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


def instructions(name: str) -> list[dict[str, Any]]:
    parser = DockerfileParser(fileobj=io.BytesIO((DEPLOY / name).read_bytes()))
    return [one for one in parser.structure if one["instruction"] != "COMMENT"]


def values(name: str, instruction: str) -> list[str]:
    return [one["value"] for one in instructions(name) if one["instruction"] == instruction]


def last_list(name: str, instruction: str) -> list[str]:
    found: list[str] = json.loads(values(name, instruction)[-1])
    return found


def bases(name: str) -> list[str]:
    return [value.partition(" ")[0] for value in values(name, "FROM")]


@pytest.mark.parametrize("name", DOCKERFILES)
class TestDockerfile:
    def test_what_it_copies_is_there_and_is_all_that_the_package_needs(self, name: str) -> None:
        copied = {
            PurePosixPath(source)
            for value in values(name, "COPY")
            if not value.startswith("--from")
            for source in value.split()[:-1]
        }
        for source in copied:
            assert (REPOSITORY / source).exists()
        folders = PROJECT["tool"]["setuptools"]["package-dir"].values()
        needed = {*folders, "pyproject.toml", PROJECT["project"]["readme"], "LICENSE"}
        assert needed == {str(source) for source in copied}

    def test_what_it_copies_is_not_ignored(self, name: str) -> None:
        lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
        kept = {PurePosixPath(line[1:]).parts[0] for line in lines if line.startswith("!")}
        assert "*" in lines
        for value in values(name, "COPY"):
            if not value.startswith("--from"):
                assert {PurePosixPath(source).parts[0] for source in value.split()[:-1]} <= kept

    def test_it_installs_an_extra_that_there_is(self, name: str) -> None:
        extra = {"Dockerfile": "server", "Dockerfile.gpu": "gpu"}[name]
        assert extra in PROJECT["project"]["optional-dependencies"]
        assert f"'/source[{extra}]'" in " ".join(values(name, "RUN"))

    def test_what_it_installs_needs_no_compiler(self, name: str) -> None:
        """The images have none."""
        extras = PROJECT["project"]["optional-dependencies"]
        extra = {"Dockerfile": "server", "Dockerfile.gpu": "gpu"}[name]
        assert all(base.startswith("python:") for base in bases(name))
        assert not any(one.startswith(("pycuda", "electra-qa")) for one in extras[extra])

    def test_it_is_not_root(self, name: str) -> None:
        last = instructions(name)
        user = values(name, "USER")[-1].partition(":")[0]
        assert int(user) > 0
        # Nothing after it needs root.
        rest = last[[one["instruction"] for one in last].index("USER") :]
        assert not {one["instruction"] for one in rest} & {"RUN", "COPY", "ADD"}

    def test_what_it_runs_is_what_the_command_line_takes(self, name: str) -> None:
        assert last_list(name, "ENTRYPOINT") == list(PROJECT["project"]["scripts"])
        settings = parse_serve(last_list(name, "CMD"))
        exposed = set(values(name, "EXPOSE")[-1].split())
        for address in (settings["address"], settings["metrics_address"]):
            host, _, port = address.rpartition(":")
            assert host == "0.0.0.0"
            assert port in exposed
        assert settings["device"] == ("gpu" if name.endswith("gpu") else "cpu")

    def test_its_health_check_asks_where_it_serves(self, name: str) -> None:
        health = values(name, "HEALTHCHECK")[-1].partition("CMD")[2]
        program, *arguments = json.loads(health)
        assert program in PROJECT["project"]["scripts"]
        command = main.get_command(None, arguments[0])  # type: ignore[arg-type]
        assert command is not None
        params = command.make_context("health", arguments[1:]).params
        served = parse_serve(last_list(name, "CMD"))["address"]
        assert params["address"].rpartition(":")[2] == served.rpartition(":")[2]
        assert CliRunner().invoke(main, [*arguments, "--help"]).exit_code == 0


@pytest.fixture(params=[("compose.yaml",), ("compose.yaml", "compose.gpu.yaml")], ids=len)
def compose_names(request: pytest.FixtureRequest) -> tuple[str, ...]:
    names: tuple[str, ...] = request.param
    return names


def test_compose_files_are_to_the_specification(compose_names: tuple[str, ...]) -> None:
    for name in compose_names:
        PyCompose.from_yaml((DEPLOY / name).read_text(encoding="utf-8")).to_spec()


def test_the_specification_is_checked() -> None:
    with pytest.raises(ValueError, match="portz"):
        PyCompose.from_yaml("services: {a: {image: b, portz: []}}")


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = documents(DEPLOY / "compose.yaml")[0]["services"][name]
    return found


def test_a_built_image_has_its_dockerfile() -> None:
    for name in ("compose.yaml", "compose.gpu.yaml"):
        build = documents(DEPLOY / name)[0]["services"]["electra-qa"]["build"]
        assert (REPOSITORY / build["dockerfile"]).is_file()
    assert (DEPLOY / service("electra-qa")["build"]["context"]).resolve() == REPOSITORY


def test_nothing_is_published_further_than_this_machine() -> None:
    for one in documents(DEPLOY / "compose.yaml")[0]["services"].values():
        for port in one["ports"]:
            assert port.startswith("127.0.0.1:")


def test_what_is_mounted_is_there() -> None:
    for one in documents(DEPLOY / "compose.yaml")[0]["services"].values():
        for volume in one.get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).exists()


def test_a_stop_leaves_time_to_drain() -> None:
    settings = parse_serve(last_list("Dockerfile", "CMD"))
    grace = float(service("electra-qa")["stop_grace_period"].removesuffix("s"))
    assert grace > settings["drain_timeout_s"] + LAST_GRACE_S


def test_prometheus_finds_the_server() -> None:
    config = documents(DEPLOY / "prometheus" / "prometheus.yml")[0]
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    assert service(host)
    metrics = parse_serve(last_list("Dockerfile", "CMD"))["metrics_address"]
    assert metrics.rpartition(":")[2] == port
    # The alerts name it.
    assert f'job="{job["job_name"]}"' in (DEPLOY / "prometheus" / "rules.yml").read_text()


def test_grafana_finds_prometheus_and_the_dashboard() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = documents(provisioning / "datasources" / "prometheus.yaml")[0]["datasources"]
    host, _, port = source["url"].removeprefix("http://").partition(":")
    assert any(f":{port}:" in one or one.endswith(f":{port}") for one in service(host)["ports"])
    (provider,) = documents(provisioning / "dashboards" / "electra-qa.yaml")[0]["providers"]
    folder = provider["options"]["path"]
    mounted = {
        volume.split(":")[1]: volume.split(":")[0] for volume in service("grafana")["volumes"]
    }
    dashboards = DEPLOY / mounted[folder]
    home = service("grafana")["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (dashboards / PurePosixPath(home).relative_to(folder)).is_file()


def test_the_image_for_gpus_asks_for_the_driver() -> None:
    """NVIDIA's container toolkit brings in the host's library only where an image says so."""
    environment = " ".join(values("Dockerfile.gpu", "ENV"))
    assert "NVIDIA_VISIBLE_DEVICES=all" in environment
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in environment


def test_the_library_that_needs_a_compiler_is_an_extra_of_its_own() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    assert [one for one in extras["gpu-pycuda"] if one.startswith("pycuda")]
    assert [one for one in extras["gpu"] if one.startswith("cuda-bindings")]
