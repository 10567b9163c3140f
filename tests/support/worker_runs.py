"""Random small models, trained by two workers and by one process, for scripts that run in each.

Each seed is a model with data, compile settings and callbacks; the kinds of models take turns. Every process trains the
model alone, then all train it together from the same weights: logs must agree to 1e-5, and all workers must end with
the same weights, bit for bit.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch
from layergraph import Input, Model, layers
from layergraph.training.callbacks.table import callback
from layergraph.training.workers import Workers
from torch import distributed

TOLERANCE, HALF_TOLERANCE = 1e-5, 2e-2
#: Adam's first steps divide small differences of gradients by small gradients.
WEIGHT_TOLERANCE = 2e-4
EPOCHS = 3

OPTIMIZERS: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {"learning_rate": 0.05, "momentum": 0.9}),
    ("SGD", {"learning_rate": 0.1, "clipnorm": 0.5}),
    ("SGD", {"learning_rate": 0.05, "gradient_accumulation_steps": 3}),
    ("Adam", {}),
    ("Adam", {"use_ema": True, "ema_momentum": 0.9}),
    ("AdamW", {"global_clipnorm": 1.0}),
    ("RMSprop", {}),
    ("Adagrad", {}),
    ("Ftrl", {}),
    ("Lamb", {}),
]
CALLBACKS: list[dict[str, Any]] = [
    {"class_name": "ReduceLROnPlateau", "config": {"monitor": "loss", "patience": 1, "min_delta": 10.0}},
    {"class_name": "EarlyStopping", "config": {"monitor": "loss", "patience": 1, "min_delta": 10.0}},
]


@dataclass
class Case:
    """A model and what `compile` and `fit` are given."""

    model: Model
    x: Any
    y: Any
    loss: Any
    metrics: Any
    fit: dict[str, Any] = field(default_factory=dict)
    tolerance: float = TOLERANCE


Random = random.Random
Numbers = np.random.Generator


def floats(numbers: Numbers, *shape: int) -> Any:
    return numbers.normal(size=shape).astype("float32")


def dense(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((6,))
    penalties = {name: choose.choice([None, "l2"]) for name in ("kernel_regularizer", "activity_regularizer")}
    h = layers.GaussianNoise(0.2)(layers.Dropout(0.3)(layers.Dense(8, activation="relu", **penalties)(x)))
    crossentropy = "CategoricalCrossentropy"
    loss = choose.choice(
        [
            "mse",
            "categorical_crossentropy",
            "categorical_hinge",
            "squared_hinge",
            {"class_name": "Dice", "config": {}},
            {"class_name": crossentropy, "config": {"reduction": "sum"}},
            {"class_name": crossentropy, "config": {"reduction": "mean_with_sample_weight"}},
        ]
    )
    fit = choose.choice([{}, {"class_weight": {0: 1.0, 1: 2.5, 2: 0.3}}])
    y = np.eye(3, dtype="float32")[numbers.integers(0, 3, rows)]
    model = Model(x, layers.Dense(3, activation="softmax")(h))
    return Case(model, floats(numbers, rows, 6), y, loss, ["accuracy", "AUC"], fit)


def half(choose: Random, numbers: Numbers, rows: int) -> Case:
    """Mixed precision: each process rounds what its rows have, so that sums differ in the digits of the short type."""
    policy = choose.choice(["mixed_bfloat16", "mixed_float16"])
    x = Input((6,))
    h = layers.Dropout(0.3, dtype=policy)(layers.Dense(8, activation="tanh", dtype=policy)(x))
    h = (
        layers.BatchNormalization(dtype=policy)(h)
        if choose.random() < 0.3
        else layers.LayerNormalization(dtype=policy)(h)
    )
    model = Model(x, layers.Dense(3, activation="softmax", dtype="float32")(h))
    y = numbers.integers(0, 3, rows)
    loss = "sparse_categorical_crossentropy"
    # No counts: a row at the edge is a large part of them.
    return Case(model, floats(numbers, rows, 6), y, loss, [loss], {}, HALF_TOLERANCE)


def images(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((8, 8, 3))
    h = layers.RandomRotation(0.1)(layers.RandomFlip()(x))
    # Without a bias, whose gradient before a normalization is nothing but rounding, which Adam makes a step of.
    h = layers.Conv2D(4, 3, padding="same", use_bias=False)(h)
    penalty = choose.choice([None, "l1"])
    h = layers.BatchNormalization(momentum=choose.choice([0.9, 0.5]), activity_regularizer=penalty)(h)
    h = layers.Activation("relu", activity_regularizer=penalty)(h)
    h = layers.Flatten()(layers.SpatialDropout2D(0.3)(layers.MaxPooling2D()(h)))
    h = layers.BatchNormalization()(layers.Dense(6, use_bias=False)(h))
    focal = {"class_name": "BinaryFocalCrossentropy", "config": {"apply_class_balancing": True}}
    loss = choose.choice(["binary_crossentropy", "hinge", focal])
    model = Model(x, layers.Dense(1, activation="sigmoid")(h))
    y = numbers.integers(0, 2, (rows, 1)).astype("float32")
    return Case(model, floats(numbers, rows, 8, 8, 3), y, loss, ["accuracy", "AUC", "Precision"])


def segmentation(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((6, 6, 2))
    h = layers.Conv2D(3, 3, padding="same", activation="relu")(x)
    h = layers.BatchNormalization(axis=choose.choice([-1, 1]))(h)
    model = Model(x, layers.Conv2D(2, 1, activation="softmax")(h))
    overlap = {"class_name": "MeanIoU", "config": {"num_classes": 2, "sparse_y_pred": False}}
    y = numbers.integers(0, 2, (rows, 6, 6))
    return Case(model, floats(numbers, rows, 6, 6, 2), y, "sparse_categorical_crossentropy", ["accuracy", overlap])


def recurrent(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((7,), dtype="int32")
    kind = choose.choice([layers.LSTM, layers.GRU, layers.SimpleRNN])
    layer = kind(6, dropout=0.3, recurrent_dropout=choose.choice([0, 0.2]))
    if choose.random() < 0.3:
        layer = layers.RNN([layers.GRUCell(4, activity_regularizer="l2"), layers.LSTMCell(5)])
    h = layer(layers.Embedding(20, 5)(x))
    model = Model(x, layers.Dense(4, activation="softmax")(h))
    fit = choose.choice([{}, {"sample_weight": numbers.random(rows).astype("float32")}])
    tokens, y = numbers.integers(0, 20, (rows, 7)), numbers.integers(0, 4, rows)
    return Case(model, tokens, y, "sparse_categorical_crossentropy", ["accuracy"], fit)


def masked(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((7,), dtype="int32")
    h = layers.LSTM(6, return_sequences=True)(layers.Embedding(20, 5, mask_zero=True)(x))
    h = choose.choice([layers.BatchNormalization(), layers.LayerNormalization()])(h)
    model = Model(x, layers.Dense(4, activation="softmax")(h))
    tokens = numbers.integers(1, 20, (rows, 7)) * (np.arange(7) < numbers.integers(1, 8, (rows, 1)))
    ignoring = {"class_name": "SparseCategoricalCrossentropy", "config": {"ignore_class": 0}}
    loss = choose.choice(["sparse_categorical_crossentropy", ignoring])
    return Case(model, tokens, numbers.integers(0, 4, (rows, 7)), loss, ["accuracy"])


def several(choose: Random, numbers: Numbers, rows: int) -> Case:
    a, b = Input((5,), name="a"), Input((4,), name="b")
    h = layers.concatenate([layers.Dense(6, activation="tanh")(a), layers.Dense(5)(b)])
    heads = [layers.Dense(1, name="o1"), layers.Dense(3, activation="softmax", name="o2"), layers.Dense(2, name="o3")]
    model = Model([a, b], [head(h) for head in heads])
    x = {"a": floats(numbers, rows, 5), "b": floats(numbers, rows, 4)}
    y = {"o1": floats(numbers, rows, 1), "o2": numbers.integers(0, 3, rows)}
    weights = {name: numbers.random(rows).astype("float32") for name in y}
    # An output without a loss: its weights have no gradient.
    loss = {"o1": "mse", "o2": "sparse_categorical_crossentropy", "o3": None}
    fit = choose.choice([{}, {"sample_weight": weights}])
    return Case(model, x, y, loss, {"o1": ["mae"], "o2": ["accuracy"]}, fit)


def steps(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((4, 5))
    h = layers.TimeDistributed(layers.Dropout(0.3))(layers.TimeDistributed(layers.Dense(3, activation="relu"))(x))
    h = layers.Bidirectional(layers.LSTM(3))(layers.TimeDistributed(layers.BatchNormalization())(h))
    loss = choose.choice(["mae", "huber", "cosine_similarity"])
    return Case(
        Model(x, layers.Dense(2)(h)), floats(numbers, rows, 4, 5), floats(numbers, rows, 2), loss, ["mse", "R2Score"]
    )


def attention(choose: Random, numbers: Numbers, rows: int) -> Case:
    x = Input((5, 8))
    h = layers.MultiHeadAttention(2, 4, dropout=0.2)(x, x)
    h = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.add([h, x])))
    model = Model(x, layers.Dense(3, activation="softmax")(h))
    y = numbers.integers(0, 3, rows)
    return Case(model, floats(numbers, rows, 5, 8), y, "sparse_categorical_crossentropy", ["accuracy"])


KINDS: tuple[Callable[[Random, Numbers, int], Case], ...] = (
    dense,
    images,
    segmentation,
    recurrent,
    masked,
    several,
    steps,
    attention,
    half,
)


def trained(case: Case, how: dict[str, Any], workers: Workers | None) -> tuple[dict[str, list[Any]], list[Any]]:
    """Logs and weights after training from the model's weights, to which it then goes back."""
    before = case.model.get_weights()
    case.model.compile(**how["compile"])
    callbacks = [callback(given) for given in how["callbacks"]]
    history = case.model.fit(case.x, case.y, **case.fit, **how["fit"], callbacks=callbacks, workers=workers)
    after = case.model.get_weights()
    case.model.set_weights(before)
    return history.history, after


