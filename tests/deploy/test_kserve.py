"""The runtime for KServe: settings that the server takes, in pods like those of the base."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from custom_resources import unknown
from layerserve_server.extensions.installed import Settings
from manifests import KUBERNETES, Resource, settings_of, validate

FOLDER = KUBERNETES / "kserve"


@pytest.fixture(scope="module", name="runtime")
def _runtime() -> Resource:
    return yaml.safe_load((FOLDER / "clusterservingruntime.yaml").read_text())["spec"]


@pytest.fixture(scope="module", name="settings")
def _settings(runtime: Resource) -> Settings:
    (container,) = runtime["containers"]
    assert container["args"] == ["serve"]
    return settings_of({"data": {variable["name"]: variable["value"] for variable in container["env"]}})


def test_it_serves_the_folder_of_kserve_and_writes_elsewhere(runtime: Resource, settings: Settings) -> None:
    assert settings.path == Path("/mnt/models")
    (container,) = runtime["containers"]
    assert container["name"] == "kserve-container"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [mount["mountPath"] for mount in container["volumeMounts"]]
    assert settings.state is not None
    assert any(settings.state.is_relative_to(place) for place in writable)
    assert (settings.training_slots, settings.max_online_sessions) == (0, 0)


def test_kserve_finds_the_ports(runtime: Resource, settings: Settings) -> None:
    (container,) = runtime["containers"]
    assert container["ports"] == [{"name": "h2c", "containerPort": settings.grpc_port, "protocol": "TCP"}]
    assert runtime["annotations"]["prometheus.kserve.io/port"] == str(settings.metrics_port)
    assert {container[probe]["grpc"]["port"] for probe in ("readinessProbe", "livenessProbe")} == {settings.grpc_port}


def test_its_pod_is_valid_and_like_that_of_the_base(runtime: Resource, pod: Resource, container: Resource) -> None:
    spec = {"containers": runtime["containers"], "volumes": runtime["volumes"]}
    validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
    (own,) = runtime["containers"]
    for name, value in container["securityContext"].items():
        assert own["securityContext"][name] == value
    assert own["securityContext"]["runAsUser"] == pod["securityContext"]["runAsUser"]
    assert own["resources"] == container["resources"]
    base = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    assert own["image"] == f"{container['image']}:{base['images'][0]['newTag']}"


def test_the_example_asks_for_what_the_runtime_has(runtime: Resource) -> None:
    model = yaml.safe_load((FOLDER / "inferenceservice.yaml").read_text())["spec"]["predictor"]["model"]
    assert model["runtime"] == "layerserve"
    formats = [{"name": one["name"], "version": one["version"]} for one in runtime["supportedModelFormats"]]
    assert model["modelFormat"] in formats
    assert model["protocolVersion"] in runtime["protocolVersions"]


def test_the_check_of_resources_sees_what_a_model_does_not_have() -> None:
    """`make -C lab deploy-check` reads the resources with KServe's models; here models like them stand in."""

    class V1Probe:
        attribute_map = {"period_seconds": "periodSeconds"}
        openapi_types = {"period_seconds": "int"}

    class V1Spec:
        attribute_map = {"probes": "probes"}
        openapi_types = {"probes": "list[V1Probe]"}

    models = SimpleNamespace(V1Probe=V1Probe, V1Spec=V1Spec)
    assert unknown({"probes": [{"periodSeconds": 1}]}, "V1Spec", (models,), "x") == []
    found = unknown({"probes": [{"periodSeconds": 1}, {"period": 1}]}, "V1Spec", (models,), "x")
    assert found == ["x.probes.1.period: unknown to V1Probe"]


def test_every_file_is_used() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert {path.name for path in FOLDER.iterdir()} == {
        *kustomization["resources"],
        "kustomization.yaml",
        "inferenceservice.yaml",
    }
