"""A stack of layers: adding and removing layers, and where its input shape comes from."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from layergraph import Input, Model, Sequential, load_model
from layergraph.errors import CorruptFileError, GraphError
from layergraph.layers import Dense, Flatten

X = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")


def test_the_top_layer_can_be_taken_away_and_another_put_on() -> None:
    low, top = Dense(5, name="low"), Dense(2, name="top")
    model = Sequential([Input((4,)), low, top])
    assert model.pop() is top
    assert [layer.name for layer in model.layers] == ["low"]
    assert model.output_shape == (None, 5)
    np.testing.assert_allclose(model.predict(X), low(X).detach(), rtol=1e-6)
    model.add(Dense(3, name="top"))
    assert model.predict(X).shape == (3, 3)
    assert [weight.shape for weight in model.weights] == [(4, 5), (5,), (5, 3), (3,)]
    assert len(low.inbound_nodes) == 1, "what stays isn't called anew"


def test_a_stack_from_which_all_is_taken_is_empty() -> None:
    model = Sequential([Input((4,)), Dense(2)], name="s")
    model.pop()
    assert not model.built
    with pytest.raises(GraphError, match="model 's' has no layers"):
        model.pop()
    model.add(Dense(7))
    assert model.output_shape == (None, 7)


def test_a_first_layer_that_is_a_model_says_the_input() -> None:
    x = Input((4,))
    inner = Model(x, Dense(6)(x))
    model = Sequential([inner, Dense(2)])
    assert (model.input_shape, model.output_shape) == ((None, 4), (None, 2))


def test_without_a_shape_the_first_call_says_it() -> None:
    model = Sequential([Flatten(), Dense(2)])
    assert not model.built
    assert model(np.zeros((3, 2, 5), "float32")).shape == (3, 2)
    assert model.input_shape == (None, 2, 5)
    assert model.weights[0].shape == (10, 2)
    with pytest.raises(GraphError, match="got 2 inputs, expected 1"):
        Sequential([Dense(2)], name="s")([X, X])


def test_a_file_without_a_shape_is_refused_by_name(tmp_path: Path) -> None:
    # TensorFlow 1 and multi-backend Keras leave an InputLayer out.
    Sequential([Input((4,)), Dense(2)], name="s").save(tmp_path / "s.h5")
    with h5py.File(tmp_path / "s.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        del config["config"]["build_input_shape"], config["config"]["layers"][0]
        file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(CorruptFileError, match="model 's': has no input shape, expected one in its first layer"):
        load_model(tmp_path / "s.h5")


def test_an_input_comes_first_and_names_are_given_once() -> None:
    with pytest.raises(GraphError, match="model 's': an Input can only come first"):
        Sequential([Dense(2), Input((4,))], name="s")
    with pytest.raises(GraphError, match="it has a layer named 'same' already"):
        Sequential([Input((4,)), Dense(2, name="same"), Dense(2, name="same")])
