"""The RayJob that scores a folder: valid pods, and what its program and Scorer know."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

import kubernetes_validate
import pytest
import yaml
from layerserve import Scorer
from manifests import KUBERNETES, Resource, built

FOLDER = KUBERNETES / "scoring-ray"


@pytest.fixture(scope="module", name="job")
def _job() -> Resource:
    return yaml.safe_load((FOLDER / "rayjob.yaml").read_text())


def templates(job: Resource) -> Iterator[Resource]:
    """The pods of the head and the workers."""
    cluster = job["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]["template"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]


def test_each_pod_is_valid_and_may_little(job: Resource) -> None:
    for template in templates(job):
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": "pod", **template["metadata"]}}
        kubernetes_validate.validate(pod, kubernetes_validate.latest_version(), strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"]
        assert not template["spec"]["automountServiceAccountToken"]
        (container,) = template["spec"]["containers"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in template["spec"]["volumes"]
        }


def test_all_pods_have_one_image_with_rays_release(job: Resource) -> None:
    images = {container["image"] for template in templates(job) for container in template["spec"]["containers"]}
    assert len(images) == 1
    release = job["spec"]["rayClusterSpec"]["rayVersion"]
    assert f"FROM rayproject/ray:{release}-" in (FOLDER / "rayjob.yaml").read_text()


def test_the_program_gets_folders_that_are_mounted(job: Resource) -> None:
    command, program, source, _, *folders = job["spec"]["entrypoint"].split()
    assert command == "python"
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    (generator,) = kustomization["configMapGenerator"]
    assert {path.name for path in FOLDER.iterdir()} == {
        "kustomization.yaml",
        *kustomization["resources"],
        *generator["files"],
    }
    for template in templates(job):
        (container,) = template["spec"]["containers"]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        (config,) = [volume["configMap"] for volume in template["spec"]["volumes"] if "configMap" in volume]
        assert config["name"] == generator["name"]
        assert program.rpartition("/")[0] in mounts
        assert mounts[source]["readOnly"]
        assert all(folder.startswith("/data/") for folder in folders)
        assert "readOnly" not in mounts["/data"]
    # The name is the same in the job, which kustomize doesn't know.
    assert kustomization["generatorOptions"]["disableNameSuffixHash"]


def test_the_program_takes_these_arguments_and_makes_a_scorer_of_them(job: Resource) -> None:
    tree = ast.parse((FOLDER / "score.py").read_text())
    (names,) = [one.targets[0] for one in tree.body if isinstance(one, ast.Assign) and "argv" in ast.unparse(one)]
    assert isinstance(names, ast.Tuple)
    assert len(names.elts) == len(job["spec"]["entrypoint"].split()) - 2
    calls = {ast.unparse(one.func): one for one in ast.walk(tree) if isinstance(one, ast.Call)}
    for name, method in (("Scorer", Scorer), ("scorer.ray", Scorer.ray)):
        given = {keyword.arg for keyword in calls[name].keywords}
        assert given <= set(inspect.signature(method).parameters)


def test_kustomize_builds_it(job: Resource) -> None:
    made = built(FOLDER)
    assert made["RayJob"] == job
    assert set(made) == {"RayJob", "ConfigMap"}
