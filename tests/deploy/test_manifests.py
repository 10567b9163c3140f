"""The Kubernetes manifests: valid one by one, and fitting each other, the image and the server's real settings."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

import grpc
import kubernetes_validate
import pytest
import yaml
from grpc_health.v1 import health_pb2, health_pb2_grpc
from layerserve.cli.variables import PREFIX
from layerserve_server.app import App
from layerserve_server.commands.settings_reader import read_settings
from layerserve_server.extensions.installed import Settings
from manifests import BASE, Resource, built

#: The oldest Kubernetes that has gRPC probes for good, and the newest that the validator knows.
VERSIONS = ("1.27", kubernetes_validate.latest_version())

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.fixture
def settings(manifests: dict[str, Resource], container: Resource, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server makes of the container's arguments and environment."""
    for name, value in manifests["ConfigMap"]["data"].items():
        monkeypatch.setenv(name, value)
    assert container["args"] == ["serve"]
    return read_settings([])


@pytest.mark.parametrize("version", VERSIONS)
def test_each_resource_is_valid(manifests: dict[str, Resource], version: str) -> None:
    assert len(manifests) == 7
    for resource in manifests.values():
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_validator_would_see_a_wrong_probe(manifests: dict[str, Resource], container: Resource) -> None:
    wrong = yaml.safe_load(yaml.safe_dump(manifests["Deployment"]))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["grpc"] = {"prot": 8500}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_every_file_of_the_folder_is_used() -> None:
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], *(env for g in kustomization["configMapGenerator"] for env in g["envs"])}
    assert {path.name for path in BASE.iterdir()} == {*used, "kustomization.yaml"}


def test_selectors_match_the_pods(manifests: dict[str, Resource]) -> None:
    deployment = manifests["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    assert deployment["selector"]["matchLabels"].items() <= labels
    assert manifests["Service"]["spec"]["selector"].items() <= labels
    assert manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= labels


def test_names_that_are_referred_to_exist(manifests: dict[str, Resource], pod: Resource, container: Resource) -> None:
    claims = [v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [manifests["PersistentVolumeClaim"]["metadata"]["name"]]
    assert pod["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
    assert container["envFrom"] == [{"configMapRef": {"name": manifests["ConfigMap"]["metadata"]["name"]}}]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert container["image"] in {image["name"] for image in kustomization["images"]}


def test_ports_are_those_the_server_listens_on(
    manifests: dict[str, Resource], container: Resource, settings: Settings
) -> None:
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": settings.grpc_port, "metrics": settings.metrics_port}
    service = manifests["Service"]["spec"]
    assert service["clusterIP"] == "None"
    assert {port["name"]: (port["port"], port["targetPort"]) for port in service["ports"]} == {
        name: (number, name) for name, number in ports.items()
    }
    annotations = manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    assert {container[probe]["grpc"]["port"] for probe in PROBES} == {settings.grpc_port}
    policy = manifests["NetworkPolicy"]["spec"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == list(ports)
    assert policy["egress"] == []
    assert policy["policyTypes"] == ["Ingress", "Egress"]


@pytest.mark.parametrize("probe", PROBES)
def test_health_knows_the_service_that_a_probe_asks_for(container: Resource, probe: str, tmp_path: Path) -> None:
    asked = container[probe]["grpc"].get("service", "")
    local = Settings(path=tmp_path, host="127.0.0.1", grpc_port=0, metrics_port=-1)
    with App(local) as app, grpc.insecure_channel(f"127.0.0.1:{app.grpc_port}") as channel:
        request = health_pb2.HealthCheckRequest(service=asked)
        answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10, wait_for_ready=True)
        assert answer.status == answer.SERVING


def test_every_variable_is_a_setting_and_takes_effect(manifests: dict[str, Resource], settings: Settings) -> None:
    assert manifests["ConfigMap"]["data"]
    for name, value in manifests["ConfigMap"]["data"].items():
        field = name.removeprefix(PREFIX).lower()
        assert name == PREFIX + field.upper()
        assert field in Settings.model_fields, f"{name} is no setting"
        in_force = getattr(settings, field)
        assert type(in_force)(value) == in_force


def test_the_pod_is_not_killed_while_it_drains(pod: Resource, settings: Settings) -> None:
    assert settings.longest_drain_seconds + settings.grace_seconds < pod["terminationGracePeriodSeconds"]


def test_what_the_server_writes_to_is_mounted(container: Resource, settings: Settings) -> None:
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = [PurePosixPath(mount["mountPath"]) for mount in container["volumeMounts"] if not mount.get("readOnly")]
    for written in (settings.path, settings.state_folder, "/tmp"):
        assert any(PurePosixPath(written).is_relative_to(mount) for mount in mounts), f"{written} is read-only"


def test_threads_fit_the_cores(container: Resource, settings: Settings) -> None:
    cores = int(container["resources"]["limits"]["cpu"])
    assert 0 < settings.compute_threads <= cores
    assert 0 < settings.training_threads <= cores


def test_requests_stay_within_limits(container: Resource) -> None:
    resources = container["resources"]
    assert resources["requests"].keys() == resources["limits"].keys() == {"cpu", "memory"}
    for name, requested in resources["requests"].items():
        assert quantity(requested) <= quantity(resources["limits"][name])


def test_nothing_runs_as_root_or_may_become_it(pod: Resource, container: Resource) -> None:
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["fsGroup"] == context["runAsGroup"]
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False


def test_a_second_pod_never_waits_for_the_volume(manifests: dict[str, Resource]) -> None:
    deployment = manifests["Deployment"]["spec"]
    assert manifests["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert (deployment["replicas"], deployment["strategy"]["type"]) == (1, "Recreate")


def test_a_node_with_the_only_pod_can_be_drained(manifests: dict[str, Resource]) -> None:
    assert manifests["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1
    assert "minAvailable" not in manifests["PodDisruptionBudget"]["spec"]


def test_kustomize_renders_the_same_resources(manifests: dict[str, Resource]) -> None:
    rendered = built(BASE)
    assert set(rendered) == set(manifests)
    assert rendered["ConfigMap"]["data"] == manifests["ConfigMap"]["data"]
    for resource in rendered.values():
        kubernetes_validate.validate(resource, VERSIONS[-1], strict=True)


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number."""
    number, unit = re.fullmatch(r"([0-9.]+)(m|Ki|Mi|Gi|Ti)?", text).groups()
    return float(number) * {None: 1, "m": 0.001, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}[unit]
