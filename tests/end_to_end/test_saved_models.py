"""A SavedModel folder, as TensorFlow Serving has it, in a repository."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from layergraph import load_model
from layerserve import Client, ModelInfo
from model_files import numbered
from serving import serving

FIXTURES = Path(__file__).parents[1] / "fixtures" / "saved_models" / "tf215"


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved_models")
    shutil.copytree(FIXTURES / "model", folder / "whole" / "1")
    shutil.copytree(FIXTURES / "checkpoint", folder / "joined" / "1")
    shutil.copytree(FIXTURES / "operations", folder / "operations" / "1")
    (folder / "lite" / "1").mkdir(parents=True)
    (folder / "lite" / "1" / "model.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(40))
    return folder


@pytest.fixture(scope="module", name="client")
def _client(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


def first_version(client: Client, name: str) -> ModelInfo:
    return next(one for one in client.models(name) if one.version == 1)


def data() -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    with np.load(FIXTURES / "numbers.npz") as arrays:
        ids, dense = numbered(arrays, "input")
        return {"ids": ids, "dense": dense}, arrays["output_0"], arrays["target"]


@pytest.mark.parametrize("name", ["whole", "joined"])
def test_it_is_served_unchanged(name: str, client: Client) -> None:
    inputs, expected, _ = data()
    np.testing.assert_allclose(client.predict(name, inputs), expected, rtol=1e-5, atol=1e-6)


def test_what_is_something_else_is_named(client: Client) -> None:
    assert "tf.saved_model.save of TensorFlow 2.15.1" in first_version(client, "operations").reason
    assert "a TensorFlow Lite model ('model.tflite')" in first_version(client, "lite").reason


def test_it_is_downloaded_as_a_file(client: Client, tmp_path: Path) -> None:
    inputs, expected, _ = data()
    for format in ("", "keras3"):
        path = client.download("whole", tmp_path / f"model{format}", format=format or None, version=1)
        result = load_model(path).predict(inputs, verbose=0)
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["whole", "joined"])
def test_it_is_trained_on(name: str, client: Client) -> None:
    inputs, _, targets = data()
    compiled = {} if name == "whole" else {"optimizer": "sgd", "loss": "mse"}
    run = client.train(name, inputs, targets, epochs=1, seed=1, **compiled).wait()
    assert run.version == 2


def test_a_changed_shard_is_loaded_again(client: Client, folder: Path) -> None:
    path = folder / "whole" / "1" / "variables" / "variables.data-00000-of-00001"
    inputs, expected, _ = data()
    client.predict("whole", inputs, version=1)
    before = path.read_bytes()
    path.write_bytes(bytes([before[0] ^ 1]) + before[1:])
    wait_for(lambda: "the checksum of its values is wrong" in first_version(client, "whole").reason)
    np.testing.assert_allclose(client.predict("whole", inputs, version=1), expected, rtol=1e-5, atol=1e-6)
    path.write_bytes(before)
    wait_for(lambda: not first_version(client, "whole").reason)


def wait_for(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
