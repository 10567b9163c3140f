"""The overlay with which a server's runs are Jobs: valid, and what the server, the base and the Jobs agree on."""

from __future__ import annotations

from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from layerserve_server.extensions.installed import Settings
from layerserve_server.training.process import cluster
from manifests import KUBERNETES, Resource, built

FOLDER = KUBERNETES / "training-jobs"


def read(name: str) -> list[Resource]:
    return list(yaml.safe_load_all((FOLDER / name).read_text()))


@pytest.mark.parametrize("version", ["1.27", kubernetes_validate.latest_version()])
def test_each_resource_is_valid(version: str) -> None:
    (job,) = read("job.yaml")
    job["metadata"]["name"] = "a"
    for resource in (job, *read("rights.yaml")):
        kubernetes_validate.validate(resource, version, strict=True)


def test_every_file_of_the_folder_is_used() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    used = {*kustomization["resources"], *(patch["path"] for patch in kustomization["patches"])}
    used |= {file for generator in kustomization["configMapGenerator"] for file in generator["files"]}
    assert {name for name in used if not name.startswith("..")} == {
        path.name for path in FOLDER.iterdir() if path.name != "kustomization.yaml"
    }
    assert all((FOLDER / name).exists() for name in used)


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


def test_train_jobs_run_in_pods_like_those_of_jobs(manifests: dict[str, Resource]) -> None:
    folder = KUBERNETES / "training-trainjobs"
    train_job, runtime = (
        yaml.safe_load((folder / name).read_text()) for name in ("trainjob.yaml", "trainingruntime.yaml")
    )
    reference = train_job["spec"]["runtimeRef"]
    assert (reference["kind"], reference["name"]) == (runtime["kind"], runtime["metadata"]["name"])
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pods = replicated["template"]["spec"]["template"]
    (job,) = read("job.yaml")
    template = job["spec"]["template"]
    assert pods["metadata"]["labels"] == template["metadata"]["labels"]
    assert replicated["template"]["spec"]["backoffLimit"] == job["spec"]["backoffLimit"]
    (container,), (worker,) = pods["spec"].pop("containers"), template["spec"].pop("containers")
    # JobSet names the pods' hosts.
    del template["spec"]["subdomain"]
    assert pods["spec"] == template["spec"]
    for name in ("image", "securityContext", "volumeMounts"):
        assert container[name] == worker[name]
    trainer = train_job["spec"]["trainer"]
    assert (trainer["image"], trainer["numProcPerNode"]) == (worker["image"], 1)
    assert trainer["resourcesPerNode"] == worker["resources"]


def test_a_server_reads_the_template_of_train_jobs() -> None:
    template = cluster._read_template(KUBERNETES / "training-trainjobs" / "trainjob.yaml")
    assert template["kind"] == "TrainJob"
    resources = built(KUBERNETES / "training-trainjobs")
    configs = [one for one in resources.values() if one["kind"] == "ConfigMap" and "job.yaml" in one["data"]]
    assert [yaml.safe_load(config["data"]["job.yaml"]) for config in configs] == [template]


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
