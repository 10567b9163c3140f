"""Overlays and components: what kustomize builds is valid, and its parts fit each other and the server's settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from manifests import KUBERNETES, Resource, built, config_of, settings_of, validate

COMPONENTS, OVERLAYS = KUBERNETES / "components", KUBERNETES / "overlays"


@pytest.fixture(scope="module", name="overlay", params=sorted(path.name for path in OVERLAYS.iterdir()))
def _overlay(request: pytest.FixtureRequest) -> dict[str, Resource]:
    return built(OVERLAYS / request.param)


def test_every_component_builds_on_the_base(tmp_path_factory: pytest.TempPathFactory) -> None:
    for component in sorted(COMPONENTS.iterdir()):
        # Below the folder: kustomize reads no absolute paths.
        folder = tmp_path_factory.mktemp(component.name)
        up = "../" * (len(folder.parts) - 1)
        names = [f"{up}{path.relative_to('/')}" for path in (KUBERNETES / "base", component)]
        text = {"kind": "Kustomization", "resources": names[:1], "components": names[1:]}
        (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
        # What overlays change is validated below.
        assert "Deployment" in built(folder)


@pytest.mark.parametrize(
    "folder", [*sorted(COMPONENTS.iterdir()), *sorted(OVERLAYS.iterdir())], ids=lambda path: path.name
)
def test_every_file_is_used(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    used = {*kustomization.get("resources", ()), *(patch.get("path") for patch in kustomization.get("patches", ()))}
    files = {path.name for path in folder.iterdir()} - {"kustomization.yaml"}
    assert files == {name for name in used if name and "/" not in name}


def test_each_resource_is_valid(overlay: dict[str, Resource]) -> None:
    for resource in overlay.values():
        validate(resource)


def test_settings_are_valid_and_their_files_mounted(overlay: dict[str, Resource]) -> None:
    settings = settings_of(config_of(overlay))
    (container,) = overlay["Deployment"]["spec"]["template"]["spec"]["containers"]
    mounts = [mount["mountPath"] for mount in container["volumeMounts"]]
    for path in (settings.tokens, settings.state or settings.path):
        assert path is None or any(path.is_relative_to(mount) for mount in mounts)
    if settings.address:
        # Runs and sessions would end with the pod.
        assert (settings.training_slots, settings.max_online_sessions) == (0, 0)
        assert "PersistentVolumeClaim" not in overlay


def test_names_that_are_referred_to_exist(overlay: dict[str, Resource]) -> None:
    pod = overlay["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    for volume in pod["volumes"]:
        kinds = set(volume) - {"name"}
        # kustomize would keep a claim beside an empty folder.
        assert len(kinds) == 1, volume
        if "persistentVolumeClaim" in volume:
            assert volume["persistentVolumeClaim"]["claimName"] == overlay["PersistentVolumeClaim"]["metadata"]["name"]
    configs = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
    assert configs == [config_of(overlay)["metadata"]["name"]]


def test_pods_are_spread_and_updated_one_by_one(overlay: dict[str, Resource]) -> None:
    spec = overlay["Deployment"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    spread = spec["template"]["spec"]["topologySpreadConstraints"]
    assert [one["topologyKey"] for one in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert all(one["labelSelector"]["matchLabels"].items() <= labels.items() for one in spread)
    if "PersistentVolumeClaim" in overlay:
        assert overlay["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_the_autoscaler_alone_sets_the_number_of_pods(overlay: dict[str, Resource]) -> None:
    assert "replicas" not in overlay["Deployment"]["spec"]
    if "HorizontalPodAutoscaler" in overlay:
        spec = overlay["HorizontalPodAutoscaler"]["spec"]
        least, most = spec["minReplicas"], spec["maxReplicas"]
    else:
        spec = overlay["ScaledObject"]["spec"]
        least, most = spec["minReplicaCount"], spec["maxReplicaCount"]
    assert spec["scaleTargetRef"]["name"] == overlay["Deployment"]["metadata"]["name"]
    assert overlay["PodDisruptionBudget"]["spec"]["maxUnavailable"] < least <= most


def test_prometheus_finds_the_service_and_may_read(overlay: dict[str, Resource]) -> None:
    monitor, service = overlay["ServiceMonitor"]["spec"], overlay["Service"]
    labels = service["metadata"]["labels"]
    assert monitor["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["jobLabel"]] == "layerserve"
    (endpoint,) = monitor["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    settings = settings_of(config_of(overlay))
    assert ("authorization" in endpoint) == ("read" not in settings.anonymous_rights)
