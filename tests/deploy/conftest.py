"""The manifests as the cluster would get them, rendered without kustomize."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy" / "kubernetes" / "base"
TRAINING = BASE.parent / "training"
#: What of a kustomization `render` follows; a key beside these would be passed over in silence.
FOLLOWED = {"apiVersion", "kind", "labels", "resources", "configMapGenerator", "images"}


def render(folder: Path) -> dict[str, dict[str, Any]]:
    """The resources of a kustomization by kind."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= FOLLOWED
    resources = [yaml.safe_load((folder / name).read_text()) for name in kustomization["resources"]]
    for generator in kustomization["configMapGenerator"]:
        data = {name: value for file in generator["envs"] for name, value in read_env(folder / file).items()}
        resources.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        )
    by_kind = {resource["kind"]: resource for resource in resources}
    assert len(by_kind) == len(resources)
    return by_kind


def read_env(path: Path) -> dict[str, str]:
    """An .env file as kustomize reads it: NAME=VALUE lines, blank ones and comments left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture(scope="session")
def manifests() -> dict[str, dict[str, Any]]:
    """The base's resources by kind."""
    return render(BASE)


@pytest.fixture(scope="session")
def training() -> dict[str, dict[str, Any]]:
    """The resources of a training run with several workers, by kind."""
    return render(TRAINING)


@pytest.fixture(scope="session")
def pod(manifests: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The Deployment's pod."""
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="session")
def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The pod's only container."""
    (only,) = pod["containers"]
    return only
