from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from electra_qa.server.front.service import SERVICE
from electra_qa.server.lifecycle import LAST_GRACE_S

from .conftest import DEPLOY, Scrape, documents, parse_serve
from .queries import check

FOLDER = DEPLOY / "kubernetes"
KUSTOMIZATION = documents(FOLDER / "kustomization.yaml")[0]
# preStop's `sleep` came with 1.30.
VERSIONS = ["1.30", kubernetes_validate.latest_version()]

# The fields of KServe 0.21's types, from its Python package (`V1alpha1ServingRuntimeSpec` and so
# on), which needs half of what there is to install.
SERVING_RUNTIME = {
    "annotations",
    "containers",
    "multiModel",
    "protocolVersions",
    "supportedModelFormats",
    "volumes",
}
PREDICTOR = {"minReplicas", "maxReplicas", "model", "terminationGracePeriodSeconds"}
MODEL = {"runtime", "modelFormat", "protocolVersion", "storageUri"}


def one(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    (document,) = documents(folder / name)
    return document


def pod_spec() -> dict[str, Any]:
    spec: dict[str, Any] = one("deployment.yaml")["spec"]["template"]["spec"]
    return spec


def runtime_as_pod() -> dict[str, Any]:
    """The parts of KServe's runtime that are Kubernetes' own, as the pod that they become."""
    runtime = one("servingruntime.yaml", DEPLOY / "kserve")["spec"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "electra-qa"},
        "spec": {"containers": runtime["containers"], "volumes": runtime["volumes"]},
    }


CONTAINERS = {
    "deployment": pod_spec()["containers"][0],
    "kserve": runtime_as_pod()["spec"]["containers"][0],
}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", KUSTOMIZATION["resources"])
def test_a_manifest_is_to_the_schema(name: str, version: str) -> None:
    for document in documents(FOLDER / name):
        kubernetes_validate.validate(document, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_schema_of_a_pod_holds_for_the_serving_runtime(version: str) -> None:
    kubernetes_validate.validate(runtime_as_pod(), version, strict=True)


def test_the_schema_is_checked() -> None:
    pod = runtime_as_pod()
    pod["spec"]["containers"][0]["readinessprobe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError, match="readinessprobe"):
        kubernetes_validate.validate(pod, VERSIONS[0], strict=True)


@pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
class TestContainer:
    def test_it_runs_what_the_command_line_takes(self, container: dict[str, Any]) -> None:
        settings = parse_serve(container["args"])
        ports = [port["containerPort"] for port in container["ports"]]
        assert int(settings["address"].rpartition(":")[2]) == ports[0]
        assert settings["max_connection_age_s"]
        # The engine's threads leave a CPU for the rest.
        assert settings["threads"] == int(container["resources"]["limits"]["cpu"]) - 1

    def test_its_probes_ask_the_health_service(self, container: dict[str, Any]) -> None:
        port = container["ports"][0]["containerPort"]
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container[kind]["grpc"]
            assert probe["port"] == port
            assert probe.get("service", SERVICE) == SERVICE

    def test_it_may_do_little(self, container: dict[str, Any]) -> None:
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"]
        assert not security["allowPrivilegeEscalation"]
        assert security["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize(
    ("container", "grace"),
    [
        (CONTAINERS["deployment"], pod_spec()["terminationGracePeriodSeconds"]),
        (
            CONTAINERS["kserve"],
            one("inferenceservice.yaml", DEPLOY / "kserve")["spec"]["predictor"][
                "terminationGracePeriodSeconds"
            ],
        ),
    ],
    ids=CONTAINERS,
)
def test_a_stop_leaves_time_to_drain(container: dict[str, Any], grace: int) -> None:
    waited = container.get("lifecycle", {"preStop": {"sleep": {"seconds": 0}}})["preStop"]["sleep"]
    drain = parse_serve(container["args"])["drain_timeout_s"]
    assert grace > waited["seconds"] + drain + LAST_GRACE_S


def test_the_manifests_mean_the_same_pods() -> None:
    labels = one("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert one("service.yaml")["spec"]["selector"].items() <= labels.items()
    for selector in (
        one("deployment.yaml")["spec"]["selector"],
        one("poddisruptionbudget.yaml")["spec"]["selector"],
        one("networkpolicy.yaml")["spec"]["podSelector"],
        one("podmonitor.yaml")["spec"]["selector"],
        pod_spec()["topologySpreadConstraints"][0]["labelSelector"],
    ):
        assert selector["matchLabels"].items() <= labels.items()
    names = {port["name"] for port in CONTAINERS["deployment"]["ports"]}
    assert {port["targetPort"] for port in one("service.yaml")["spec"]["ports"]} == names
    policy = one("networkpolicy.yaml")["spec"]
    assert {port["port"] for rule in policy["ingress"] for port in rule["ports"]} == names
    assert one("podmonitor.yaml")["spec"]["podMetricsEndpoints"][0]["port"] in names
    assert [image["name"] for image in KUSTOMIZATION["images"]] == [
        CONTAINERS["deployment"]["image"]
    ]


def test_the_service_is_one_that_grpc_can_balance_over() -> None:
    assert one("service.yaml")["spec"]["clusterIP"] == "None"


def test_the_autoscaler_scales_the_deployment_by_what_the_adapter_gives(scraped: Scrape) -> None:
    spec = one("horizontalpodautoscaler.yaml")["spec"]
    target = spec["scaleTargetRef"]
    deployment = one("deployment.yaml")
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    # What it sets is not set elsewhere.
    assert "replicas" not in deployment["spec"]
    rules = one("prometheus-adapter.yaml")["rules"]["custom"]
    scaled_by = {metric["pods"]["metric"]["name"] for metric in spec["metrics"]}
    assert scaled_by == {rule["name"]["as"] for rule in rules}
    for rule in rules:
        check(rule["seriesQuery"], scraped)
        query = rule["metricsQuery"]
        for placeholder, value in {
            "<<.Series>>": rule["name"]["matches"],
            "<<.LabelMatchers>>": 'namespace="a",pod=~"b|c"',
            "<<.GroupBy>>": "pod",
        }.items():
            assert placeholder in query
            query = query.replace(placeholder, value)
        check(query, scraped)
        assert rule["seriesQuery"].startswith(rule["name"]["matches"])


def test_kserve_finds_the_runtime() -> None:
    runtime = one("servingruntime.yaml", DEPLOY / "kserve")
    assert (runtime["apiVersion"], runtime["kind"]) == (
        "serving.kserve.io/v1alpha1",
        "ServingRuntime",
    )
    assert set(runtime["spec"]) <= SERVING_RUNTIME
    service = one("inferenceservice.yaml", DEPLOY / "kserve")
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    predictor = service["spec"]["predictor"]
    assert set(predictor) <= PREDICTOR
    model = predictor["model"]
    assert set(model) <= MODEL
    assert model["runtime"] == runtime["metadata"]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    (known,) = runtime["spec"]["supportedModelFormats"]
    assert model["modelFormat"].items() <= known.items()
    # Only a container of this name gets the model.
    assert CONTAINERS["kserve"]["name"] == "kserve-container"
    assert str(parse_serve(CONTAINERS["kserve"]["args"])["bundle"]) == "/mnt/models"
