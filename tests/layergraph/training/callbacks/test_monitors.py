"""Callbacks that monitor a log, against stock Keras: epochs, weights, learning rates."""

import keras
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.errors import ConfigError
from layergraph.training.callbacks.callback import LambdaCallback
from layergraph.training.callbacks.table import CALLBACKS, callback
from oracles import case_id

RNG = np.random.default_rng(12)
X = RNG.standard_normal((24, 5)).astype("float32")
Y = RNG.integers(0, 2, 24).astype("float32")
VALIDATION = RNG.standard_normal((12, 5)).astype("float32"), RNG.integers(0, 2, 12).astype("float32")


def models(optimizer=("SGD", {"learning_rate": 0.8})):
    name, options = optimizer
    x = keras.Input((5,))
    theirs = keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(keras.layers.Dense(9, activation="tanh")(x)))
    x = Input((5,))
    ours = Model(x, layers.Dense(1, activation="sigmoid")(layers.Dense(9, activation="tanh")(x)))
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(w.shape).astype("float32") for w in ours.get_weights()]
    for model in (ours, theirs):
        model.set_weights(weights)
    theirs.compile(getattr(keras.optimizers, name)(**options), "binary_crossentropy", metrics=["accuracy"])
    ours.compile({"class_name": name, "config": options}, "binary_crossentropy", metrics=["accuracy"])
    return ours, theirs


CASES = [
    ("EarlyStopping", {"patience": 3, "restore_best_weights": True}),
    ("EarlyStopping", {"monitor": "val_accuracy", "patience": 2, "restore_best_weights": True}),
    ("EarlyStopping", {"monitor": "accuracy", "mode": "min", "patience": 2, "min_delta": 0.05}),
    ("EarlyStopping", {"monitor": "loss", "baseline": 0.3, "patience": 4}),
    ("EarlyStopping", {"patience": 2, "start_from_epoch": 4, "restore_best_weights": True}),
    ("ReduceLROnPlateau", {"patience": 2, "factor": 0.2, "cooldown": 2, "min_lr": 0.1}),
    ("ReduceLROnPlateau", {"monitor": "val_accuracy", "patience": 1, "min_delta": 0.1}),
    ("TerminateOnNaN", {}),
    ("LearningRateScheduler", {"schedule": lambda epoch, rate: rate * 0.5 if epoch % 3 == 2 else rate}),
    ("LearningRateScheduler", {"schedule": lambda epoch: 0.5 / (epoch + 1)}),
]


@pytest.mark.parametrize(("name", "options"), CASES, ids=case_id)
def test_same_run_as_keras(name, options):
    ours, theirs = models()
    fit = {"epochs": 15, "batch_size": 8, "shuffle": False, "verbose": 0, "validation_data": VALIDATION}
    mine, stock = CALLBACKS[name](**options), getattr(keras.callbacks, name)(**options)
    own = ours.fit(X, Y, callbacks=[mine], **fit)
    their = theirs.fit(X, Y, callbacks=[stock], **fit)
    # Keras only records the best epoch if it restores weights.
    for counter in ("wait", "stopped_epoch", *(["best_epoch"] if "restore_best_weights" in options else [])):
        assert getattr(mine, counter, None) == getattr(stock, counter, None), counter
    assert own.epoch == their.epoch
    assert list(own.history) == list(their.history)
    for log, values in their.history.items():
        np.testing.assert_allclose(own.history[log], values, rtol=1e-4, atol=1e-6, err_msg=log)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ReduceLROnPlateau", {"monitor": "loss", "patience": 1, "min_delta": 0.5, "min_lr": 0.06, "cooldown": 1}),
        ("LearningRateScheduler", {"schedule": lambda epoch, rate: rate * 0.5 if epoch % 3 == 2 else rate}),
    ],
)
def test_the_rates_of_several_optimizers(name, options):
    ours, theirs = models()
    first = theirs.layers[1].name
    inner = {f"{first}/.*": keras.optimizers.SGD(0.5, name="one")}
    other = keras.optimizers.Adam(0.05, name="other")
    several = keras.optimizers.MultiOptimizer(keras.optimizers.OptimizerMap(other, inner))
    # All names, as those that were counted up may be one another's.
    for mine, other_layer in zip(ours.layers[1:], theirs.layers[1:], strict=True):
        mine.name = other_layer.name
        for weight in mine.weights:
            weight.owner = other_layer.name
    given = keras.saving.serialize_keras_object(several)
    theirs.compile(several, "binary_crossentropy", metrics=["accuracy"])
    ours.compile(given, "binary_crossentropy", metrics=["accuracy"])
    fit = {"epochs": 6, "batch_size": 8, "shuffle": False, "verbose": 0}
    mine, stock = CALLBACKS[name](**options), getattr(keras.callbacks, name)(**options)
    own = ours.fit(X, Y, callbacks=[mine], **fit)
    their = theirs.fit(X, Y, callbacks=[stock], **fit)
    # Keras only records the best epoch if it restores weights.
    for counter in ("wait", "stopped_epoch", *(["best_epoch"] if "restore_best_weights" in options else [])):
        assert getattr(mine, counter, None) == getattr(stock, counter, None), counter
    assert list(own.history) == list(their.history)
    assert len(set(own.history["learning_rate_one"])) > 1
    for log, values in their.history.items():
        np.testing.assert_allclose(own.history[log], values, rtol=1e-5, err_msg=log)


