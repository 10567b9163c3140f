"""Whether resources of Kubeflow Trainer and KServe have only fields that their own packages know.

    PYTHON tests/support/custom_resources.py < resources.json

PYTHON has kubeflow-trainer-api or kserve: resources of the other are passed over. Prints a line for each resource, and
exits with 1 if a field is unknown or has a value of the wrong type.
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from typing import Any

#: Names in generated models of types that are lists or tables: "list[V1Container]", "dict(str, str)".
LISTS, TABLES = ("list[",), ("dict(", "dict[")


def main() -> int:
    problems = []
    for resource in json.load(sys.stdin):
        kind, group = resource["kind"], resource["apiVersion"].partition("/")[0]
        if group == "trainer.kubeflow.org" and find_spec("kubeflow_trainer_api"):
            found = trainer_problems(resource)
        elif group == "serving.kserve.io" and find_spec("kserve"):
            found = kserve_problems(resource)
        else:
            continue
        print(f"{'FAILED' if found else 'ok'}: {kind} {resource['metadata']['name']}")
        problems += found
    for problem in problems:
        print(problem, file=sys.stderr)
    return bool(problems)


def trainer_problems(resource: dict[str, Any]) -> list[str]:
    """What the models of kubeflow-trainer-api, which check types, don't give back."""
    from kubeflow_trainer_api import models

    read = getattr(models, f"TrainerV1alpha1{resource['kind']}").from_dict(resource)
    return list(lost(resource, read.to_dict(), resource["kind"]))


def lost(given: Any, back: Any, place: str) -> list[str]:
    if isinstance(given, dict):
        known = back if isinstance(back, dict) else {}
        return [one for name, value in given.items() for one in lost(value, known.get(name), f"{place}.{name}")]
    if isinstance(given, list):
        if not isinstance(back, list) or len(back) != len(given):
            return [f"{place}: unknown"]
        pairs = enumerate(zip(given, back, strict=True))
        return [one for index, (value, other) in pairs for one in lost(value, other, f"{place}[{index}]")]
    return [] if given == back else [f"{place}: unknown"]


def kserve_problems(resource: dict[str, Any]) -> list[str]:
    """Fields that the models of kserve and of its Kubernetes client don't have."""
    import kserve
    from kubernetes import client

    version = resource["apiVersion"].partition("/")[2].capitalize()
    # The runtime of a cluster has the fields of one of a namespace.
    kind = resource["kind"].removeprefix("Cluster")
    return unknown(resource["spec"], f"{version}{kind}Spec", (kserve, client), resource["kind"])


def unknown(value: Any, kind: str, modules: tuple[Any, ...], place: str) -> list[str]:
    if kind.startswith((*LISTS, *TABLES)):
        inner = kind[5:-1].rpartition(", ")[2]
        values = value.items() if isinstance(value, dict) else enumerate(value)
        return [one for name, each in values for one in unknown(each, inner, modules, f"{place}.{name}")]
    model = next((getattr(module, kind) for module in modules if hasattr(module, kind)), None)
    if model is None or not isinstance(value, dict):
        return []
    names = {name: field for field, name in model.attribute_map.items()}
    found = []
    for name, each in value.items():
        if name in names:
            found += unknown(each, model.openapi_types[names[name]], modules, f"{place}.{name}")
        else:
            found.append(f"{place}.{name}: unknown to {kind}")
    return found


if __name__ == "__main__":
    sys.exit(main())
