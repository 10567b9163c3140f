"""A real server over real files: the zoo as built here, as stock Keras writes it, and as Keras 2.15 wrote it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import stock_zoo
from layerserve import Client
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_zoo.zoo import ZOO
from shared_parent import SharedParent

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras2"


@contextmanager
def used(parent: SharedParent) -> Iterator[None]:
    """Gives this warm parent to servers that are made in the context."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layerserve_server.app.WarmParent", lambda *_, **__: parent)
        yield


@pytest.fixture(scope="module", autouse=True)
def _one_warm_parent(warm_parent: SharedParent) -> Iterator[None]:
    with used(warm_parent):
        yield


@pytest.fixture(scope="session", name="repository")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`<name>_here`, `<name>_keras` and `<name>_keras2` for each model of the zoo, and a truncated file."""
    folder = tmp_path_factory.mktemp("models")
    for name, entry in ZOO.items():
        here, keras, keras2 = (folder / f"{name}_{who}" / "1" for who in ("here", "keras", "keras2"))
        for version in (here, keras, keras2):
            version.mkdir(parents=True)
        entry.make(small=True).save(here / "model.keras")
        stock_zoo.stock(name).save(keras / "model.keras")
        shutil.copy(FIXTURES / f"{name}.h5", keras2 / "model.h5")
    broken = folder / "broken" / "1"
    broken.mkdir(parents=True)
    whole = (folder / "dense_here" / "1" / "model.keras").read_bytes()
    (broken / "model.keras").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="session", name="app")
def _app(repository: Path, warm_parent: SharedParent) -> Iterator[App]:
    settings = Settings(
        path=repository, host="127.0.0.1", grpc_port=0, metrics_port=0, poll_seconds=0.1, drain_seconds=0
    )
    with used(warm_parent):
        app = App(settings)
    with app:
        yield app


@pytest.fixture(scope="session", name="client")
def _client(app: App) -> Iterator[Client]:
    with Client(f"127.0.0.1:{app.grpc_port}", timeout=60) as client:
        yield client
