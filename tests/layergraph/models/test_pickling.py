"""Models through pickle, copies and other processes: equal bit for bit, and read as any model file."""

from __future__ import annotations

import copy
import io
import multiprocessing
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import layergraph as keras
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import CorruptFileError, UnsupportedModelError
from layergraph.models.pickling import pickled, unpickled

FIXTURES = Path(__file__).parents[2] / "fixtures"


class Halved(layers.Layer):
    """A custom layer that nobody has registered."""

    def call(self, inputs: Any) -> Any:
        return inputs / 2


def nested() -> keras.Model:
    x, y = keras.Input((4,), name="x"), keras.Input((4,))
    inner = keras.Model(y, layers.BatchNormalization()(layers.Dense(3, activation="relu")(y)), name="inner")
    return keras.Model(x, [layers.Dense(2)(inner(x)), inner(x)])


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3), Halved(), layers.Dropout(0.5)])


def frozen() -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(2)])
    model.layers[0].trainable = False
    model.layers[1].enable_lora(1)
    return model


def words() -> keras.Model:
    x = keras.Input((None,), dtype="string")
    ids = layers.StringLookup(vocabulary=["a", "b"])(x)
    return keras.Model(x, layers.GRU(3)(layers.Embedding(4, 2, mask_zero=True)(ids)))


def of_keras1() -> keras.Model:
    return keras.load_model(FIXTURES / "early_training" / "1.2.2_nadam.h5")


def through_joblib(model: keras.Model) -> keras.Model:
    file = io.BytesIO()
    joblib.dump(model, file)
    file.seek(0)
    return joblib.load(file)


WAYS: dict[str, Callable[[keras.Model], keras.Model]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "oldest protocol": lambda model: pickle.loads(pickle.dumps(model, 0)),
    "cloudpickle": lambda model: pickle.loads(pytest.importorskip("cloudpickle").dumps(model)),
    "joblib": through_joblib,
    "deepcopy": copy.deepcopy,
}


def rows(model: keras.Model) -> dict[str, Any]:
    random = np.random.default_rng(0)
    (spec,) = model.input_specs
    if spec.dtype == "string":
        return {spec.name: np.array([[b"a", b"c"], [b"b", b""]], object)}
    return {spec.name: random.random((5, *spec.shape[1:])).astype(spec.dtype)}


def check_equal(model: keras.Model, other: keras.Model) -> None:
    assert type(other) is type(model)
    assert (other.name, other.keras_version, other.compiled) == (model.name, model.keras_version, model.compiled)
    assert other.training_rules == model.training_rules
    assert other.get_config() == model.get_config()
    assert [weight.path for weight in other.trainable_weights] == [weight.path for weight in model.trainable_weights]
    for mine, theirs in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(theirs.numpy(), mine.numpy())
    expected, found = (one.plan().run(rows(model)) for one in (model, other))
    assert list(found) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_model_comes_back_by_every_way(way: Callable[[keras.Model], keras.Model]) -> None:
    model = nested()
    check_equal(model, way(model))


@pytest.mark.parametrize("make", [sequential, frozen, words, of_keras1], ids=lambda make: make.__name__)
def test_models_come_back_equal_bit_for_bit(make: Callable[[], keras.Model]) -> None:
    model = make()
    check_equal(model, pickle.loads(pickle.dumps(model)))


def test_a_model_of_two_references_stays_one() -> None:
    one, other = pickle.loads(pickle.dumps([model := nested(), model]))
    assert one is other


def test_training_goes_on_with_the_state_of_the_optimizer() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=["mae"])
    random = np.random.default_rng(0)
    x, y = random.random((8, 4)), random.random((8, 1))
    model.fit(x, y, epochs=2, verbose=0)
    # Twice: the state hasn't been used in between.
    other = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(model))))
    logs = [one.fit(x, y, epochs=2, verbose=0, seed=1).history for one in (model, other)]
    assert logs[0] == logs[1]
    check_equal(model, other)


def test_a_model_without_a_graph_comes_back() -> None:
    other = pickle.loads(pickle.dumps(keras.Sequential([layers.Dense(3)])))
    assert other(np.ones((2, 4), "float32")).shape == (2, 3)


def predicted(model: keras.Model, arrays: dict[str, Any]) -> dict[str, Any]:
    return model.plan().run(arrays)


def test_another_process_computes_the_same() -> None:
    model = nested()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(predicted, (model, rows(model)))
    for name, array in model.plan().run(rows(model)).items():
        np.testing.assert_array_equal(found[name], array)


def test_the_bytes_are_read_as_any_model_file() -> None:
    """So nothing in them is run, and what a file may not have is refused."""
    content, suffix, _, origin = pickled(nested())[1]
    with pytest.raises(CorruptFileError):
        unpickled(content[: len(content) // 2], suffix, {}, origin)
    content, suffix, _, origin = pickled(sequential())[1]
    with pytest.raises(UnsupportedModelError, match="Halved"):
        unpickled(content, suffix, {}, origin)
