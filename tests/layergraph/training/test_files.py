"""Half-trained `.keras` files with every optimizer: training continues from stock Keras to layergraph and back."""

import keras
import layergraph
import numpy as np
import pytest
import torch
from layergraph import layers as own_layers
from layergraph import losses, metrics
from layergraph.functional.weight import Weight
from layergraph.optimizers import schedules
from layergraph.training.optimizers.table import OPTIMIZERS, optimizer

RNG = np.random.default_rng(14)
X = RNG.standard_normal((32, 5)).astype("float32")
Y = RNG.integers(0, 3, 32)
FIT = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0}


def build(k, layers):
    x = k.Input((5,), name="x")
    h = layers.Dense(6, activation="tanh", name="h")(x)
    return k.Model(x, layers.Dense(3, activation="softmax", name="out")(h))


def their_optimizer(name):
    if name == "MultiOptimizer":
        several = {
            "h/.*": keras.optimizers.Adam(0.01, use_ema=True),
            "unused": keras.optimizers.Lion(),
            "out/bias": keras.optimizers.Adam(),
        }
        return keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(keras.optimizers.Nadam(0.01), several))
    if name == "LossScaleOptimizer":
        return keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), dynamic_growth_steps=3)
    if name.startswith("scaled "):
        return keras.optimizers.LossScaleOptimizer(getattr(keras.optimizers, name.removeprefix("scaled "))(0.01))
    return getattr(keras.optimizers, name)(learning_rate=0.01, use_ema=True)


def check(ours, theirs):
    history, expected = (model.fit(X, Y, **FIT).history for model in (ours, theirs))
    assert list(history) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(history[name], values, rtol=1e-4, atol=1e-5, err_msg=name)
    for own, their in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(own, their, rtol=1e-4, atol=1e-4)


#: Inside of a LossScaleOptimizer, Keras doesn't track Nadam's product and Adafactor's placeholders.
SCALED = ["scaled Nadam", "scaled Adafactor", "scaled RMSprop", "scaled Muon"]
#: Keras can't read its own files of Lamb, whose name is unknown to it, and restarts Nadam's product.
NOT_BACK = ("Lamb", "scaled Nadam")


@pytest.mark.parametrize("name", [*sorted(OPTIMIZERS), *SCALED])
def test_a_run_goes_on_here_and_then_in_keras_again(tmp_path, name):
    theirs = build(keras, keras.layers)
    theirs.compile(their_optimizer(name), "sparse_categorical_crossentropy", metrics=["accuracy"])
    theirs.fit(X, Y, **FIT)
    theirs.save(tmp_path / "theirs.keras")
    ours = layergraph.load_model(tmp_path / "theirs.keras")
    check(ours, theirs)
    if name not in NOT_BACK:
        ours.save(tmp_path / "ours.keras")
        check(ours, keras.saving.load_model(tmp_path / "ours.keras"))


ARRAY = np.array([0.1, 0.2, 0.7])
ARRAYS = {
    "metric's tensor": lambda: {"metrics": [keras.metrics.AUC(label_weights=ARRAY, name="auc")]},
    "loss's array": lambda: {"loss": keras.losses.CategoricalFocalCrossentropy(alpha=ARRAY)},
    "schedule's arrays": lambda: {
        "optimizer": keras.optimizers.SGD(keras.optimizers.schedules.PiecewiseConstantDecay(np.array([2, 5]), ARRAY))
    },
}


@pytest.mark.parametrize("what", ARRAYS)
def test_arrays_in_compile_settings_are_lists(tmp_path, what):
    theirs = build(keras, keras.layers)
    given = {"optimizer": "sgd", "loss": "categorical_crossentropy", **ARRAYS[what]()}
    theirs.compile(**given)
    theirs.save(tmp_path / "theirs.keras")
    ours = layergraph.load_model(tmp_path / "theirs.keras")
    labels = np.eye(3, dtype="float32")[Y]
    expected = theirs.fit(X, labels, **FIT).history
    for name, values in ours.fit(X, labels, **FIT).history.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    ours.save(tmp_path / "ours.keras")
    assert keras.saving.load_model(tmp_path / "ours.keras").compiled


def test_an_option_that_is_a_list_may_be_an_array():
    given = losses.CategoricalFocalCrossentropy(alpha=ARRAY), losses.Dice(axis=np.array([1]))
    assert (given[0].alpha, given[1].axis) == (tuple(ARRAY), (1,))
    assert schedules.PiecewiseConstantDecay(np.array([2, 5]), ARRAY)(3) == pytest.approx(0.2)
    assert metrics.Precision(thresholds=np.array([0.5])).thresholds == (0.5,)


SCHEDULE = keras.optimizers.schedules.ExponentialDecay(0.01, 3, 0.5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.Adam(),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()),
        lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(SCHEDULE)),
        lambda: their_optimizer("MultiOptimizer"),
    ],
    ids=["plain", "scaled", "scaled with a schedule", "several"],
)
def test_a_file_of_keras_whose_optimizer_never_stepped(tmp_path, make):
    theirs = build(keras, keras.layers)
    theirs.compile(make(), "sparse_categorical_crossentropy")
    theirs.save(tmp_path / "theirs.keras")
    check(layergraph.load_model(tmp_path / "theirs.keras"), theirs)


