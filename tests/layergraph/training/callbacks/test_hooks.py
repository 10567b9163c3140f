"""Hooks of callbacks against stock Keras: which are called, in which order, with which numbers and logs."""

import keras
import layergraph
import numpy as np
import pytest
from layergraph.training.callbacks.callback import Callback

RNG = np.random.default_rng(2)
X = RNG.standard_normal((10, 4)).astype("float32")
Y = {"a": RNG.standard_normal((10, 2)).astype("float32"), "b": RNG.integers(0, 2, (10, 1))}
HOOKS = [
    *(f"on_{kind}_{when}" for kind in ("train", "test", "predict") for when in ("begin", "end")),
    *(f"on_{kind}_batch_{when}" for kind in ("train", "test", "predict") for when in ("begin", "end")),
    *("on_epoch_begin", "on_epoch_end"),
]


def build(k):
    x = k.Input((4,))
    made = k.Model(x, {"a": k.layers.Dense(2, name="a")(x), "b": k.layers.Dense(1, activation="sigmoid", name="b")(x)})
    made.compile("sgd", {"a": "mse", "b": "binary_crossentropy"}, metrics={"b": ["accuracy"]})
    return made


def noting(base, seen):
    """A callback of either library whose hooks note their arguments."""

    def hook(name):
        def noted(self, *arguments, **named):
            *numbers, logs = [*arguments, *named.values()]
            kept = {} if name.startswith("on_predict") else {key: float(value) for key, value in (logs or {}).items()}
            seen.append((name, numbers, kept))

        return noted

    return type("Noting", (base,), {name: hook(name) for name in HOOKS})()


@pytest.mark.parametrize(
    "call",
    [
        lambda model, noted: model.fit(X, Y, epochs=2, batch_size=4, shuffle=False, verbose=0, callbacks=[noted]),
        lambda model, noted: model.fit(
            *(X, Y),
            **{"epochs": 3, "initial_epoch": 1, "batch_size": 5, "shuffle": False, "verbose": 0},
            **{"validation_data": (X, Y), "validation_freq": 2, "callbacks": [noted]},
        ),
        lambda model, noted: model.fit(X, Y, epochs=0, verbose=0, callbacks=[noted]),
        lambda model, noted: model.evaluate(X, Y, batch_size=4, verbose=0, callbacks=[noted]),
        lambda model, noted: model.predict(X, batch_size=4, verbose=0, callbacks=[noted]),
    ],
    ids=["fit", "fit with validation", "fit of no epoch", "evaluate", "predict"],
)
def test_hooks_get_what_keras_gives_them(call):
    from layergraph import layers as own_layers

    ours = build(type("Own", (), {"layers": own_layers, "Input": layergraph.Input, "Model": layergraph.Model}))
    theirs = build(keras)
    ours.set_weights(theirs.get_weights())
    found, expected = [], []
    call(ours, noting(Callback, found))
    call(theirs, noting(keras.callbacks.Callback, expected))
    assert [(name, numbers, sorted(logs)) for name, numbers, logs in found] == [
        (name, numbers, sorted(logs)) for name, numbers, logs in expected
    ]
    for (name, numbers, logs), (_, _, their_logs) in zip(found, expected, strict=True):
        assert logs == pytest.approx(their_logs, rel=1e-4, abs=1e-5), (name, numbers)
