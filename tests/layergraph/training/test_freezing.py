"""Freezing by patterns, compared with stock Keras with the same layers frozen."""

import keras
import layergraph
import numpy as np
import pytest
from layergraph import layers as own_layers
from layergraph.errors import ConfigError
from layergraph.training.freezing import freeze, layer_paths, unfreeze

RNG = np.random.default_rng(6)
X = RNG.standard_normal((24, 5)).astype("float32")
Y = RNG.standard_normal((24, 2)).astype("float32")
FIT = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}


def build(k, layers):
    x = k.Input((5,), name="inner_in")
    inner = k.Model(x, layers.Dense(4, name="b")(layers.BatchNormalization(name="norm")(layers.Dense(4, name="a")(x))))
    inner.name = "encoder"
    x = k.Input((5,), name="x")
    h = layers.Dense(4, activation="tanh", kernel_regularizer="l2", name="head_1")(inner(x))
    return k.Model(x, layers.Dense(2, name="head_2")(h))


def both():
    theirs, ours = build(keras, keras.layers), build(layergraph, own_layers)
    ours.set_weights(theirs.get_weights())
    return ours, theirs


def their_layer(model, path):
    for name in path.split("/"):
        model = model.get_layer(name)
    return model


CASES = [
    (["head_1"], [], ["head_1"]),
    (["encoder"], [], ["encoder"]),
    (["encoder/*"], [], ["encoder/a", "encoder/norm", "encoder/b", "encoder/inner_in"]),
    (["*norm", "head_?"], [], ["encoder/norm", "head_1", "head_2"]),
    (["*"], ["head_2"], ["x", "encoder", "head_1"]),
    (["encoder"], ["encoder/b"], ["encoder/a", "encoder/norm"]),
]


@pytest.mark.parametrize(("frozen", "unfrozen", "by_hand"), CASES, ids=str)
def test_same_training_as_keras(frozen, unfrozen, by_hand):
    ours, theirs = both()
    freeze(ours, frozen)
    unfreeze(ours, unfrozen)
    for path in by_hand:
        their_layer(theirs, path).trainable = False
    for model in (ours, theirs):
        model.compile("sgd", "mse")
    assert [w.shape for w in ours.trainable_weights] == [tuple(w.shape) for w in theirs.trainable_weights]
    expected = theirs.fit(X, Y, **FIT).history
    assert ours.fit(X, Y, **FIT).history["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-4, atol=1e-5)


def test_paths():
    ours, _ = both()
    assert list(layer_paths(ours)) == [
        "x",
        "encoder",
        "encoder/inner_in",
        "encoder/a",
        "encoder/norm",
        "encoder/b",
        "head_1",
        "head_2",
    ]
    assert freeze(ours, ["head*"]) == ["head_1", "head_2"]


def test_a_model_that_is_frozen_as_a_whole():
    ours, _ = both()
    ours.trainable = False
    assert unfreeze(ours, ["head_2"]) == ["head_2"]
    assert [weight.path for weight in ours.trainable_weights] == ["head_2/kernel", "head_2/bias"]


def test_a_pattern_that_matches_nothing_changes_nothing():
    ours, _ = both()
    with pytest.raises(ConfigError, match=r"pattern 'haed_1' matches no layer: .*did you mean 'head_1'"):
        freeze(ours, ["encoder", "haed_1"])
    assert ours.get_layer("encoder").trainable
    assert freeze(ours, []) == []


def test_the_optimizer_keeps_the_state_of_what_is_still_trained(tmp_path):
    ours, _ = both()
    ours.compile("adam", "mse")
    ours.fit(X, Y, **FIT)
    ours.save(tmp_path / "m.keras")
    again = layergraph.load_model(tmp_path / "m.keras")
    before = {variable.name: variable.numpy() for variable in ours.optimizer.variables}
    freeze(again, ["encoder"])
    again.optimizer.build(again.trainable_weights)
    state = {variable.name: variable.numpy() for variable in again.optimizer.variables}
    assert set(state) < set(before)
    for name, value in state.items():
        assert (value == before[name]).all()
    unfreeze(again, ["*"])
    again.fit(X, Y, **FIT)
    assert len(again.optimizer.variables) == len(before)


def test_a_loss_of_frozen_weights_alone_is_refused():
    x = layergraph.Input((5,))
    model = layergraph.Model(x, [own_layers.Dense(2, trainable=False)(x), own_layers.Dense(2)(x)])
    model.compile("sgd", ["mse", None])
    with pytest.raises(ConfigError, match="the loss depends on no trainable weight"):
        model.fit(X, [Y, Y], verbose=0)
    model.compile("sgd", ["mse", "mse"])
    model.fit(X, [Y, Y], verbose=0)
