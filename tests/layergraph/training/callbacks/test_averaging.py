"""Evaluation with averaged weights, against stock Keras."""

import keras
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.errors import ConfigError
from layergraph.training.callbacks.averaging import SwapEMAWeights

RNG = np.random.default_rng(3)
X = RNG.standard_normal((24, 5)).astype("float32")
Y = RNG.integers(0, 2, (24, 1)).astype("float32")
VALIDATION = RNG.standard_normal((12, 5)).astype("float32"), RNG.integers(0, 2, (12, 1)).astype("float32")


def models(options):
    x = keras.Input((5,))
    theirs = keras.Model(x, keras.layers.Dense(1, activation="sigmoid")(x))
    x = Input((5,))
    ours = Model(x, layers.Dense(1, activation="sigmoid")(x))
    ours.set_weights(theirs.get_weights())
    theirs.compile(keras.optimizers.SGD(**options), "binary_crossentropy", metrics=["accuracy"])
    ours.compile({"class_name": "SGD", "config": options}, "binary_crossentropy", metrics=["accuracy"])
    return ours, theirs


EMA = {"learning_rate": 0.5, "use_ema": True, "ema_momentum": 0.7}


@pytest.mark.parametrize("options", [{}, {"swap_on_epoch": True}], ids=str)
@pytest.mark.parametrize("frequency", [None, 4])
def test_same_run_as_keras(options, frequency):
    ours, theirs = models({**EMA, "ema_overwrite_frequency": frequency})
    fit = {"epochs": 3, "batch_size": 8, "shuffle": False, "verbose": 0, "validation_data": VALIDATION}
    own = ours.fit(X, Y, callbacks=[SwapEMAWeights(**options)], **fit)
    their = theirs.fit(X, Y, callbacks=[keras.callbacks.SwapEMAWeights(**options)], **fit)
    for log, values in their.history.items():
        np.testing.assert_allclose(own.history[log], values, rtol=1e-4, atol=1e-6, err_msg=log)
    for mine, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)
    for mine, other in zip(ours.optimizer.variables, theirs.optimizer.variables, strict=True):
        np.testing.assert_allclose(mine.numpy(), other.numpy(), rtol=1e-4, atol=1e-5)


def test_predictions_are_those_of_the_averages_and_the_weights_come_back():
    ours, _ = models(EMA)
    ours.fit(X, Y, epochs=1, verbose=0)
    weights = [weight + 1 for weight in ours.get_weights()]
    averaged = ours.predict(X)
    ours.set_weights(weights)
    np.testing.assert_array_equal(ours.predict(X, callbacks=[SwapEMAWeights()]), averaged)
    for now, before in zip(ours.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(now, before)


def test_an_optimizer_without_averages_is_refused():
    ours, _ = models({})
    with pytest.raises(ConfigError, match="has no averages, expected one with use_ema"):
        ours.fit(X, Y, verbose=0, callbacks=[SwapEMAWeights()])
