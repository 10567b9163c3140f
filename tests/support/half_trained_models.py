"""A model that was trained for some steps with each optimizer, in layergraph or tf.keras: files are compared by it."""

from __future__ import annotations

from typing import Any

import numpy as np

#: 2.15 writes a part of Nadam's state into no file, and so goes on otherwise after any.
OPTIMIZERS: dict[str, Any] = {
    "sgd": {"class_name": "SGD", "config": {"learning_rate": 0.01, "momentum": 0.9}},
    "rmsprop": {"class_name": "RMSprop", "config": {"centered": True, "momentum": 0.5}},
    "adam": "adam",
    "amsgrad": {"class_name": "Adam", "config": {"amsgrad": True}},
    "averages": {"class_name": "Adam", "config": {"use_ema": True}},
    "schedule": {
        "class_name": "Adam",
        "config": {
            "learning_rate": {
                "class_name": "ExponentialDecay",
                "config": {"initial_learning_rate": 0.01, "decay_steps": 2, "decay_rate": 0.5},
            }
        },
    },
    **{name: name for name in ("adamw", "adamax", "adagrad", "adadelta", "ftrl", "lion", "adafactor")},
}


def trained(api: Any, optimizer: Any) -> Any:
    """Nested and shared layers, masks, statistics, two outputs; three steps done."""
    x, ids = api.Input((4,), name="x"), api.Input((3,), dtype="int32", name="ids")
    inner = api.Sequential([api.Input((4,)), api.layers.Dense(4, activation="tanh")], name="inner")
    hidden = api.layers.BatchNormalization()(api.layers.Dense(5, activation="gelu")(inner(inner(x))))
    words = api.layers.Bidirectional(api.layers.LSTM(3))(api.layers.Embedding(7, 4, mask_zero=True)(ids))
    b = api.layers.Dense(1, activation="sigmoid", name="b")(api.layers.concatenate([hidden, words]))
    model = api.Model([x, ids], [api.layers.Dense(2, name="a")(hidden), b])
    model.compile(
        optimizer,
        loss={"a": "mse", "b": "binary_crossentropy"},
        loss_weights={"a": 1.0, "b": 0.3},
        metrics={"a": ["mae"], "b": ["accuracy"]},
    )
    for _ in range(3):
        model.train_on_batch(*rows())
    return model


def rows() -> tuple[list[np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(0)
    x = [random.standard_normal((16, 4)).astype("f4"), random.integers(0, 7, (16, 3)).astype("i4")]
    return x, [random.standard_normal((16, 2)).astype("f4"), random.integers(0, 2, (16, 1)).astype("f4")]
