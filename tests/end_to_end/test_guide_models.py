"""The guide's ten models through the client: Keras's numbers to 1e-5, whoever wrote the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import guide_runs
import keras
import numpy as np
import pytest
from layerserve import Client
from layerserve_zoo.zoo import ZOO
from oracles import assert_close, flat
from stock_zoo import random_rows

FIXTURES = Path(__file__).parents[1] / "fixtures" / "keras2"


def answers(client: Client, model: str, inputs: Any) -> list[np.ndarray]:
    return list(client.predict_named(model, inputs, version=1).values())


@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")
@pytest.mark.filterwarnings("ignore:(?s).*Skipping variable loading:UserWarning")
@pytest.mark.parametrize("name", ZOO)
def test_stock_keras_opens_the_file_and_predicts_the_same(client: Client, repository: Path, name: str) -> None:
    model = f"{name}_here"
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


def test_a_drawing_has_all_nodes_of_a_shared_nested_model_and_the_outputs(client: Client) -> None:
    drawn = client.graph("shared_vision_here").dot()
    shapes = client.node_shapes("shared_vision_here")
    assert len(shapes.output_tensors) == len(shapes.outputs) == 1
    assert drawn.count("InputLayer") == 3
    assert drawn.count("vision_model, node") == 2
    assert drawn.count("subgraph cluster_") == 1
    assert "output 0" in drawn


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


#: With several inputs, several outputs, and models as layers; `make -C lab guide-training` trains all ten.
TRAINED = ("dense", "tweets", "headline", "model_as_layer", "layer_node", "visual_qa")


@pytest.mark.filterwarnings("ignore:(?s).*structure of `inputs`:UserWarning")
@pytest.mark.filterwarnings("ignore:(?s).*Skipping variable loading:UserWarning")
@pytest.mark.parametrize("name", TRAINED)
def test_three_epochs_give_keras_logs(client: Client, repository: Path, name: str) -> None:
    """A last partial batch and validation: every log of every epoch."""
    path = repository / f"{name}_keras" / "1" / "model.keras"
    logs = guide_runs.logs(client, f"{name}_keras", path, name, rows=44, batch_size=16)
    assert {"loss", "val_loss"} <= set(logs)
    for log, (got, expected) in logs.items():
        assert len(got) == 3
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=log)