def test_every_callback_that_watches_a_log_has_a_case():
    watching = {
        name for name, known in CALLBACKS.items() if known.__module__ == "layergraph.training.callbacks.monitors"
    }
    assert {name for name, _ in CASES} == watching


def test_a_rate_by_a_schedule_of_epochs():
    ours, _ = models()
    schedule = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 0.5, "decay_steps": 1, "decay_rate": 0.1},
    }
    scheduler = callback({"class_name": "LearningRateScheduler", "config": {"schedule": schedule}})
    history = ours.fit(X, Y, epochs=3, verbose=0, callbacks=scheduler).history
    assert history["learning_rate"] == pytest.approx([0.5, 0.05, 0.005])
    with pytest.raises(ConfigError, match="expected a schedule or a function of the epoch"):
        callback({"class_name": "LearningRateScheduler", "config": {"schedule": 3}})


def test_termination_by_a_loss_that_is_no_number(capsys):
    ours, theirs = models()
    # On torch, Keras's binary crossentropy fails for NaN.
    for model in (ours, theirs):
        model.compile("sgd", "mse")
    x = X.copy()
    x[10] = np.nan
    fit = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": 0}
    own = ours.fit(x, Y, callbacks=[callback("TerminateOnNaN")], **fit)
    their = theirs.fit(x, Y, callbacks=[keras.callbacks.TerminateOnNaN()], **fit)
    assert own.epoch == their.epoch == [0]
    assert np.isnan(own.history["loss"][0])
    assert "Batch 1: the loss isn't finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("EarlyStoping", "unknown callback 'EarlyStoping'; did you mean 'EarlyStopping'"),
        ({"class_name": "EarlyStopping", "config": {"patiance": 1}}, "did you mean 'patience'"),
        ({"class_name": "EarlyStopping", "config": {"mode": "up"}}, "'auto' or 'min' or 'max'"),
        ({"class_name": "ReduceLROnPlateau", "config": {"factor": 1.5}}, "expected less than 1"),
    ],
)
def test_options_that_are_wrong(given, message):
    with pytest.raises(ConfigError, match=message):
        callback(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_name": "EarlyStopping", "config": {"monitor": "val_acuracy"}}, "did you mean 'val_accuracy'"),
        ("EarlyStopping", "EarlyStopping: no epoch has the log 'val_loss', since .* known: accuracy, loss$"),
        ("ReduceLROnPlateau", "'val_loss', since there is no validation"),
    ],
)
def test_a_log_that_no_epoch_has_is_refused_before_training(given, message):
    ours, _ = models()
    before = ours.get_weights()
    data = {"validation_data": VALIDATION} if "acuracy" in str(given) else {}
    with pytest.raises(ConfigError, match=message):
        ours.fit(X, Y, callbacks=[callback(given)], verbose=0, **data)
    assert all((a == b).all() for a, b in zip(before, ours.get_weights(), strict=True))


def test_a_schedule_can_not_be_reduced():
    schedule = {"class_name": "CosineDecay", "config": {"initial_learning_rate": 0.1, "decay_steps": 5}}
    x = Input((5,))
    ours = Model(x, layers.Dense(1)(x))
    ours.compile({"class_name": "SGD", "config": {"learning_rate": schedule}}, "mse")
    with pytest.raises(ConfigError, match="the learning rate is a schedule"):
        ours.fit(X, Y, callbacks=[CALLBACKS["ReduceLROnPlateau"](monitor="loss")], verbose=0)


def test_functions_at_hooks_are_called_as_in_keras():
    calls = {}

    def recorder(side):
        calls[side] = []

        def hook(name):
            def call(number, logs=None):
                calls[side].append((name, number if isinstance(number, int) else None))

            return call

        names = ("on_epoch_begin", "on_epoch_end", "on_train_begin", "on_train_end")
        batches = ("on_train_batch_begin", "on_train_batch_end", "on_test_batch_end")
        return {name: hook(name) for name in (*names, *batches)}

    ours, theirs = models()
    fit = {"epochs": 2, "batch_size": 8, "shuffle": False, "verbose": 0, "validation_data": VALIDATION}
    ours.fit(X, Y, callbacks=[LambdaCallback(**recorder("ours"))], **fit)
    theirs.fit(X, Y, callbacks=[keras.callbacks.LambdaCallback(**recorder("theirs"))], **fit)
    assert calls["ours"] == calls["theirs"]
    assert len(calls["ours"]) == 2 * (2 + 3 * 2 + 2) + 2


def test_functions_may_come_by_position_and_unknown_hooks_are_refused():
    began = []
    LambdaCallback(lambda epoch, logs: began.append(epoch)).on_epoch_begin(3, {})
    assert began == [3]
    with pytest.raises(ConfigError, match="got hook 'on_epoch', expected one of on_train_begin, on_train_end"):
        LambdaCallback(on_epoch=print)
