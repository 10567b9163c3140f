"""The overlay with which a server's runs are Jobs: valid, and what the server, the base and the Jobs agree on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import kubernetes_validate
import pytest
import yaml
from layerserve_server.extensions.cluster import cluster
from layerserve_server.extensions.installed import Settings
from manifests import KUBERNETES, Resource, built

FOLDER = KUBERNETES / "training-jobs"
#: Name of the file of the runtime of TrainJobs.
RUNTIME = "clustertrainingruntime"


def read(name: str) -> list[Resource]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_each_resource_is_valid(version: str) -> None:
    (job,) = read("job.yaml")
    job["metadata"]["name"] = "a"
    for resource in (job, *read("rights.yaml")):
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_server_reads_the_template_that_is_mounted(manifests: dict[str, Resource]) -> None:
    (patch,) = read("server.yaml")
    pod = patch["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    base = manifests["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    assert container["name"] == base["name"]
    variables = {one["name"].removeprefix("LAYERSERVE_").lower(): one["value"] for one in container["env"]}
    settings = Settings(path=Path("/models"), **variables)
    assert settings.training_backend == "kubernetes"
    (mount,) = container["volumeMounts"]
    assert settings.training_job == Path(mount["mountPath"]) / "job.yaml"
    (volume,) = pod["volumes"]
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (generator,) = kustomization["configMapGenerator"]
    assert (volume["name"], volume["configMap"]["name"]) == (mount["name"], generator["name"])


def test_kustomize_builds_it_and_the_server_reaches_the_api() -> None:
    resources = built(FOLDER)
    for resource in resources.values():
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
    policy = next(
        p for p in resources.values() if p["kind"] == "NetworkPolicy" and p["metadata"]["name"] == "layerserve"
    )
    assert {443, 6443} <= {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]] == ["grpc", "metrics"]


def test_the_server_may_do_what_it_does(manifests: dict[str, Resource]) -> None:
    role, binding = read("rights.yaml")
    (patch,) = read("server.yaml")
    server = manifests["Deployment"]["spec"]["template"]["spec"]
    assert patch["spec"]["template"]["spec"]["automountServiceAccountToken"] is True
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": server["serviceAccountName"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    allowed = {(rule["apiGroups"][0], rule["resources"][0]): set(rule["verbs"]) for rule in role["rules"]}
    expected = {(group, plural): {"create", "get", "delete"} for group, _, plural in cluster.KINDS.values()}
    assert allowed == expected


def test_pods_of_jobs_see_the_folders_of_the_server(
    manifests: dict[str, Resource], training: dict[str, Resource]
) -> None:
    (job,) = read("job.yaml")
    pod = job["spec"]["template"]["spec"]
    server = manifests["Deployment"]["spec"]["template"]["spec"]
    assert pod["volumes"] == server["volumes"]
    assert pod["containers"][0]["volumeMounts"] == server["containers"][0]["volumeMounts"]
    assert pod["securityContext"] == server["securityContext"]
    # The service and the network policy of `training` are for these pods, too.
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert training["Service"]["spec"]["selector"].items() <= labels.items()
    assert pod["subdomain"] == training["Service"]["metadata"]["name"]
    (port,) = pod["containers"][0]["ports"]
    assert port["containerPort"] == cluster.RENDEZVOUS_PORT == training["Service"]["spec"]["ports"][0]["port"]


def test_train_jobs_name_the_cluster_runtime_whose_pods_are_those_of_jobs() -> None:
    folder = KUBERNETES / "training-trainjobs"
    train_job, runtime = (yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("trainjob", RUNTIME))
    group, _, _ = runtime["apiVersion"].partition("/")
    reference = {"apiGroup": group, "kind": "ClusterTrainingRuntime", "name": runtime["metadata"]["name"]}
    assert (train_job["spec"]["runtimeRef"], runtime["kind"]) == (reference, "ClusterTrainingRuntime")
    made = cluster.Cluster(folder / "trainjob.yaml", SimpleNamespace()).manifest(Path("/models/run"), 2, {})
    assert (made["spec"]["runtimeRef"], made["spec"]["trainer"]["numNodes"]) == (reference, 2)
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod, (job,) = replicated["template"]["spec"]["template"], read("job.yaml")
    expected = job["spec"]["template"]
    assert pod["metadata"]["labels"] == expected["metadata"]["labels"]
    assert (pod["spec"]["volumes"], pod["spec"]["securityContext"]) == (
        expected["spec"]["volumes"],
        expected["spec"]["securityContext"],
    )
    (own,), (container,) = pod["spec"]["containers"], expected["spec"]["containers"]
    assert all(own[name] == container[name] for name in ("image", "volumeMounts", "securityContext"))
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert f"{RUNTIME}.yaml" in kustomization["resources"]
