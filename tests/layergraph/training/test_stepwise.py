"""Training step by step: stock Keras's numbers, and a state from which it goes on bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import ConfigError, DataError, NonFiniteLossError, NonFiniteWeightError, NotCompiledError
from layergraph.training.checkpoint import Checkpoints
from layergraph.training.stepwise import Stepwise

RNG = np.random.default_rng(3)
STEPS = 20


def real(*shape: int) -> Any:
    return RNG.standard_normal(shape).astype("float32")


def two_inputs() -> keras.Model:
    """The guide's model: ids and numbers in, two losses."""
    ids = keras.Input((6,), dtype="int32", name="ids")
    more = keras.Input((3,), name="more")
    x = keras.layers.LSTM(5)(keras.layers.Embedding(20, 4)(ids))
    x = keras.layers.Dense(6, activation="relu")(keras.layers.concatenate([x, more]))
    outputs = [keras.layers.Dense(1, activation="sigmoid", name=name)(x) for name in ("main", "aux")]
    model = keras.Model([ids, more], outputs)
    model.compile(
        keras.optimizers.Adam(0.01),
        {"main": "binary_crossentropy", "aux": "mse"},
        loss_weights={"main": 1.0, "aux": 0.2},
        metrics={"main": ["accuracy"], "aux": ["mae"]},
    )
    return model


def images() -> keras.Model:
    x = inputs = keras.Input((6, 6, 2))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(x))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="softmax", kernel_regularizer="l2")(x))
    model.compile(
        keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.05, 10, 0.9), momentum=0.9, clipnorm=1.0),
        "sparse_categorical_crossentropy",
        weighted_metrics=["accuracy"],
    )
    return model


def dense() -> keras.Model:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(8, activation="tanh")(inputs)))
    model.compile(keras.optimizers.RMSprop(0.01), "mse", metrics=["mae"])
    return model


def batch_of(name: str) -> tuple[Any, Any, Any]:
    rows = int(RNG.integers(3, 9))
    if name == "two inputs":
        x = {"ids": RNG.integers(0, 20, (rows, 6)).astype("int32"), "more": real(rows, 3)}
        return x, {"main": RNG.integers(0, 2, (rows, 1)).astype("float32"), "aux": real(rows, 1)}, None
    if name == "images":
        return real(rows, 6, 6, 2), RNG.integers(0, 3, rows), RNG.random(rows).astype("float32")
    return real(rows, 4), real(rows, 1), None


@pytest.mark.parametrize(("name", "build"), [("two inputs", two_inputs), ("images", images), ("dense", dense)])
def test_steps_have_the_numbers_of_stock_keras(name: str, build: Any, tmp_path: Any) -> None:
    theirs = build()
    theirs.save(tmp_path / "model.keras")
    ours = layergraph.load_model(tmp_path / "model.keras")
    steps = Stepwise(ours, seed=0)
    for number in range(STEPS):
        x, y, weight = batch_of(name)
        expected = theirs.train_on_batch(x, y, weight, return_dict=True)
        got = steps.train(steps.prepare(x, y, weight))
        assert list(got) == list(expected)
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-5), f"step {number}"
        if number % 10 == 9:
            expected = theirs.test_on_batch(x, y, weight, return_dict=True)
            assert steps.test(steps.prepare(x, y, weight)) == pytest.approx(expected, rel=1e-5, abs=1e-5)
            for own, their in zip(steps.predict(x), keras.tree.flatten(theirs.predict_on_batch(x)), strict=True):
                np.testing.assert_allclose(own.numpy(), their, rtol=1e-5, atol=1e-5)
    assert steps.step == STEPS
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-5, atol=1e-5)


def random_model() -> layergraph.Model:
    """A model with everything that a state has to hold: random numbers, statistics, states of a layer, averages."""
    inputs = layergraph.Input(batch_shape=(4, 5, 3))
    x = layers.LSTM(6, stateful=True)(layers.BatchNormalization()(inputs))
    model = layergraph.Model(inputs, layers.Dense(2)(layers.Dropout(0.5)(x)))
    model.compile({"class_name": "Adam", "config": {"use_ema": True}}, "mse", metrics=["accuracy"])
    return model


