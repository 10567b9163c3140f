"""The guide's ten models through the client: Keras's numbers to 1e-5, whoever wrote the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from layerserve import Client
from layerserve_zoo.zoo import ZOO
from oracles import assert_close, flat
from stock_zoo import random_rows

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras2"


def answers(client: Client, model: str, inputs: Any) -> list[np.ndarray]:
    return list(client.predict_named(model, inputs).values())


@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")
@pytest.mark.filterwarnings("ignore:(?s).*Skipping variable loading:UserWarning")
@pytest.mark.parametrize("writer", ["here", "keras"])
@pytest.mark.parametrize("name", ZOO)
def test_stock_keras_opens_the_file_and_predicts_the_same(
    client: Client, repository: Path, name: str, writer: str
) -> None:
    model = f"{name}_{writer}"
    oracle = keras.models.load_model(repository / model / "1" / "model.keras", compile=False)
    inputs = random_rows(client.model(model).inputs, rows=5)
    expected = flat(oracle.predict_on_batch({tensor.name: inputs[tensor.name] for tensor in oracle.inputs}))
    results = answers(client, model, inputs)
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize("name", ZOO)
def test_files_of_keras_2_predict_what_they_predicted_there(client: Client, name: str) -> None:
    arrays = np.load(FIXTURES / f"{name}.npz")
    inputs = [arrays[key] for key in sorted(arrays) if key.startswith("input_")]
    expected = [arrays[key] for key in sorted(arrays) if key.startswith("output_")]
    results = answers(client, f"{name}_keras2", inputs)
    assert len(results) == len(expected)
    for got, want in zip(results, expected, strict=True):
        assert_close(got, want)


def test_node_shapes_of_the_shared_layers(client: Client) -> None:
    shapes = client.node_shapes("layer_node_here")
    conv = shapes["conv2d"]
    assert [conv.input_shape_at(i) for i in (0, 1)] == [(None, 8, 8, 3), (None, 16, 16, 3)]
    assert [conv.output_shape_at(i) for i in (0, 1)] == [(None, 8, 8, 4), (None, 16, 16, 4)]
    with pytest.raises(AttributeError, match="ill-defined"):
        _ = conv.input_shape
    assert [tensor.layer for tensor in (shapes["lstm"].input_at(0), shapes["lstm"].input_at(1))] == [
        "tweet_a",
        "tweet_b",
    ]


def test_any_tensor_of_a_nested_model_can_be_asked_for(client: Client) -> None:
    inputs = random_rows(client.model("shared_vision_here").inputs)
    nested = next(path for path in client.node_shapes("shared_vision_here") if "/" in path and "conv" in path)
    outer, inner = nested.split("/", 1)
    first, second = (client.predict("shared_vision_here", inputs, outputs=f"{outer}:{call}/{inner}") for call in (0, 1))
    assert first.shape == second.shape
    assert not np.allclose(first, second), "two digits give two feature maps"


def test_a_downloaded_file_is_the_file(client: Client, repository: Path, tmp_path: Path) -> None:
    saved = client.download("dense_here", tmp_path)
    assert saved.read_bytes() == (repository / "dense_here" / "1" / "model.keras").read_bytes()


#: The models that the guide trains. Keras 3 no longer takes what the guide compiles the headline model with.
TRAINED: dict[str, Any] = {"dense": None, "tweets": None, "headline": "binary_crossentropy"}


@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")
@pytest.mark.filterwarnings("ignore:(?s).*Skipping variable loading:UserWarning")
@pytest.mark.parametrize("name", TRAINED)
def test_three_epochs_give_keras_logs(client: Client, repository: Path, name: str) -> None:
    """With the compile settings of the file, a last partial batch and validation: every log of every epoch."""
    loss = TRAINED[name]
    oracle = keras.models.load_model(repository / f"{name}_keras" / "1" / "model.keras", compile=loss is None)
    given = {} if loss is None else {"optimizer": "adam", "loss": [loss] * len(oracle.outputs)}
    if given:
        oracle.compile(**given)
    x = random_rows(client.model(f"{name}_keras", version=1).inputs, rows=44)
    y = labels_for(oracle, rows=44)
    inputs = [x[tensor.name] for tensor in oracle.inputs]
    expected = oracle.fit(
        inputs if len(inputs) > 1 else inputs[0],
        y if len(y) > 1 else y[0],
        epochs=3,
        batch_size=16,
        shuffle=False,
        validation_split=0.25,
        verbose=0,
    ).history
    run = client.train(
        f"{name}_keras",
        x,
        y if len(y) > 1 else y[0],
        epochs=3,
        batch_size=16,
        shuffle=False,
        validation_split=0.25,
        version=1,
        publish=False,
        **given,
    ).wait()
    assert list(run.history) == list(expected)
    for log, values in expected.items():
        np.testing.assert_allclose(run.history[log], values, rtol=1e-4, atol=1e-4, err_msg=log)


def labels_for(model: keras.Model, rows: int) -> list[np.ndarray]:
    """Labels of the shapes of the outputs: one class of several, or a yes or no."""
    rng = np.random.default_rng(4)
    found = []
    for output in model.outputs:
        *shape, last = (rows, *output.shape[1:])
        classes = rng.integers(0, max(2, last), shape)
        found.append(np.eye(last, dtype="float32")[classes] if last > 1 else classes[..., None].astype("float32"))
    return found
