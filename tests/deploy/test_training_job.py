"""The Job that trains a run by several pods: valid, and what torchrun, the server and the base know."""

from __future__ import annotations

import importlib.util
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from layerserve_server.extensions.installed import Settings
from layerserve_server.training.runs.execution import TRAINER
from layerserve_server.training.runs.run import RUN_ID
from manifests import TRAINING, Resource, built
from torch.distributed.run import parse_args


@pytest.fixture(scope="module", name="worker_pod")
def _worker_pod(training: dict[str, Resource]) -> Resource:
    return training["Job"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module", name="torchrun")
def _torchrun(training: dict[str, Resource], worker_pod: Resource) -> Any:
    """What torchrun makes of the container's arguments."""
    run = training["ConfigMap"]["data"]["RUN"]
    return parse_args([argument.replace("$(RUN)", run) for argument in worker_pod["containers"][0]["args"]])


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", ["Job", "Service", "NetworkPolicy", "ConfigMap"])
def test_each_resource_is_valid(training: dict[str, Resource], kind: str, version: str) -> None:
    kubernetes_validate.validate(training[kind], version, strict=True)


def test_every_file_of_the_folder_is_used() -> None:
    kustomization = yaml.safe_load((TRAINING / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], *(env for g in kustomization["configMapGenerator"] for env in g["envs"])}
    assert {path.name for path in TRAINING.iterdir()} == {*used, "kustomization.yaml"}


def test_kustomize_builds_it(training: dict[str, Resource]) -> None:
    assert set(built(TRAINING)) == set(training)


def test_torchrun_starts_what_the_server_starts(
    training: dict[str, Resource], worker_pod: Resource, torchrun: Any
) -> None:
    assert worker_pod["containers"][0]["command"] == ["torchrun"]
    assert (torchrun.module, torchrun.training_script) == (True, TRAINER[-1])
    assert importlib.util.find_spec(torchrun.training_script)
    (folder,) = torchrun.training_script_args
    state = Settings(path=Path("/models")).state_folder
    assert PurePosixPath(folder).parent == PurePosixPath(state / "runs")
    assert RUN_ID.fullmatch(PurePosixPath(folder).name)


def test_there_is_a_pod_for_each_worker(training: dict[str, Resource], torchrun: Any) -> None:
    spec = training["Job"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert torchrun.nnodes == str(spec["completions"]) == str(spec["parallelism"])
    assert torchrun.nproc_per_node == "1"


def test_workers_meet_at_the_first_pod(training: dict[str, Resource], worker_pod: Resource, torchrun: Any) -> None:
    host, port = torchrun.rdzv_endpoint.split(":")
    assert worker_pod["subdomain"] == training["Service"]["metadata"]["name"]
    assert host == f"{training['Job']['metadata']['name']}-0.{worker_pod['subdomain']}"
    (service,) = training["Service"]["spec"]["ports"]
    (own,) = worker_pod["containers"][0]["ports"]
    assert (service["port"], service["targetPort"]) == (int(port), own["name"])
    assert own["containerPort"] == int(port)
    labels = training["Job"]["spec"]["template"]["metadata"]["labels"]
    assert training["Service"]["spec"]["selector"] == labels
    policy = training["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert [rule["from"][0]["podSelector"]["matchLabels"] for rule in policy["ingress"]] == [labels]


def test_the_pods_are_as_those_of_the_server(
    training: dict[str, Resource], worker_pod: Resource, manifests: dict[str, Resource]
) -> None:
    server = manifests["Deployment"]["spec"]["template"]["spec"]
    for name in ("securityContext", "volumes", "automountServiceAccountToken", "enableServiceLinks"):
        assert worker_pod[name] == server[name]
    (worker,), (served,) = worker_pod["containers"], server["containers"]
    for name in ("image", "securityContext", "volumeMounts", "resources"):
        assert worker[name] == served[name]
    assert worker["envFrom"] == [{"configMapRef": {"name": training["ConfigMap"]["metadata"]["name"]}}]
