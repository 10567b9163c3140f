"""What ordinary models are compiled with, for tf.keras and Keras 3: `compare_round_trips` trains them.

Runs on Python 3.7, too. What a release lacks is an AttributeError or TypeError when its case is built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from compiled_models import half, images, recommender, series, stack, tabular, text


@dataclass(frozen=True)
class Case:
    """A model and what it is compiled with; `build` and `arguments` get the Keras to use."""

    name: str
    build: Callable[[Any], Any]
    arguments: Callable[[Any], dict[str, Any] | None]


#: Model -> its losses as names, and metrics that go with them.
WORDS: dict[Any, tuple[str, str]] = {
    text: ("binary_crossentropy", "accuracy"),
    tabular: ("mse", "mae"),
    images: ("sparse_categorical_crossentropy", "accuracy"),
    series: ("mae", "mse"),
    stack: ("categorical_crossentropy", "accuracy"),
    half: ("mse", "mae"),
}


def optimizers(keras: Any) -> dict[str, Callable[[], Any]]:
    """Optimizers with options of their own, by name; each is made when it is called."""
    # Keras by itself has none before 3.
    made, rates = keras.optimizers, getattr(keras.optimizers, "schedules", None)
    return {
        "sgd": lambda: made.SGD(0.05, momentum=0.9, nesterov=True),
        "plain_sgd": lambda: made.SGD(0.05),
        "rmsprop": lambda: made.RMSprop(0.01, momentum=0.5, centered=True),
        "amsgrad": lambda: made.Adam(0.01, amsgrad=True, epsilon=1e-4),
        "adamw": lambda: made.AdamW(0.01, weight_decay=0.02),
        "adamax": lambda: made.Adamax(0.01),
        "adagrad": lambda: made.Adagrad(0.05),
        "adadelta": lambda: made.Adadelta(0.5),
        "ftrl": lambda: made.Ftrl(0.05, l1_regularization_strength=0.01),
        "lion": lambda: made.Lion(0.002),
        "adafactor": lambda: made.Adafactor(0.02),
        "decayed": lambda: made.Adam(0.01, weight_decay=0.01),
        "averaged": lambda: made.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=4),
        "plain_exponential": lambda: made.SGD(rates.ExponentialDecay(0.05, 3, 0.6)),
        "exponential": lambda: made.Adam(rates.ExponentialDecay(0.02, 3, 0.8, staircase=True)),
        "cosine": lambda: made.SGD(rates.CosineDecay(0.05, 9, alpha=0.1), momentum=0.9),
        "inverse": lambda: made.Adam(rates.InverseTimeDecay(0.02, 2, 0.5)),
        "polynomial": lambda: made.Adam(rates.PolynomialDecay(0.02, 6, 0.001, power=2.0)),
        "piecewise": lambda: made.Adam(rates.PiecewiseConstantDecay([2, 5], [0.02, 0.01, 0.005])),
        "restarts": lambda: made.Adam(rates.CosineDecayRestarts(0.02, 3)),
    }


def clipping_optimizers(keras: Any) -> dict[str, Callable[[], Any]]:
    """For models without an Embedding, whose gradients 2.15 clips otherwise than Keras 3."""
    made = keras.optimizers
    return {
        "clipnorm": lambda: made.Adam(0.01, clipnorm=0.1),
        "clipvalue": lambda: made.SGD(0.05, momentum=0.5, clipvalue=0.01),
        "global_clipnorm": lambda: made.RMSprop(0.01, global_clipnorm=0.1),
    }


def own_optimizers(keras: Any) -> dict[str, Callable[[], Any]]:
    """Optimizers that only this generation of Keras has."""
    if hasattr(keras, "ops"):
        made = keras.optimizers
        return {
            "lamb": lambda: made.Lamb(0.01),
            "muon": lambda: made.Muon(0.01),
            "accumulating": lambda: made.Adam(0.01, gradient_accumulation_steps=2),
            "scaled": lambda: made.LossScaleOptimizer(made.Adam(0.01), initial_scale=64.0, dynamic_growth_steps=3),
            "loss_scale_factor": lambda: made.SGD(0.05, momentum=0.5, loss_scale_factor=8.0),
        }
    # Up to 2.10 there are no others.
    made = getattr(keras.optimizers, "legacy", keras.optimizers)

    def scaled(optimizer: Any, **options: Any) -> Any:
        return keras.mixed_precision.LossScaleOptimizer(optimizer, **options)

    def rate() -> Any:
        return keras.optimizers.schedules.ExponentialDecay(0.02, 3, 0.8)

    return {
        "legacy_sgd": lambda: made.SGD(0.05, momentum=0.9, decay=0.1),
        "legacy_rmsprop": lambda: made.RMSprop(0.01, momentum=0.5, centered=True),
        "legacy_plain_rmsprop": lambda: made.RMSprop(0.01, epsilon=1e-4),
        "legacy_adam": lambda: made.Adam(0.01, decay=0.05, clipnorm=0.5),
        "legacy_amsgrad": lambda: made.Adam(rate(), amsgrad=True, epsilon=1e-4),
        "legacy_adamax": lambda: made.Adamax(0.01),
        "legacy_nadam": lambda: made.Nadam(0.01),
        "legacy_adagrad": lambda: made.Adagrad(0.05),
        "legacy_adadelta": lambda: made.Adadelta(0.5),
        "legacy_ftrl": lambda: made.Ftrl(0.05),
        "scaled": lambda: scaled(keras.optimizers.Adam(0.01), initial_scale=64.0, dynamic_growth_steps=3),
        "scaled_fixed": lambda: scaled(keras.optimizers.SGD(0.05, momentum=0.5), dynamic=False, initial_scale=8.0),
        "scaled_legacy": lambda: scaled(made.Adam(0.01), initial_scale=64.0),
    }


def losses(keras: Any) -> dict[str, Callable[[], Any]]:
    """Losses of one number, as names, functions and objects with options."""
    made = keras.losses
    return {
        "name_of_a_class": lambda: "MeanSquaredError",
        "function": lambda: made.mean_absolute_error,
        "huber": lambda: made.Huber(delta=0.5),
        "log_cosh": lambda: made.LogCosh(),
        "sum": lambda: made.MeanSquaredError(reduction="sum", name="total"),
        "mape": lambda: "mape",
        "hinge": lambda: "squared_hinge",
        "cosine": lambda: made.CosineSimilarity(axis=-1),
    }


def metrics(keras: Any) -> dict[str, Callable[[], Any]]:
    """Metrics of one number, as names, functions and objects with options."""
    made = keras.metrics
    return {
        "short_names": lambda: ["mse", "MAE", "mape"],
        "functions": lambda: [made.mean_squared_error, keras.losses.mean_absolute_error],
        "objects": lambda: [
            made.MeanSquaredError(name="error"),
            made.RootMeanSquaredError(),
            made.LogCoshError(),
        ],
        "one": lambda: made.CosineSimilarity(axis=-1, name="angle"),
        "scores": lambda: [made.R2Score()],
    }


def _named(build: Any, optimizer: str = "adam") -> Case:
    loss, metric = WORDS[build]
    return Case(
        f"{build.__name__}-names-{optimizer}",
        build,
        lambda keras: {"optimizer": optimizer, "loss": loss, "metrics": [metric]},
    )


def _entropies(loss: str) -> dict[str, Any]:
    return {"optimizer": "sgd", "loss": loss, "metrics": ["crossentropy", "acc"], "weighted_metrics": ["ce"]}


def _two(name: str, arguments: Callable[[Any], dict[str, Any]]) -> Case:
    return Case(f"recommender-{name}", recommender, lambda keras: {"optimizer": "adam", **arguments(keras)})


def _of_tabular(name: str, arguments: Callable[[Any], dict[str, Any]]) -> Case:
    default = {"optimizer": "sgd", "loss": "mse", "metrics": ["mae"]}
    return Case(f"tabular-{name}", tabular, lambda keras: {**default, **arguments(keras)})


TWO: dict[str, Callable[[Any], dict[str, Any]]] = {
    "one_loss": lambda keras: {"loss": "mse", "metrics": ["mae"]},
    "list": lambda keras: {"loss": ["binary_crossentropy", "mse"], "metrics": [["accuracy"], ["mae"]]},
    "dict": lambda keras: {
        "loss": {"click": "binary_crossentropy", "rating": "mse"},
        "metrics": {"click": ["accuracy", "AUC"], "rating": "mae"},
        "loss_weights": {"click": 1.0, "rating": 0.5},
    },
    "objects": lambda keras: {
        "loss": {
            "click": keras.losses.BinaryCrossentropy(label_smoothing=0.1),
            "rating": keras.losses.Huber(delta=0.7),
        },
        "metrics": {
            "click": [keras.metrics.BinaryAccuracy(threshold=0.4), keras.metrics.AUC(num_thresholds=50, name="area")],
            "rating": [keras.metrics.RootMeanSquaredError(name="root")],
        },
        "weighted_metrics": {"click": ["accuracy"], "rating": []},
        "loss_weights": {"click": 2.0, "rating": 0.5},
    },
    "flat": lambda keras: {"loss": "mse", "metrics": ["mae", "mse"]},
    "list_and_dict": lambda keras: {"loss": ["mae", "mse"], "loss_weights": {"rating": 0.3, "click": 1.5}},
    "dict_and_list": lambda keras: {"loss": {"click": "mae", "rating": "mse"}, "loss_weights": [0.3, 1.2]},
    "list_weights": lambda keras: {"loss": ["binary_crossentropy", "mse"], "loss_weights": [0.3, 1.2]},
    "none": lambda keras: {"loss": [None, "mse"], "metrics": [[], ["mae"]]},
    "none_in_dict": lambda keras: {"loss": {"click": "binary_crossentropy", "rating": None}},
    "weighted": lambda keras: {
        "loss": {"click": "binary_crossentropy", "rating": "mae"},
        "weighted_metrics": [["accuracy"], ["mse"]],
    },
}

OF_OTHERS: tuple[Case, ...] = (
    Case(
        "text-objects",
        text,
        lambda keras: {
            "optimizer": keras.optimizers.RMSprop(0.01),
            "loss": keras.losses.BinaryFocalCrossentropy(gamma=1.5, apply_class_balancing=True),
            "metrics": [
                keras.metrics.AUC(curve="PR", name="area"),
                keras.metrics.Precision(thresholds=0.4),
                keras.metrics.Recall(name="found"),
                keras.metrics.TruePositives(),
                keras.metrics.PrecisionAtRecall(0.5, name="at"),
                "binary_accuracy",
            ],
        },
    ),
    Case(
        "images-objects",
        images,
        lambda keras: {
            "optimizer": keras.optimizers.Adam(0.01),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=False, ignore_class=None),
            "metrics": [
                keras.metrics.SparseCategoricalAccuracy(name="acc"),
                keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top"),
                "sparse_categorical_crossentropy",
            ],
        },
    ),
    Case(
        "stack-objects",
        stack,
        lambda keras: {
            "optimizer": keras.optimizers.SGD(0.05, momentum=0.9),
            "loss": keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
            "metrics": [
                "acc",
                keras.metrics.TopKCategoricalAccuracy(k=2),
                keras.metrics.F1Score(average="macro"),
                keras.metrics.OneHotMeanIoU(num_classes=3, name="overlap"),
                "categorical_crossentropy",
            ],
        },
    ),
    Case(
        "series-objects",
        series,
        lambda keras: {
            "optimizer": keras.optimizers.Adagrad(0.05),
            "loss": keras.losses.LogCosh(),
            "metrics": [keras.metrics.MeanAbsoluteError(), "mse"],
        },
    ),
)


def cases(keras: Any) -> Iterator[Case]:
    """All of them, for the Keras given."""
    for build in WORDS:
        yield _named(build)
        yield Case(f"{build.__name__}-uncompiled", build, lambda keras: None)
    yield _named(text, "rmsprop")
    yield _named(images, "sgd")
    if not hasattr(keras, "ops"):
        yield Case("text-crossentropy", text, lambda keras: _entropies("binary_crossentropy"))
        yield Case("images-crossentropy", images, lambda keras: _entropies("sparse_categorical_crossentropy"))
        yield Case("stack-crossentropy", stack, lambda keras: _entropies("categorical_crossentropy"))
        yield _two("crossentropy", lambda keras: {"loss": "mse", "metrics": {"click": ["ce", "accuracy"]}})
    yield Case("tabular-no_loss", tabular, lambda keras: {"optimizer": "adam"})
    yield Case("recommender-uncompiled", recommender, lambda keras: None)
    yield from OF_OTHERS
    for name, arguments in TWO.items():
        yield _two(name, arguments)
    for what, table in (("optimizer", optimizers), ("loss", losses), ("metrics", metrics)):
        for name in table(keras):
            yield _of_tabular(f"{what}-{name}", lambda keras, w=what, t=table, n=name: {w: t(keras)[n]()})
    for name in clipping_optimizers(keras):
        yield Case(
            f"series-{name}",
            series,
            lambda keras, n=name: {"optimizer": clipping_optimizers(keras)[n](), "loss": "mse"},
        )
    for name in own_optimizers(keras):
        yield _of_tabular(f"own-{name}", lambda keras, n=name: {"optimizer": own_optimizers(keras)[n]()})
    yield Case("half-scaled", half, lambda keras: {"optimizer": _scaled(keras), "loss": "mse", "metrics": ["mae"]})


def _scaled(keras: Any) -> Any:
    made = keras.optimizers if hasattr(keras, "ops") else keras.mixed_precision
    return made.LossScaleOptimizer(keras.optimizers.SGD(0.05, momentum=0.5), initial_scale=64.0)
