"""Manifests that the templates of Jobs agree with, and a warm parent for all servers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from manifests import BASE, TRAINING, Resource, render
from shared_parent import SharedParent


@pytest.fixture(scope="session")
def manifests() -> dict[str, Resource]:
    """The base's resources by kind."""
    return render(BASE)


@pytest.fixture(scope="session")
def training() -> dict[str, Resource]:
    """The resources of a training run with several workers, by kind."""
    return render(TRAINING)


@pytest.fixture(scope="module", autouse=True)
def _one_warm_parent(warm_parent: SharedParent) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerserve_server.app.WarmParent", lambda *_, **__: warm_parent)
        yield
