"""The manifests as the cluster would get them: `render` without kustomize, `built` with it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from layerserve.cli.variables import PREFIX
from layerserve_server.extensions.installed import Settings
from pydantic import TypeAdapter

Resource = dict[str, Any]

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
BASE = KUBERNETES / "base"
TRAINING = KUBERNETES / "training"
#: Groups of resources that the validator doesn't have.
CUSTOM = ("monitoring.coreos.com/", "keda.sh/")
#: What of a kustomization `render` follows; a key beside these would be passed over in silence.
FOLLOWED = {"apiVersion", "kind", "labels", "resources", "components", "configMapGenerator", "images"}


def render(folder: Path) -> dict[str, Resource]:
    """The resources of a kustomization by kind."""
    resources = list(resources_of(folder))
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    for generator in kustomization["configMapGenerator"]:
        data = {name: value for file in generator["envs"] for name, value in read_env(folder / file).items()}
        resources.append(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": generator["name"]}, "data": data}
        )
    by_kind = {resource["kind"]: resource for resource in resources}
    assert len(by_kind) == len(resources)
    return by_kind


def resources_of(folder: Path) -> list[Resource]:
    """The resources that are files, also those of components."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(kustomization) <= FOLLOWED
    found = [yaml.safe_load((folder / name).read_text()) for name in kustomization["resources"]]
    for component in kustomization.get("components", ()):
        found += resources_of(folder / component)
    return found


def read_env(path: Path) -> dict[str, str]:
    """An .env file as kustomize reads it: NAME=VALUE lines, blank ones and comments left out."""
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def built(folder: Path) -> dict[str, Resource]:
    """What kustomize builds, by kind; a second resource of a kind by kind and name. Skips where it isn't installed."""
    if not shutil.which("kustomize"):
        pytest.skip("kustomize isn't installed")
    made = subprocess.run(["kustomize", "build", folder], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return by_kind(yaml.safe_load_all(made.stdout))


def by_kind(resources: Any) -> dict[str, Resource]:
    """Resources by kind; all but the first of a kind by kind and name."""
    found: dict[str, Resource] = {}
    for resource in filter(None, resources):
        kind = resource["kind"]
        found[f"{kind} {resource['metadata']['name']}" if kind in found else kind] = resource
    return found


def config_of(resources: dict[str, Resource]) -> Resource:
    """The ConfigMap of settings. A dashboard is another one."""
    (found,) = [one for one in resources.values() if one["kind"] == "ConfigMap" and "LAYERSERVE_PATH" in one["data"]]
    return found


def settings_of(config: Resource) -> Settings:
    """The settings in a ConfigMap, read as from the environment."""
    values = {name.removeprefix(PREFIX).lower(): value for name, value in config["data"].items()}
    return Settings(
        **{n: TypeAdapter(Settings.model_fields[n].annotation).validate_python(v) for n, v in values.items()}
    )


def validate(resource: Resource) -> None:
    if not resource["apiVersion"].startswith(CUSTOM):
        kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
