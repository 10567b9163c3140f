"""The formats of what training publishes and of downloads, through a server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from layergraph import load_model
from layergraph.saving.formats import own_format
from layerserve import Client, InvalidArgument, Publish
from serving import serving

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras2"


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    (folder / "dense" / "1").mkdir(parents=True)
    shutil.copy(FIXTURES / "dense.h5", folder / "dense" / "1" / "model.h5")
    (folder / "parts" / "1").mkdir(parents=True)
    model = load_model(FIXTURES / "dense.h5")
    (folder / "parts" / "1" / "model.json").write_text(model.to_json())
    model.save_weights(folder / "parts" / "1" / "model.weights.h5")
    return folder


@pytest.fixture(scope="module", name="client")
def _client(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


def rows(client: Client) -> tuple[np.ndarray, np.ndarray]:
    info = client.model("dense")
    random = np.random.default_rng(0)
    x = random.standard_normal((8, *info.inputs[0].shape[1:])).astype("float32")
    return x, random.integers(0, 2, 8).astype("int32")


def train(client: Client, **options: object) -> int | None:
    x, y = rows(client)
    compiled = {"optimizer": "adam", "loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    return client.train("dense", x, y, epochs=1, seed=1, **{**compiled, **options}).wait().version


def test_what_training_publishes_goes_home_and_trains_again(client: Client, folder: Path) -> None:
    """An .h5 of 2.15 gives one; another format can be asked for."""
    first = train(client)
    path = folder / "dense" / str(first) / "model.h5"
    with h5py.File(path) as file:
        assert file.attrs["keras_version"] == "2.15.0"
        training = json.loads(file.attrs["training_config"])
        assert training["optimizer_config"]["class_name"] == "Custom>Adam"
        assert training["metrics"][0][0]["config"]["name"] == "accuracy"
    second = train(client, version=first, publish=Publish(best=True, format="keras3"))
    assert own_format(load_model(folder / "dense" / str(second))).name == "keras3"


def test_a_version_in_several_files_is_trained(client: Client, folder: Path) -> None:
    run = client.train("parts", *rows(client), epochs=1, optimizer="sgd", loss="sparse_categorical_crossentropy").wait()
    assert (
        load_model(folder / "parts" / str(run.version)).count_params()
        == load_model(FIXTURES / "dense.h5").count_params()
    )


def test_a_format_that_cannot_hold_what_was_compiled_is_refused_before_the_run(client: Client) -> None:
    before = len(client.runs())
    with pytest.raises(InvalidArgument, match=r"format 'keras2_h5': .*optimizer Muon.*format 'keras3'"):
        train(client, version=1, optimizer="muon")
    assert not any(run.state in ("queued", "running", "finished") for run in client.runs()[: -before or None])


def test_a_download_is_the_file_or_is_converted(client: Client, folder: Path, tmp_path: Path) -> None:
    original = folder / "dense" / "1" / "model.h5"
    assert client.download("dense", tmp_path, version=1).read_bytes() == original.read_bytes()
    converted = client.download("dense", tmp_path, version=1, format="keras3")
    assert converted.name == "dense-1.keras"
    model = load_model(converted)
    assert own_format(model).name == "keras3"
    for got, want in zip(model.get_weights(), load_model(original).get_weights(), strict=True):
        np.testing.assert_array_equal(got, want)
