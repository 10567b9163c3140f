"""The zoo's models against the same files run by stock Keras: shapes, numbers, and files both ways."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
import torch
from layerserve_zoo.zoo import ZOO
from oracles import assert_close, flat
from sklearn.datasets import load_digits
from stock_zoo import random_rows, stock

#: Stock Keras says so of its own files too, where a model is compiled but wasn't trained.
pytestmark = pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")

NAMES = list(ZOO)
#: Parameters at the guide's sizes, counted by hand from the guide's layers.
PARAMETERS = {
    "dense": 785 * 64 + 65 * 64 + 65 * 10,
    "model_as_layer": 785 * 64 + 65 * 64 + 65 * 10,
    "headline": 10000 * 512 + 4 * 32 * (512 + 32 + 1) + 33 + (32 + 5 + 1) * 64 + 2 * 65 * 64 + 65,
    "tweets": 4 * 64 * (256 + 64 + 1) + 2 * 64 + 1,
    "layer_node": 4 * 32 * (256 + 32 + 1) + 28 * 16,
    "inception": 3 * 4 * 64 + (9 * 64 + 1) * 64 + (25 * 64 + 1) * 64,
    "residual": 3 * 28,
    "shared_vision": 10 * 64 + (9 * 64 + 1) * 64 + 2 * 11 * 11 * 64 + 1,
    "visual_qa": 10000 * 256 + 4 * 256 * 513 + (25 * 25 * 256 + 256 + 1) * 1000
    + 28 * 64 + (9 * 64 + 1) * 64 + (9 * 64 + 1) * 128 + (9 * 128 + 1) * 128 + (9 * 128 + 1) * 256
    + 2 * (9 * 256 + 1) * 256,
}  # fmt: skip
PARAMETERS["video_qa"] = (
    PARAMETERS["visual_qa"] - 25 * 25 * 256 * 1000 + 256 * 1000 + 4 * 256 * (25 * 25 * 256 + 256 + 1)
)


def predict(model: layergraph.Model, data: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(model.plan().run(data).values())


def predict_in_keras(model: Any, data: dict[str, np.ndarray]) -> list[np.ndarray]:
    """By position: the two generations of default names don't matter then."""
    arrays = list(data.values())
    return flat(model.predict_on_batch(arrays if len(arrays) > 1 else arrays[0]))


def assert_all_close(got: list[np.ndarray], want: list[np.ndarray]) -> None:
    assert len(got) == len(want)
    for ours, theirs in zip(got, want, strict=True):
        assert_close(ours, theirs)


def test_the_zoo_has_the_guides_ten_models() -> None:
    assert NAMES == [
        "dense", "model_as_layer", "headline", "tweets", "layer_node",
        "inception", "residual", "shared_vision", "visual_qa", "video_qa",
    ]  # fmt: skip
    assert all(entry.description.endswith(".") for entry in ZOO.values())


@pytest.mark.parametrize("name", NAMES)
def test_at_the_guides_sizes_it_has_the_guides_parameters(name: str) -> None:
    assert ZOO[name].build().count_params() == PARAMETERS[name]


def test_the_small_dense_network_fits_the_digits_of_scikit_learn() -> None:
    (spec,) = ZOO["dense"].outline(small=True).input_specs
    assert spec.shape == (None, *load_digits().data.shape[1:])


@pytest.mark.parametrize("name", NAMES)
def test_it_is_keras_model_when_keras_runs_the_file(name: str) -> None:
    ours, theirs = ZOO[name].make(small=True), stock(name)
    assert ours.input_names == [tensor._keras_history.operation.name for tensor in theirs.inputs]
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    assert [tensor.shape for tensor in ours.outputs] == [tuple(tensor.shape) for tensor in theirs.outputs]
    # Keras gives two outputs of one layer the same name; here the node follows.
    assert [name.partition(":")[0] for name in ours.output_names] == list(theirs.output_names)
    ours.set_weights(theirs.get_weights())
    data = random_rows(ours.input_specs)
    assert_all_close(predict(ours, data), predict_in_keras(theirs, data))


@pytest.mark.parametrize("name", NAMES)
def test_stock_keras_opens_what_is_saved_here(name: str, tmp_path: Path) -> None:
    ours = ZOO[name].make(small=True)
    rng = np.random.default_rng(0)
    ours.set_weights([weight + 0.2 * rng.standard_normal(weight.shape) for weight in ours.get_weights()])
    ours.save(tmp_path / "model.keras")
    theirs = keras.models.load_model(tmp_path / "model.keras")
    data = random_rows(ours.input_specs)
    assert_all_close(predict(ours, data), predict_in_keras(theirs, data))


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("name", NAMES)
def test_what_stock_keras_saves_opens_here(name: str, ending: str, tmp_path: Path) -> None:
    theirs = stock(name)
    theirs.save(tmp_path / f"model.{ending}")
    ours = layergraph.load_model(tmp_path / f"model.{ending}")
    data = random_rows(ours.input_specs)
    assert_all_close(predict(ours, data), predict_in_keras(theirs, data))


def test_a_seed_gives_the_same_names_and_weights_each_time() -> None:
    before = torch.get_rng_state()
    first, again, other = (ZOO["headline"].make(small=True, seed=seed) for seed in (7, 7, 8))
    assert [layer.name for layer in first.layers] == [layer.name for layer in again.layers]
    for one, same in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, same)
    assert not np.array_equal(first.get_weights()[0], other.get_weights()[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_the_model_in_time_distributed_shares_its_weights_after_loading(tmp_path: Path) -> None:
    ZOO["model_as_layer"].make(small=True).save(tmp_path / "model.keras")
    model = layergraph.load_model(tmp_path / "model.keras")
    assert model.count_params() == ZOO["model_as_layer"].build(**ZOO["model_as_layer"].small).count_params()
    image = random_rows(model.input_specs)["image_sequence"]
    alone, in_sequence = predict(model, {"image": image[:, 0], "image_sequence": image})
    assert_close(alone, in_sequence[:, 0])


#: Activations in the guide's code, tanh of LSTMs included, and paddings: how often each.
OPTIONS = {
    "dense": {"relu": 2, "softmax": 1},
    "model_as_layer": {"relu": 2, "softmax": 1},
    "headline": {"tanh": 1, "relu": 3, "sigmoid": 2},
    "tweets": {"tanh": 1, "sigmoid": 1},
    "layer_node": {"tanh": 1, "same": 1},
    "inception": {"relu": 5, "same": 6},
    "residual": {"same": 1},
    "shared_vision": {"sigmoid": 1, "valid": 3},
    "visual_qa": {"tanh": 1, "relu": 7, "softmax": 1, "same": 3, "valid": 7},
    "video_qa": {"tanh": 2, "relu": 7, "softmax": 1, "same": 3, "valid": 7},
}


@pytest.mark.parametrize("name", NAMES)
def test_layers_have_the_activations_and_paddings_of_the_guide(name: str) -> None:
    configs = [layer.get_config() for layer in ZOO[name].outline(small=True).walk_layers()]
    found = Counter(config.get(option) for config in configs for option in ("activation", "padding"))
    assert {option: count for option, count in found.items() if option not in (None, "linear")} == OPTIONS[name]
