"""The chart: values that make no sense are refused, and it renders what kustomize builds."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from layerserve_server.extensions.installed import Settings
from manifests import KUBERNETES, ROOT, Resource, built, by_kind, config_of, settings_of, validate

CHART = ROOT / "deploy" / "helm" / "layerserve"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
EXAMPLES = sorted((CHART / "examples").iterdir())
PROJECT_VERSION = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]


def with_values(changes: dict[str, Any], values: dict[str, Any] = VALUES) -> dict[str, Any]:
    """The default values with changes, merged as Helm does."""
    found = copy.deepcopy(values)
    for name, value in changes.items():
        known = found.get(name)
        found[name] = with_values(value, known) if isinstance(value, dict) and isinstance(known, dict) else value
    return found


def set_to(path: str, value: Any) -> dict[str, Any]:
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def errors(changes: dict[str, Any]) -> list[str]:
    """Where values are refused."""
    found = jsonschema.Draft7Validator(SCHEMA).iter_errors(with_values(changes))
    return [".".join(map(str, error.absolute_path)) for error in found]


SHARED = {"repository": {"claim": {"accessMode": "ReadWriteMany"}}}
STORE = {"repository": {"store": {"address": "s3://bucket/models"}}}
NO_RUNS = {"settings": {"training_slots": 0, "max_online_sessions": 0}}


def test_the_schema_is_one() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        *(yaml.safe_load(example.read_text()) for example in EXAMPLES),
        SHARED | {"replicas": 2},
        STORE | NO_RUNS | {"replicas": 3},
        {"access": {"anonymous": "none", "tokensSecret": "t"}},
        {"tls": {"secret": "t", "clientCertificates": True}, "access": {"anonymous": "none"}},
        {"settings": {"workers": 2, "transport": "native", "sample_models": "a=1", "checkpoint_seconds": 0.5}},
        {"env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4317"}]},
        {"monitoring": {"enabled": True, "labels": {"release": "prometheus"}}},
        {"podDisruptionBudget": {"maxUnavailable": "50%"}},
        {"global": {"anything": 1}},
        {"gpus": 2},
    ],
    ids=str,
)
def test_values_that_make_sense_are_accepted(changes: dict[str, Any]) -> None:
    assert errors(changes) == []


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"replica": 2}, ""),
        ({"replicas": -1}, "replicas"),
        ({"replicas": "2"}, "replicas"),
        ({"replicas": 2}, "repository"),
        ({"autoscaling": {"type": "keda"}}, "repository"),
        (SHARED | {"autoscaling": {"type": "cpu"}}, "autoscaling.type"),
        (SHARED | {"autoscaling": {"type": "keda", "prometheus": "prometheus:9090"}}, "autoscaling.prometheus"),
        (SHARED | {"autoscaling": {"queueMilliseconds": 0}}, "autoscaling.queueMilliseconds"),
        ({"repository": {"claim": {"size": "20 GB"}}}, "repository.claim.size"),
        ({"repository": {"claim": {"size": "0"}}}, "repository.claim.size"),
        ({"repository": {"claim": {"accessMode": "ReadOnlyMany"}}}, "repository.claim.accessMode"),
        (NO_RUNS | {"repository": {"store": {"address": "bucket/models"}}}, "repository.store.address"),
        (STORE | {"settings": {"training_slots": 0}}, "settings.max_online_sessions"),
        (STORE, "settings.training_slots"),
        ({"access": {"anonymous": "none"}}, "access.anonymous"),
        ({"access": {"anonymous": "predict,write"}}, "access.anonymous"),
        ({"access": {"anonymous": ""}}, "access.anonymous"),
        ({"access": {"tokensSecret": "My_Secret"}}, "access.tokensSecret"),
        ({"settings": {"max_batch_row": 64}}, "settings"),
        ({"settings": {"max_batch_rows": 0}}, "settings.max_batch_rows"),
        ({"settings": {"max_batch_rows": "64"}}, "settings.max_batch_rows"),
        ({"settings": {"log_format": "yaml"}}, "settings.log_format"),
        ({"settings": {"drain_seconds": -1}}, "settings.drain_seconds"),
        ({"settings": {"grpc_port": 9000}}, "settings"),
        ({"settings": {"host": "127.0.0.1"}}, "settings"),
        ({"tls": {"clientCertificates": True}}, "tls.secret"),
        ({"tls": {"secret": "t"}, "settings": {"transport": "native"}}, "settings.transport"),
        ({"monitoring": {"enabled": True}, "access": {"anonymous": "predict"}}, "monitoring.tokenSecret"),
        ({"resources": {"limits": {"cpu": "0"}}}, "resources.limits.cpu"),
        ({"resources": {"limits": {"memory": "4 Gi"}}}, "resources.limits.memory"),
        ({"resources": {"limits": {"nvidia.com/gpu": "1"}}}, "resources.limits.nvidia.com/gpu"),
        ({"podDisruptionBudget": {"maxUnavailable": 0}}, "podDisruptionBudget.maxUnavailable"),
        ({"podDisruptionBudget": {"maxUnavailable": "0%"}}, "podDisruptionBudget.maxUnavailable"),
        ({"env": [{"name": "LAYERSERVE_WORKERS", "value": "2"}]}, "env.0.name"),
        ({"env": [{"name": "A", "value": 2}]}, "env.0.value"),
        ({"networkPolicy": {"from": [{}]}}, "networkPolicy.from.0"),
        ({"image": {"repository": ""}}, "image.repository"),
        ({"image": {"tag": "a b"}}, "image.tag"),
        ({"gpus": -1}, "gpus"),
    ],
    ids=str,
)
def test_values_that_make_no_sense_are_refused(changes: dict[str, Any], place: str) -> None:
    assert place in errors(changes)


def test_values_are_those_of_the_schema() -> None:
    assert set(VALUES) == set(SCHEMA["properties"]) - {"global"}
    assert set(VALUES["settings"]) <= set(SCHEMA["$defs"]["settings"]["properties"]) <= set(Settings.model_fields)


def test_the_release_of_the_app_is_that_of_the_image() -> None:
    base = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
    assert [image["newTag"] for image in base["images"]] == [PROJECT_VERSION]


# With Helm.


def helm(*arguments: str | Path, name: str = "layerserve") -> subprocess.CompletedProcess[str]:
    if not shutil.which("helm"):
        pytest.skip("helm isn't installed")
    return subprocess.run(["helm", "template", name, CHART, *arguments], capture_output=True, text=True)


def rendered(
    changes: dict[str, Any] | None = None, name: str = "layerserve", folder: Path | None = None
) -> dict[str, Resource]:
    """What the chart renders, by kind."""
    arguments: list[str | Path] = []
    if changes is not None:
        assert folder is not None
        (folder / "values.yaml").write_text(yaml.safe_dump(changes))
        arguments = ["--values", folder / "values.yaml"]
    made = helm(*arguments, name=name)
    assert made.returncode == 0, made.stderr
    found = by_kind(yaml.safe_load_all(made.stdout))
    for resource in found.values():
        validate(resource)
    return found


@pytest.mark.parametrize(
    ("folder", "example"),
    [("base", None), ("overlays/production", "production.yaml"), ("overlays/store", "store.yaml")],
)
def test_it_renders_what_kustomize_builds(folder: str, example: str | None, tmp_path: Path) -> None:
    changes = yaml.safe_load((CHART / "examples" / example).read_text()) if example else {}
    ours, theirs = rendered(changes, folder=tmp_path), built(KUBERNETES / folder)
    named = [
        {(one["kind"], plain(one["metadata"]["name"])): compared(one) for one in group.values()}
        for group in (ours, theirs)
    ]
    assert named[0].keys() == named[1].keys()
    for key, resource in named[0].items():
        assert resource == named[1][key], key


def plain(name: str) -> str:
    """A name without the hash of its content."""
    return "-".join(
        part for part in name.split("-") if not (len(part) == 10 and part.isalnum() and part != "layerserve")
    )


def compared(resource: Resource) -> Resource:
    """A resource without what differs on purpose: labels and names of the release, hashes of the settings."""
    found = json.loads(json.dumps(resource).replace(',namespace=\\"default\\"', ""))
    found.pop("metadata")
    strip(found)
    return found


def strip(value: Any) -> None:
    """Removes such parts everywhere in a resource, and sorts what has names: kustomize puts what it merges in front."""
    if isinstance(value, dict):
        for name in ("app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by"):
            value.pop(name, None)
        for name in ("helm.sh/chart", "checksum/settings", "imagePullPolicy", "optional"):
            value.pop(name, None)
        if "configMapRef" in value:
            value["configMapRef"]["name"] = plain(value["configMapRef"]["name"])
        for inner in value.values():
            strip(inner)
    elif isinstance(value, list):
        if all(isinstance(inner, dict) and "name" in inner for inner in value):
            value.sort(key=lambda inner: inner["name"])
        for inner in value:
            strip(inner)


def test_numbers_reach_the_server_as_they_are(tmp_path: Path) -> None:
    changes = {"settings": {"max_message_bytes": 268435456, "checkpoint_seconds": 0.5, "warm_training": False}}
    config = config_of(rendered(changes, folder=tmp_path))
    assert config["data"]["LAYERSERVE_MAX_MESSAGE_BYTES"] == "268435456"
    settings = settings_of(config)
    assert (settings.checkpoint_seconds, settings.warm_training) == (0.5, False)


def test_another_release_has_names_of_its_own(tmp_path: Path) -> None:
    resources = rendered({"monitoring": {"enabled": True}}, name="blue", folder=tmp_path)
    assert all(one["metadata"]["name"].startswith("blue-layerserve") for one in resources.values())
    pod = resources["Deployment"]["spec"]["template"]
    assert resources["Service"]["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert resources["Service"]["spec"]["selector"]["app.kubernetes.io/instance"] == "blue"
    # Alerts and dashboard look for it.
    assert resources["Service"]["metadata"]["labels"][resources["ServiceMonitor"]["spec"]["jobLabel"]] == "layerserve"
    (container,) = pod["spec"]["containers"]
    assert container["envFrom"][0]["configMapRef"]["name"] == config_of(resources)["metadata"]["name"]


def test_with_tls_probes_go_to_the_port_without(tmp_path: Path) -> None:
    resources = rendered({"tls": {"secret": "certificate", "clientCertificates": True}}, folder=tmp_path)
    (container,) = resources["Deployment"]["spec"]["template"]["spec"]["containers"]
    paths = {name: container[name]["httpGet"]["path"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert paths == {"startupProbe": "/readyz", "readinessProbe": "/readyz", "livenessProbe": "/healthz"}
    assert config_of(resources)["data"]["LAYERSERVE_TLS_CLIENT_CA"] == "/secrets/tls/ca.crt"
    assert {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}["tls"] == "/secrets/tls"


def test_a_gpu_comes_with_its_image(tmp_path: Path) -> None:
    pod = rendered({"gpus": 1}, folder=tmp_path)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["image"] == f"layerserve:{PROJECT_VERSION}-cuda"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_pod_is_not_killed_while_it_drains(tmp_path: Path) -> None:
    changes = {"settings": {"drain_seconds": 7.5, "grace_seconds": 100}}
    pod = rendered(changes, folder=tmp_path)["Deployment"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 118


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("replicas=2", "accessMode"),
        ("settings.max_batch_rows=0", "max_batch_rows"),
        ("settings.typo=1", "typo"),
        (
            "autoscaling.type=adapter,repository.claim.accessMode=ReadWriteMany,autoscaling.maxReplicas=1",
            "expected at most",
        ),
    ],
)
def test_helm_refuses_what_the_schema_does(setting: str, problem: str) -> None:
    made = helm("--set", setting)
    assert made.returncode != 0
    assert problem in made.stderr