def test_a_half_precision_model_whose_losses_were_not_scaled(tmp_path):
    """Keras checks its global policy, not those of the layers, for whether to scale losses."""
    x = keras.Input((5,), name="x")
    h = keras.layers.Dense(6, dtype="mixed_float16", name="h")(x)
    theirs = keras.Model(x, keras.layers.Dense(3, activation="softmax", name="out")(h))
    theirs.compile("adam", "sparse_categorical_crossentropy")
    theirs.fit(X, Y, **FIT)
    theirs.save(tmp_path / "theirs.keras")
    ours = layergraph.load_model(tmp_path / "theirs.keras")
    assert type(ours.optimizer).__name__ == "Adam"
    assert ours.optimizer.iterations == 8


def test_a_file_of_an_optimizer_that_never_stepped(tmp_path):
    ours = build(layergraph, own_layers)
    ours.compile("adam", "sparse_categorical_crossentropy")
    ours.save(tmp_path / "ours.keras")
    check(ours, keras.saving.load_model(tmp_path / "ours.keras"))


@pytest.mark.parametrize("schedule", [False, True])
def test_nadams_product_before_the_slots(schedule):
    """The order of Keras up to 3.8."""
    rate = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.5},
    }
    ours = optimizer({"class_name": "Nadam", "config": {"learning_rate": rate if schedule else 0.5}})
    ours.build([Weight("d", "w", (2,), "float32", lambda s, d: torch.zeros(s))])
    head = [np.array(3), *([] if schedule else [np.array(0.25, "float32")])]
    ours.load([*head, np.array(0.75, "float32"), np.full(2, 2.0, "float32"), np.full(2, 4.0, "float32")])
    assert (ours.iterations, ours.u_product) == (3, 0.75)
    assert [variable.numpy().tolist() for variable in ours.variables[len(head) : -1]] == [[2.0, 2.0], [4.0, 4.0]]


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_the_average_of_a_single_weight_without_momentum_goes_on(ending, tmp_path):
    """With a learning rate, it has as many arrays as Keras 2.15 has for unused momenta."""
    x = keras.Input((3,))
    theirs = keras.Model(x, keras.layers.Dense(2, use_bias=False)(x))
    theirs.compile(keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9), "mse")
    data = np.ones((4, 3), "float32"), np.ones((4, 2), "float32")
    theirs.fit(*data, epochs=3, verbose=0)
    theirs.save(tmp_path / f"model{ending}")
    ours = layergraph.load_model(tmp_path / f"model{ending}")
    (average,) = (v.numpy() for v in ours.optimizer.variables if v.name.endswith("average"))
    np.testing.assert_array_equal(average, theirs.optimizer.variables[2].numpy())


FUNCTIONS = {
    "huber": keras.losses.huber,
    "dice": keras.losses.dice,
    "wrapped_cosine": keras.metrics.MeanMetricWrapper(keras.losses.cosine_similarity, name="wrapped_cosine", axis=-1),
}


@pytest.mark.parametrize(("name", "ending"), [*((name, "keras") for name in FUNCTIONS), ("huber", "h5")])
def test_functions_of_losses_as_metrics(name, ending, tmp_path):
    theirs = build(keras, keras.layers)
    theirs.compile("sgd", "categorical_crossentropy", metrics=[FUNCTIONS[name]])
    theirs.save(tmp_path / f"theirs.{ending}")
    ours = layergraph.load_model(tmp_path / f"theirs.{ending}")
    ours.save(tmp_path / "ours.keras")
    theirs.compile("sgd", "categorical_crossentropy", metrics=[FUNCTIONS[name]])
    y = np.eye(3, dtype="float32")[Y]
    expected = theirs.evaluate(X, y, verbose=0, return_dict=True)
    again = keras.models.load_model(tmp_path / "ours.keras")
    for model in (ours, again):
        assert model.evaluate(X, y, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5), model


def test_an_h5_has_a_function_as_a_metric_by_its_name(tmp_path):
    theirs = build(keras, keras.layers)
    theirs.compile("sgd", "categorical_crossentropy", metrics=[keras.losses.mean_absolute_error])
    theirs.save(tmp_path / "theirs.keras")
    layergraph.load_model(tmp_path / "theirs.keras").save(tmp_path / "ours.h5")
    y = np.eye(3, dtype="float32")[Y]
    expected = theirs.evaluate(X, y, verbose=0, return_dict=True)
    again = keras.models.load_model(tmp_path / "ours.h5")
    assert again.evaluate(X, y, verbose=0, return_dict=True) == pytest.approx(expected, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_a_file_that_lost_its_optimizer_has_keras_default(tmp_path):
    """Saving as an .h5 takes the optimizer out of Keras 3's compile settings, which later .keras files then lack."""
    theirs = build(keras, keras.layers)
    theirs.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    theirs.fit(X, Y, **FIT)
    theirs.save(tmp_path / "theirs.h5")
    theirs.save(tmp_path / "theirs.keras")
    again = keras.models.load_model(tmp_path / "theirs.keras")
    assert type(again.optimizer).__name__ == "RMSprop"
    check(layergraph.load_model(tmp_path / "theirs.keras"), again)
