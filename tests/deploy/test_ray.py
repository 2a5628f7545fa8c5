from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
import yaml

from electra_qa.server.settings import ServerSettings

from .conftest import DEPLOY, documents

FOLDER = DEPLOY / "ray"
(SERVE,) = documents(FOLDER / "serve.yaml")
(SERVICE,) = documents(FOLDER / "rayservice.yaml")
CLUSTER = SERVICE["spec"]["rayClusterConfig"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
CONTAINERS = [group["template"]["spec"]["containers"][0] for group in GROUPS]

# The fields of KubeRay 1.6's types, from its CRD reference.
RAY_SERVICE = {"rayClusterConfig", "serveConfigV2", "serveService"}
RAY_CLUSTER = {
    "autoscalerOptions",
    "enableInTreeAutoscaling",
    "headGroupSpec",
    "rayVersion",
    "workerGroupSpecs",
}
GROUP = {"groupName", "maxReplicas", "minReplicas", "rayStartParams", "replicas", "template"}


def test_rays_configuration_is_one_that_it_takes() -> None:
    schema = pytest.importorskip("ray.serve.schema", reason="needs ray")
    parsed = schema.ServeDeploySchema.model_validate(SERVE)
    (application,) = parsed.applications
    assert application.import_path == "electra_qa.server.ray:build"


def test_what_it_names_is_there() -> None:
    pytest.importorskip("ray", reason="needs ray")
    from ray._common.utils import import_attr

    from electra_qa.server.ray.application import DEPLOYMENT
    from electra_qa.server.ray.arguments import parse_arguments

    assert len(SERVE["grpc_options"]["grpc_servicer_functions"]) == 3
    for function in SERVE["grpc_options"]["grpc_servicer_functions"]:
        assert callable(import_attr(function))
    (application,) = SERVE["applications"]
    (deployment,) = application["deployments"]
    assert deployment["name"] == DEPLOYMENT
    policy = deployment["autoscaling_config"]["policy"]
    assert callable(import_attr(policy["policy_function"])(**policy["policy_kwargs"]))
    settings = parse_arguments(application["args"]).settings
    assert settings.drain_timeout_s == deployment["graceful_shutdown_timeout_s"]
    assert settings == ServerSettings(**application["args"])


def test_rays_proxies_take_the_pings_of_our_clients() -> None:
    pytest.importorskip("ray", reason="needs ray")
    from ray._common.utils import import_attr

    for container in CONTAINERS:
        (variable,) = container["env"]
        assert variable["name"] == "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
        assert callable(import_attr(variable["value"]))


def test_kuberay_gets_the_same_configuration() -> None:
    assert yaml.safe_load(SERVICE["spec"]["serveConfigV2"]) == SERVE


def test_the_rayservice_has_fields_that_kuberay_knows() -> None:
    assert (SERVICE["apiVersion"], SERVICE["kind"]) == ("ray.io/v1", "RayService")
    assert set(SERVICE["spec"]) <= RAY_SERVICE
    assert set(CLUSTER) <= RAY_CLUSTER
    for group in GROUPS:
        assert set(group) <= GROUP


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
def test_kubernetes_own_parts_are_to_the_schema(version: str) -> None:
    for group in GROUPS:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
        kubernetes_validate.validate(pod | group["template"], version, strict=True)
    service: dict[str, Any] = {"apiVersion": "v1", "kind": "Service"}
    kubernetes_validate.validate(service | SERVICE["spec"]["serveService"], version, strict=True)


def test_the_service_has_the_port_of_rays_proxies() -> None:
    port = SERVE["grpc_options"]["port"]
    assert [one["targetPort"] for one in SERVICE["spec"]["serveService"]["spec"]["ports"]] == [port]
    for container in CONTAINERS:
        assert port in [one["containerPort"] for one in container["ports"]]


def test_the_replicas_have_room_on_the_largest_cluster() -> None:
    (deployment,) = SERVE["applications"][0]["deployments"]
    (workers,) = CLUSTER["workerGroupSpecs"]
    of_one = int(CONTAINERS[1]["resources"]["limits"]["cpu"])
    needed = deployment["ray_actor_options"]["num_cpus"]
    room = workers["maxReplicas"] * (of_one // needed)
    assert deployment["autoscaling_config"]["max_replicas"] <= room


def test_the_image_has_the_cluster_s_ray() -> None:
    image = (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert f"FROM rayproject/ray:{CLUSTER['rayVersion']}-" in image
