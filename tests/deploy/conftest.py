"""What several files of tests look at: the base, its pod, and a training run."""

from __future__ import annotations

import pytest
from manifests import BASE, TRAINING, Resource, render


@pytest.fixture(scope="session")
def manifests() -> dict[str, Resource]:
    """The base's resources by kind."""
    return render(BASE)


@pytest.fixture(scope="session")
def training() -> dict[str, Resource]:
    """The resources of a training run with several workers, by kind."""
    return render(TRAINING)


@pytest.fixture(scope="session")
def pod(manifests: dict[str, Resource]) -> Resource:
    """The Deployment's pod."""
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture(scope="session")
def container(pod: Resource) -> Resource:
    """The pod's only container."""
    (only,) = pod["containers"]
    return only
