"""Whole-model `.h5` files, loaded here and by stock Keras 3. The laboratory loads them with tf.keras 2.15."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import h5py
import keras
import layergraph
import numpy as np
import pytest
from half_trained_models import OPTIMIZERS, rows, trained
from layergraph.errors import ConfigError
from model_files import ENDING_MASKS, FIXTURES, example, frozen, images, masked, numbered, predict
from oracles import assert_close, perturb
from random_graphs import random_inputs, random_model

pytestmark = [
    pytest.mark.filterwarnings(ENDING_MASKS),
    # Keras 3 warns of this for every LeakyReLU of Keras 2.
    pytest.mark.filterwarnings("ignore:Argument `alpha` is deprecated"),
]
#: Files for which Keras 3 computes other numbers, or which it can't load at all, even if Keras wrote them.
OF_KERAS2_ALONE = {"attention", "pooling", "structures"}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("absl").setLevel(logging.ERROR)


def keras_version(path: Path) -> str:
    with h5py.File(path) as file:
        return str(file.attrs["keras_version"])


def model_config(path: Path) -> Any:
    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


def check(model: Any, path: Path, inputs: list[np.ndarray], expected: list[np.ndarray], *, stock: bool = True) -> None:
    model.save(path)
    again = layergraph.load_model(path)
    results = again.plan().run(dict(zip(again.input_names, inputs, strict=True))).values()
    for got, want in zip(results, expected, strict=True):
        assert_close(got, want)
    if stock:
        for got, want in zip(predict(keras.models.load_model(path, compile=False), inputs), expected, strict=True):
            assert_close(got, want)


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.h5")))
def test_a_model_of_keras_2_is_written_as_keras_2_does(name: str, tmp_path: Path) -> None:
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
    model = layergraph.load_model(FIXTURES / f"{name}.h5")
    check(model, tmp_path / "m.h5", inputs, expected, stock=False)
    assert keras_version(tmp_path / "m.h5") == "2.15.0"
    assert model_config(tmp_path / "m.h5") == model_config(FIXTURES / f"{name}.h5")


@pytest.mark.parametrize("name", sorted({path.stem for path in FIXTURES.glob("*.h5")} - OF_KERAS2_ALONE))
def test_a_model_of_keras_2_is_written_for_keras_3(name: str, tmp_path: Path) -> None:
    with np.load(FIXTURES / f"{name}.npz") as arrays:
        inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
    layergraph.load_model(FIXTURES / f"{name}.h5").save(tmp_path / "m.h5", generation=3)
    assert keras_version(tmp_path / "m.h5") == "3.15.0"
    for got, want in zip(
        predict(keras.models.load_model(tmp_path / "m.h5", compile=False), inputs), expected, strict=True
    ):
        assert_close(got, want)


@pytest.mark.parametrize("build", [masked, frozen, images], ids=lambda f: f.__name__)
def test_a_model_of_keras_3_is_written(build: Any, tmp_path: Path) -> None:
    stock = build()
    perturb(stock)
    inputs = example(stock)
    stock.save(tmp_path / "stock.keras")
    model = layergraph.load_model(tmp_path / "stock.keras")
    check(model, tmp_path / "m.h5", inputs, predict(stock, inputs))
    assert keras_version(tmp_path / "m.h5") == "3.15.0"


@pytest.mark.parametrize("build", [frozen, images], ids=lambda f: f.__name__)
def test_a_model_of_keras_3_is_written_for_keras_2(build: Any, tmp_path: Path) -> None:
    stock = build()
    perturb(stock)
    inputs = example(stock)
    stock.save(tmp_path / "stock.keras")
    layergraph.load_model(tmp_path / "stock.keras").save(tmp_path / "m.h5", generation=2)
    assert keras_version(tmp_path / "m.h5") == "2.15.0"
    for got, want in zip(
        predict(keras.models.load_model(tmp_path / "m.h5", compile=False), inputs), predict(stock, inputs), strict=True
    ):
        assert_close(got, want)


def test_masks_that_are_nodes_are_refused_for_keras_2(tmp_path: Path) -> None:
    masked().save(tmp_path / "stock.keras")
    with pytest.raises(ConfigError, match="save it for Keras 3"):
        layergraph.load_model(tmp_path / "stock.keras").save(tmp_path / "m.h5", generation=2)
    assert not (tmp_path / "m.h5").exists()


def test_a_tensor_in_a_list_of_masks_is_refused_for_keras_2(tmp_path: Path) -> None:
    query, value, mask = (layergraph.Input(shape) for shape in ((4, 3), (5, 3), (4,)))
    y = layergraph.layers.Attention(name="attention")([query, value], mask=[mask > 0, None])
    with pytest.raises(ConfigError, match="a call of layer 'attention' takes tensors as 'mask'"):
        layergraph.Model([query, value, mask], y).save(tmp_path / "m.h5", generation=2)


@pytest.mark.parametrize("seed", range(2))
def test_a_random_graph_is_written(seed: int, tmp_path: Path) -> None:
    model = random_model(layergraph, seed)
    inputs = random_inputs(model, seed)
    expected = list(model.plan().run(dict(zip(model.input_names, inputs, strict=True))).values())
    check(model, tmp_path / "m.h5", inputs, expected)


@pytest.mark.parametrize(("name", "generation"), [*((name, 2) for name in OPTIMIZERS), ("adam", 3), ("muon", 3)])
def test_training_goes_on(name: str, generation: int, tmp_path: Path) -> None:
    model = trained(layergraph, OPTIMIZERS.get(name, name))
    model.save(tmp_path / "m.h5", generation=generation)
    assert keras_version(tmp_path / "m.h5")[0] == str(generation)
    again = layergraph.load_model(tmp_path / "m.h5")
    for _ in range(2):
        want = model.train_on_batch(*rows())
        assert again.train_on_batch(*rows()) == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_stock_keras_3_trains_what_it_opens(name: str, tmp_path: Path) -> None:
    """It doesn't load the optimizer's state from any `.h5`, not even from its own."""
    model = trained(layergraph, name)
    model.save(tmp_path / "m.h5")
    opened = keras.models.load_model(tmp_path / "m.h5")
    assert type(opened.optimizer).__name__.lower() == name
    want = model.train_on_batch(*rows())[0]
    assert float(opened.train_on_batch(*rows())[0]) == pytest.approx(want, rel=1e-4)


def test_long_lists_of_names_are_split(tmp_path: Path) -> None:
    x = layergraph.Input((2,))
    y = x
    for index in range(300):
        y = layergraph.layers.Dense(2, name=f"{'d' * 250}{index}")(y)
    model = layergraph.Model(x, y)
    model.save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        assert "layer_names1" in file["model_weights"].attrs
        assert len(json.loads(file.attrs["model_config"])["config"]["layers"]) == 301
    assert len(layergraph.load_model(tmp_path / "m.h5").weights) == 600


def test_a_layer_in_several_models_is_refused(tmp_path: Path) -> None:
    shared = layergraph.layers.Dense(3, name="shared")
    entry, x = layergraph.Input((3,)), layergraph.Input((3,))
    inner = layergraph.Model(entry, shared(entry))
    with pytest.raises(ConfigError, match=r"layer 'shared' is in several models .* use \.keras"):
        layergraph.Model(x, shared(inner(x))).save(tmp_path / "m.h5")
    assert not list(tmp_path.iterdir())