@cache
def group() -> Workers:
    """The processes that torchrun started, or those that meet at a file."""
    torch.set_num_threads(1)
    rank, count = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = distributed.FileStore(os.environ["STORE"], count) if "STORE" in os.environ else None
    distributed.init_process_group("gloo", store=store, rank=rank, world_size=count)
    return Workers()


def check(seed: int) -> None:
    """Raises AssertionError, in all workers, if the model of a seed trains otherwise with several of them."""
    workers = group()
    choose, numbers = random.Random(seed), np.random.default_rng(seed)
    torch.manual_seed(seed)
    kind = KINDS[seed % len(KINDS)]
    case = kind(choose, numbers, choose.randint(5, 40))
    name, options = choose.choice(OPTIMIZERS)
    measured = choose.choice(["metrics", "weighted_metrics"])
    how: dict[str, Any] = {
        "compile": {
            "optimizer": {"class_name": name, "config": options},
            "loss": case.loss,
            measured: case.metrics,
        },
        "callbacks": [given for given in CALLBACKS if choose.random() < 0.3],
        "fit": {
            # In batches of two or three rows, normalization makes a difference of the last digit a large one.
            "batch_size": choose.randint(4, 12),
            "epochs": EPOCHS,
            "verbose": 0,
            "seed": seed,
            "validation_split": choose.choice([0.0, 0.3]),
        },
    }
    alone, together = trained(case, how, None), trained(case, how, workers)
    whole = torch.cat([torch.as_tensor(weight, dtype=torch.float64).flatten() for weight in together[1]])
    first = whole.clone()
    distributed.broadcast(first, 0)
    problems = [] if torch.equal(whole, first) else [f"worker {workers.rank} has other weights than the first"]
    if workers.first:
        problems += [
            f"{log}: {values} alone, {together[0].get(log)} together"
            for log, values in alone[0].items()
            if not close(values, together[0].get(log), case.tolerance)
        ]
        far = max(np.abs(one - other).max() for one, other in zip(alone[1], together[1], strict=True))
        problems += [f"weights differ by {far}"] if far > WEIGHT_TOLERANCE and case.tolerance == TOLERANCE else []
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, problems)
    problems = [problem for each in found for problem in each]
    assert not problems, f"{kind.__name__}, {how}: {'; '.join(problems)}"


def close(one: Any, other: Any, tolerance: float) -> bool:
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=tolerance, atol=tolerance)