def rows() -> tuple[Any, Any]:
    return real(4, 5, 3), real(4, 2)


def test_a_restored_state_goes_on_bit_for_bit(tmp_path: Any) -> None:
    first, second = random_model(), random_model()
    second.set_weights(first.get_weights())
    batches = [rows() for _ in range(9)]
    steps = Stepwise(first, seed=7)
    for x, y in batches[:4]:
        steps.train(steps.prepare(x, y))
    Checkpoints(tmp_path).write(steps.state())
    expected = [steps.train(steps.prepare(x, y)) for x, y in batches[4:]]
    again = Stepwise(second, seed=1)
    again.restore(Checkpoints(tmp_path).read() or {})
    assert again.step == 4
    assert [again.train(again.prepare(x, y)) for x, y in batches[4:]] == expected
    for own, other in zip(first.get_weights(), second.get_weights(), strict=True):
        assert own.tobytes() == other.tobytes()


def test_tests_and_predictions_change_nothing() -> None:
    first, second = random_model(), random_model()
    second.set_weights(first.get_weights())
    disturbed, plain = Stepwise(first, seed=7), Stepwise(second, seed=7)
    for _ in range(4):
        x, y = rows()
        disturbed.test(disturbed.prepare(x, y))
        disturbed.predict(x)
        assert disturbed.train(disturbed.prepare(x, y)) == plain.train(plain.prepare(x, y))


def test_the_learning_rate_is_set_unless_a_schedule_has_it() -> None:
    model = layergraph.Sequential([layergraph.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    before = model.get_weights()
    steps = Stepwise(model, seed=0)
    steps.set_learning_rate(0.0)
    steps.train(steps.prepare(real(2, 4), real(2, 1)))
    assert all((own == other).all() for own, other in zip(model.get_weights(), before, strict=True))
    schedule = {"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.1, "decay_steps": 5}}
    model.compile({"class_name": "SGD", "config": {"learning_rate": schedule}}, "mse")
    with pytest.raises(ConfigError, match="learning_rate: the optimizer has a schedule"):
        Stepwise(model, seed=0).set_learning_rate(0.1)


def test_a_mask_in_the_weights_is_no_overflow() -> None:
    model = layergraph.Sequential([layergraph.Input((4,)), layers.Dense(3, activation="softmax", name="y")])
    model.compile({"class_name": "SGD", "config": {"learning_rate": 0.1}}, "mse")
    model.get_layer("y").set_weights([np.ones((4, 3)), np.array([0.0, 1.0, -np.inf])])
    steps = Stepwise(model, seed=0, on_nan="stop")
    steps.train(steps.prepare(real(2, 4), real(2, 3)))
    steps.set_learning_rate(3e38)
    with pytest.raises(NonFiniteWeightError, match=r"weight '.*y/kernel' isn't finite after step 2"):
        steps.train(steps.prepare(real(2, 4), 1e9 * real(2, 3)))


def test_what_does_not_fit_is_refused() -> None:
    model = layergraph.Sequential([layergraph.Input((4,)), layers.Dense(1)])
    with pytest.raises(NotCompiledError):
        Stepwise(model, seed=0)
    model.compile("sgd", "mse")
    steps = Stepwise(model, seed=0, on_nan="stop")
    with pytest.raises(DataError):
        steps.prepare(real(2, 3), real(2, 1))
    state = copy.deepcopy(steps.state())
    with pytest.raises(NonFiniteLossError):
        steps.train(steps.prepare(np.full((2, 4), np.nan, "float32"), real(2, 1)))
    steps.restore(state)
    assert np.isfinite(steps.train(steps.prepare(real(2, 4), real(2, 1)))["loss"])
    other = layergraph.Sequential([layergraph.Input((4,)), layers.Dense(2)])
    other.compile("sgd", "mse")
    with pytest.raises(DataError, match="of another model"):
        Stepwise(other, seed=0).restore(state)
