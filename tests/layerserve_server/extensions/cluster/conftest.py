"""Manifests that the templates of Jobs agree with."""

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
