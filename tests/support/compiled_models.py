"""Ordinary models and their data, in the words that tf.keras and Keras 3 share.

Runs on Python 3.7, too, as `lab/generators/compiled_cases.py` uses it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

ROWS = 24


def text(keras: Any) -> Any:
    """Sentiment of token ids, padding masked."""
    layers, ids = keras.layers, keras.Input((7,), dtype="int32", name="ids")
    x = layers.Embedding(20, 6, mask_zero=True, name="words")(ids)
    x = layers.Bidirectional(layers.LSTM(4, name="lstm"), name="both")(x)
    x = layers.Dense(5, activation="relu", name="hidden")(x)
    return keras.Model(ids, layers.Dense(1, activation="sigmoid", name="sentiment")(x), name="text")


def tabular(keras: Any) -> Any:
    """A price from numbers and a category."""
    layers = keras.layers
    numbers, category = keras.Input((5,), name="numbers"), keras.Input((1,), dtype="int32", name="category")
    embedded = layers.Flatten(name="flat")(layers.Embedding(9, 3, name="categories")(category))
    x = layers.Concatenate(name="joined")([numbers, embedded])
    x = layers.Dense(6, kernel_regularizer="l2", name="first")(x)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    x = layers.Dropout(0.0, name="drop")(x)
    return keras.Model([numbers, category], layers.Dense(1, name="price")(x), name="tabular")


def images(keras: Any) -> Any:
    """A class of an image."""
    layers, pixels = keras.layers, keras.Input((8, 8, 2), name="pixels")
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(pixels)
    x = layers.MaxPooling2D(name="pool")(x)
    x = layers.SeparableConv2D(5, 3, activation="tanh", name="separable")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(pixels, layers.Dense(3, activation="softmax", name="label")(x), name="images")


def recommender(keras: Any) -> Any:
    """Whether a user clicks an item, and how they rate it."""
    layers = keras.layers
    user, item = keras.Input((1,), dtype="int32", name="user"), keras.Input((1,), dtype="int32", name="item")
    users = layers.Flatten(name="user_flat")(layers.Embedding(8, 4, name="users")(user))
    items = layers.Flatten(name="item_flat")(layers.Embedding(9, 4, name="items")(item))
    both = layers.Concatenate(name="joined")([users, items, layers.Dot(1, name="dot")([users, items])])
    hidden = layers.Dense(6, activation="tanh", name="hidden")(both)
    click = layers.Dense(1, activation="sigmoid", name="click")(hidden)
    return keras.Model([user, item], [click, layers.Dense(1, name="rating")(hidden)], name="recommender")


def series(keras: Any) -> Any:
    """The next two values of a series."""
    layers, past = keras.layers, keras.Input((10, 2), name="past")
    x = layers.Conv1D(4, 3, padding="causal", activation="relu", name="conv")(past)
    x = layers.GRU(4, return_sequences=True, name="gru")(x)
    x = layers.LSTM(3, name="lstm")(x)
    return keras.Model(past, layers.Dense(2, name="next")(x), name="series")


def stack(keras: Any) -> Any:
    """A Sequential with a model in it, a part of which isn't trained."""
    layers = keras.layers
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="tanh", name="deep")], name="inner")
    frozen = layers.Dense(5, activation="elu", trainable=False, name="frozen")
    ends = layers.Dense(3, activation="softmax", name="end")
    return keras.Sequential([keras.Input((4,), name="x"), inner, frozen, ends], name="stack")


def half(keras: Any) -> Any:
    """A model whose layers compute in float16, its output in float32."""
    layers, x = keras.layers, keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="tanh", dtype=_half(keras), name="hidden")(x)
    return keras.Model(x, layers.Dense(1, dtype="float32", name="y")(hidden), name="half")


def _half(keras: Any) -> Any:
    """The policy, which Keras up to 2.3 has in another place."""
    if hasattr(keras, "mixed_precision"):
        made = keras.mixed_precision
        return (made.Policy if hasattr(made, "Policy") else made.experimental.Policy)("mixed_float16")
    return "mixed_float16"


def rows(model: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Data by the model's name: arrays of the inputs, and of the labels."""
    random = np.random.default_rng(7)

    def ids(count: int, steps: int = 1) -> np.ndarray:
        return random.integers(0, count, (ROWS, steps)).astype("int32")

    def real(*shape: int) -> np.ndarray:
        return random.standard_normal((ROWS, *shape)).astype("float32")

    def yes() -> np.ndarray:
        return random.integers(0, 2, (ROWS, 1)).astype("float32")

    made: dict[str, Callable[[], tuple[list[np.ndarray], list[np.ndarray]]]] = {
        "text": lambda: ([np.where(np.arange(7) < 1 + ids(7), 1 + ids(19, 7), 0).astype("int32")], [yes()]),
        "tabular": lambda: ([real(5), ids(9)], [real(1)]),
        "images": lambda: ([real(8, 8, 2)], [ids(3)]),
        "recommender": lambda: ([ids(8), ids(9)], [yes(), real(1)]),
        "series": lambda: ([real(10, 2)], [real(2)]),
        "stack": lambda: ([real(4)], [np.eye(3, dtype="float32")[ids(3)[:, 0]]]),
        "half": lambda: ([real(4)], [real(1)]),
    }
    return made[model.name]()
