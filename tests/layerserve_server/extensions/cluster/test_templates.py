"""Manifests of Jobs: what is set in the template for a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from layerserve_server.extensions.cluster.cluster import Cluster, TemplateError
from layerserve_server.training.runs.run import new_id
from torch.distributed.run import parse_args

TEMPLATE = Path(__file__).parents[4] / "deploy" / "kubernetes" / "training-jobs" / "job.yaml"
FOLDER = Path("/models/.layerserve/runs") / new_id()


def cluster(template: Path) -> Cluster:
    return Cluster(template, SimpleNamespace())


def container(job: dict[str, Any]) -> dict[str, Any]:
    return job["spec"]["template"]["spec"]["containers"][0]


def test_a_run_of_one_process_is_a_pod(tmp_path: Path) -> None:
    template = yaml.safe_load(TEMPLATE.read_text())
    container(template)["env"] = [{"name": "PROXY", "value": "none"}]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(template))
    job = cluster(tmp_path / "job.yaml").manifest(FOLDER, 1, {"OMP_NUM_THREADS": "2"})
    assert job["metadata"]["name"] == f"layerserve-run-{FOLDER.name}"
    assert job["metadata"]["labels"]["layerserve.io/run"] == FOLDER.name
    assert (job["spec"]["completions"], job["spec"]["parallelism"]) == (1, 1)
    assert container(job)["command"] == ["python", "-m", "layerserve_server.training.program.main"]
    assert container(job)["args"] == [str(FOLDER)]
    assert container(job)["env"] == [
        {"name": "PROXY", "value": "none"},
        {"name": "OMP_NUM_THREADS", "value": "2"},
    ]


def test_workers_meet_at_the_first_pod() -> None:
    job = cluster(TEMPLATE).manifest(FOLDER, 3, {})
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"]) == ("Indexed", 3, 3)
    assert container(job)["command"] == ["torchrun"]
    arguments = parse_args(container(job)["args"])
    assert (arguments.nnodes, arguments.nproc_per_node) == ("3", "1")
    assert arguments.rdzv_endpoint == f"{job['metadata']['name']}-0.layerserve-training:29400"
    assert arguments.training_script_args == [str(FOLDER)]
    # Kubernetes allows names of 63 characters for the pods' hosts, which end in "-INDEX".
    assert len(job["metadata"]["name"]) <= 58


def test_a_train_job_says_its_size_and_command(tmp_path: Path) -> None:
    template = {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "spec": {"runtimeRef": {"name": "torch-distributed"}, "trainer": {"image": "layerserve:0.1.0"}},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(template))
    job = cluster(tmp_path / "job.yaml").manifest(FOLDER, 2, {"A": "b"})
    assert job["spec"] == {
        "runtimeRef": {"name": "torch-distributed"},
        "trainer": {
            "image": "layerserve:0.1.0",
            "numNodes": 2,
            "command": ["torchrun", "--module", "layerserve_server.training.program.main"],
            "args": [str(FOLDER)],
            "env": [{"name": "A", "value": "b"}],
        },
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "can't be read"),
        ("[]", "has kind None, expected Job or TrainJob"),
        ("kind: Pod", "has kind 'Pod'"),
        ("kind: Job", "has no spec"),
        ("{kind: TrainJob, spec: {trainer: {}}}", "names no runtime in spec.runtimeRef, expected one, such as"),
        ("{kind: TrainJob, spec: {runtimeRef: {kind: ClusterTrainingRuntime}}}", "names no runtime in spec.runtimeRef"),
        ("{kind: Job, spec: {template: {spec: {containers: [{name: a}]}}}}", "no container or no subdomain"),
    ],
)
def test_templates_that_are_refused(tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(TemplateError, match=error):
        cluster(tmp_path / "job.yaml")


def test_without_a_cluster_the_server_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(TemplateError, match="no cluster is configured"):
        Cluster(TEMPLATE)
