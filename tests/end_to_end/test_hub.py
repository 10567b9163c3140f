"""A preset folder of KerasHub as a version: served, trained, downloaded."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from layerserve import Client, InvalidArgument
from oracles import assert_close
from serving import serving

FIXTURES = Path(__file__).parents[1] / "fixtures" / "hub"


@pytest.fixture(scope="module", name="folder")
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for name in ("bert_classifier", "electra"):
        with zipfile.ZipFile(FIXTURES / f"{name}_preset.zip") as preset:
            preset.extractall(folder / name / "1")
    # What KerasHub writes for preprocessing is ignored.
    (folder / "bert_classifier" / "1" / "tokenizer.json").write_text('{"class_name": "BertTokenizer", "config": {}}')
    return folder


@pytest.fixture(scope="module", name="client")
def _client(folder: Path) -> Iterator[Client]:
    with serving(folder) as client:
        yield client


def arrays(name: str, kind: str) -> dict[str, np.ndarray]:
    with np.load(FIXTURES / "arrays.npz") as stored:
        start = f"{name}/{kind}_"
        return {key.removeprefix(start): stored[key] for key in stored.files if key.startswith(start)}


def config_of(file: Path) -> dict[str, object]:
    with zipfile.ZipFile(file) as archive:
        made: dict[str, object] = json.loads(archive.read("config.json"))
        return made


def test_presets_are_served(client: Client) -> None:
    for name in ("bert_classifier", "electra"):
        got = client.predict(name, arrays(name, "input"))
        outputs = got.values() if isinstance(got, dict) else [got]
        for output, want in zip(outputs, arrays(name, "output").values(), strict=True):
            assert_close(output, want, 1e-5)
    assert {tensor.name for tensor in client.model("electra").inputs} == {"token_ids", "segment_ids", "padding_mask"}


def test_a_sequence_that_is_too_long_is_refused(client: Client) -> None:
    long = {name: np.ones((1, 10), "int32") for name in ("token_ids", "segment_ids", "padding_mask")}
    with pytest.raises(InvalidArgument, match="got 10 timesteps, expected at most 9"):
        client.predict("electra", long)


def test_what_training_publishes_is_a_model_of_keras_hub(client: Client, folder: Path, tmp_path: Path) -> None:
    inputs = {name: np.repeat(array, 32, 0) for name, array in arrays("bert_classifier", "input").items()}
    labels = np.repeat(np.array([0, 1, 2], "int32"), 32)
    run = client.train(
        "bert_classifier",
        inputs,
        labels,
        epochs=4,
        batch_size=8,
        seed=1,
        optimizer="rmsprop",
        loss="sparse_categorical_crossentropy",
    ).wait()
    losses = run.history["loss"]
    assert losses[-1] < losses[0]
    published = folder / "bert_classifier" / str(run.version) / "model.keras"
    assert config_of(published)["registered_name"] == "keras_hub>BertTextClassifier"
    converted = client.download("bert_classifier", tmp_path, version=1)
    assert config_of(converted)["registered_name"] == "keras_hub>BertTextClassifier"
