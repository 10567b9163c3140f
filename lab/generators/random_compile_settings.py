"""Random optimizers, losses and metrics in every shape that `compile` takes, with labels that go with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from random_trained_models import Array, Draw, Head, Made

L, M, S = keras.losses, keras.metrics, keras.optimizers.schedules


# Optimizers.


def random_schedule(draw: Draw) -> Any:
    """A schedule of any kind, that moves within a dozen steps."""
    rate = draw.between(0.005, 0.05)
    makers = (
        lambda: S.ExponentialDecay(rate, draw.pick((2, 3, 7)), draw.between(0.5, 0.99), staircase=draw.chance(0.5)),
        lambda: S.InverseTimeDecay(rate, draw.pick((1, 4)), draw.between(0.1, 1.0), staircase=draw.chance(0.5)),
        lambda: S.PolynomialDecay(rate, draw.pick((3, 6)), 0.001, power=draw.pick((1.0, 2.0)), cycle=draw.chance(0.5)),
        lambda: S.PiecewiseConstantDecay([2, 5], [rate, rate / 2, rate / 10]),
        lambda: S.CosineDecay(rate, draw.pick((5, 10)), alpha=draw.pick((0.0, 0.1))),
        lambda: S.CosineDecay(rate / 5, 6, alpha=0.1, warmup_target=rate, warmup_steps=draw.pick((2, 4))),
        lambda: S.CosineDecayRestarts(rate, 3, t_mul=draw.pick((1.0, 2.0)), m_mul=draw.pick((1.0, 0.7)), alpha=0.1),
    )
    return draw.pick(makers)()


def own_options(draw: Draw, name: str) -> dict[str, Any]:
    """Options that only optimizers of that name have."""
    moments = {"beta_1": draw.pick((0.9, 0.8)), "beta_2": draw.pick((0.999, 0.9)), "epsilon": draw.pick((1e-7, 1e-3))}
    known: dict[str, dict[str, Any]] = {
        "SGD": {"momentum": draw.pick((0.0, 0.9)), "nesterov": draw.chance(0.5)},
        "RMSprop": {"rho": 0.8, "momentum": draw.pick((0.0, 0.5)), "centered": draw.chance(0.4), "epsilon": 1e-4},
        "Adam": {**moments, "amsgrad": draw.chance(0.3)},
        "AdamW": {**moments, "amsgrad": draw.chance(0.3)},
        "Adamax": moments,
        "Nadam": moments,
        "Lamb": moments,
        "Adagrad": {"initial_accumulator_value": draw.pick((0.1, 0.5)), "epsilon": draw.pick((1e-7, 1e-3))},
        "Adadelta": {"rho": draw.pick((0.95, 0.8)), "epsilon": 1e-5},
        "Adafactor": {
            "relative_step": draw.chance(0.5),
            "clip_threshold": draw.pick((1.0, 0.5)),
            "beta_2_decay": draw.pick((-0.8, -0.5)),
        },
        "Ftrl": {
            "learning_rate_power": draw.pick((-0.5, -0.7)),
            "l1_regularization_strength": draw.pick((0.0, 0.01)),
            "l2_regularization_strength": draw.pick((0.0, 0.1)),
            "l2_shrinkage_regularization_strength": draw.pick((0.0, 0.05)),
            "beta": draw.pick((0.0, 0.1)),
        },
        "Lion": {"beta_1": 0.9, "beta_2": draw.pick((0.99, 0.9))},
        "Muon": {
            "nesterov": draw.chance(0.5),
            "ns_steps": draw.pick((2, 5)),
            "exclude_layers": draw.pick(([], ["dense1"], ["_cell", "query"], ["^conv", "forward"])),
            "exclude_embeddings": draw.chance(0.5),
            "rms_rate": draw.pick((0.2, None)),
        },
        "ScheduleFreeAdamW": {**moments, "warmup_steps": draw.pick((0, 3))},
    }
    return known[name] if draw.chance(0.7) else {}


NAMES = (
    "SGD", "SGD", "RMSprop", "RMSprop", "Adam", "Adam", "AdamW", "Adamax", "Nadam", "Lamb", "Adagrad", "Adadelta",
    "Adafactor", "Ftrl", "Lion", "Muon", "ScheduleFreeAdamW",
)  # fmt: skip


def random_multi_optimizer(draw: Draw, made: Made) -> Any:
    """Several optimizers by patterns of layers' names, any part of which is in the paths of their weights."""
    named = [layer.name for layer in made.model.layers if layer.weights]
    kinds = ("SGD", "Adam", "RMSprop", "Nadam", "Lion", "Adafactor")
    chosen = dict.fromkeys(draw.pick((f".*{name}/.*", f"{name}/.*kernel")) for name in draw.some(named, 2))
    inner = [getattr(keras.optimizers, draw.pick(kinds))(draw.between(0.002, 0.05)) for _ in range(len(chosen) + 1)]
    if draw.chance(0.3):
        inner[0].use_ema = True
    options = {"loss_scale_factor": 8.0} if draw.chance(0.2) else {}
    mapped = keras.optimizers.OptimizerMap(inner[-1], dict(zip(chosen, inner[:-1], strict=True)))
    return keras.optimizers.MultiOptimizer(mapped, **options)


def random_optimizer(draw: Draw, *, scheduled: bool = True) -> Any:
    """An optimizer of any kind with any of its options; as a name, too."""
    name = draw.pick(NAMES)
    if draw.chance(0.1) and name != "Lamb":
        return draw.pick((name.lower(), name))
    rate = random_schedule(draw) if scheduled and draw.chance(0.3) else draw.between(0.002, 0.05)
    options = {"learning_rate": rate, **own_options(draw, name)}
    if draw.chance(0.3):
        options["weight_decay"] = draw.between(0.0, 0.3)
    if draw.chance(0.35):
        options[draw.pick(("clipnorm", "clipvalue", "global_clipnorm"))] = draw.between(0.01, 1.0)
    if draw.chance(0.25):
        options.update(use_ema=True, ema_momentum=draw.pick((0.5, 0.9)))
        options["ema_overwrite_frequency"] = draw.pick((None, 2, 3))
    if draw.chance(0.15):
        options["gradient_accumulation_steps"] = draw.pick((2, 3))
    if draw.chance(0.1):
        options["loss_scale_factor"] = 16.0
    made = getattr(keras.optimizers, name)(**options)
    if draw.chance(0.04):
        return keras.optimizers.LossScaleOptimizer(made, initial_scale=256.0, dynamic_growth_steps=draw.pick((3, 2000)))
    return made


# Losses and labels.

#: By kind of output: names, functions, and classes with options; labels are those of the kind unless said here.
LOSSES: dict[str, tuple[Any, ...]] = {
    "real": (
        "mse", "MSE", "mean_squared_error", "MeanSquaredError", "mae", "huber", "Huber", "log_cosh", "logcosh",
        "cosine_similarity", L.mean_absolute_error, L.mean_squared_error, L.huber,
        (L.MeanSquaredError, {}), (L.MeanAbsoluteError, {}), (L.LogCosh, {}), (L.Huber, {}), (L.CosineSimilarity, {}),
        (L.Hinge, {}), "squared_hinge",
    ),
    "positive": (
        "poisson", "Poisson", "msle", "mape", "mean_squared_logarithmic_error", (L.Poisson, {}),
        (L.MeanAbsolutePercentageError, {}), (L.MeanSquaredLogarithmicError, {}), "mse",
    ),
    "binary": (
        "binary_crossentropy", "bce", "BCE", "BinaryCrossentropy", L.binary_crossentropy, "hinge", "squared_hinge",
        "crossentropy", "ce", "mse", "binary_focal_crossentropy", (L.BinaryCrossentropy, {"label_smoothing": 0.1}),
        (L.BinaryFocalCrossentropy, {"gamma": 1.5, "apply_class_balancing": True, "alpha": 0.3}), (L.SquaredHinge, {}),
    ),
    "multilabel": (
        "binary_crossentropy", "dice", "tversky", (L.Dice, {}), (L.Dice, {"axis": 1}),
        (L.Tversky, {"alpha": 0.3, "beta": 0.7}),
        (L.BinaryCrossentropy, {"label_smoothing": 0.2}), (L.BinaryFocalCrossentropy, {}), "mse",
    ),
    "classes": (
        "categorical_crossentropy", "crossentropy", "ce", "kl_divergence", "kld", "KLD", "categorical_hinge",
        "categorical_focal_crossentropy", (L.CategoricalCrossentropy, {"label_smoothing": 0.1}),
        (L.CategoricalFocalCrossentropy, {"alpha": 0.4, "gamma": 1.0}), (L.KLDivergence, {}), (L.CategoricalHinge, {}),
        "sparse:sparse_categorical_crossentropy", "sparse:crossentropy", "sparse:SparseCategoricalCrossentropy",
        (L.SparseCategoricalCrossentropy, {}), (L.SparseCategoricalCrossentropy, {"ignore_class": 1}),
        (L.CategoricalGeneralizedCrossEntropy, {"q": 0.6}), L.sparse_categorical_crossentropy,
    ),
    "logits": (
        (L.CategoricalCrossentropy, {"from_logits": True}), (L.SparseCategoricalCrossentropy, {"from_logits": True}),
        (L.BinaryCrossentropy, {"from_logits": True}),
        (L.CategoricalCrossentropy, {"from_logits": True, "label_smoothing": 0.1}),
        (L.SparseCategoricalCrossentropy, {"from_logits": True, "ignore_class": 0}),
        (L.BinaryFocalCrossentropy, {"from_logits": True}), (L.CategoricalFocalCrossentropy, {"from_logits": True}),
        (L.Circle, {"gamma": 4.0}),
    ),
}  # fmt: skip
SPARSE = (L.SparseCategoricalCrossentropy, L.CategoricalGeneralizedCrossEntropy, L.Circle)
REDUCTIONS = ("sum_over_batch_size", "sum_over_batch_size", "sum", "mean", "mean_with_sample_weight")


def random_loss(draw: Draw, head: Head) -> tuple[Any, bool]:
    """A loss for an output, and whether its labels are class numbers."""
    given = draw.pick(
        [item for item in LOSSES[head.kind] if not (head.stepwise and isinstance(item, tuple) and item[0] is L.Circle)]
    )
    if isinstance(given, str):
        return given.removeprefix("sparse:"), given.startswith("sparse:")
    if not isinstance(given, tuple):
        return given, given is L.sparse_categorical_crossentropy
    made = given[0](**given[1], reduction=draw.pick(REDUCTIONS), **({"name": "own"} if draw.chance(0.1) else {}))
    return made, given[0] in SPARSE


def random_labels(draw: Draw, head: Head, sparse: bool, rows: int) -> Array:
    """Labels for an output."""
    rng, shape = draw.rng, (rows, *head.shape)
    if sparse:
        labels = rng.integers(0, head.shape[-1], shape[:-1]).astype(draw.pick(("int32", "int64", "float32", "uint8")))
        return labels[..., None] if draw.chance(0.3) else labels
    if head.kind in ("binary", "multilabel"):
        labels = rng.integers(0, 2, shape).astype(draw.pick(("float32", "int32", "bool", "uint8", "float64")))
    elif head.kind in ("classes", "logits"):
        labels = np.eye(shape[-1], dtype="float32")[rng.integers(0, shape[-1], shape[:-1])]
    else:
        labels = rng.standard_normal(shape).astype("float32")
        labels = np.abs(labels) + 0.2 if head.kind == "positive" else labels
    return labels[..., 0] if shape[-1] == 1 and draw.chance(0.4) else labels


# Metrics.

METRICS: dict[str, tuple[Any, ...]] = {
    "real": (
        "mae", "mse", "MSE", "mape", "msle", "mean_absolute_error", "RootMeanSquaredError", "cosine_similarity",
        "accuracy", L.huber, L.log_cosh,
        (M.MeanMetricWrapper, {"fn": L.huber, "name": "wrapped", "delta": 0.3}),
        (M.MeanAbsoluteError, {}), (M.RootMeanSquaredError, {}), (M.R2Score, {}), (M.LogCoshError, {}), (M.Hinge, {}),
        (M.CosineSimilarity, {"axis": -1}), M.mean_squared_error, (M.MeanSquaredError, {"name": "named"}),
        (M.R2Score, {"class_aggregation": "variance_weighted_average"}), (M.R2Score, {"class_aggregation": None}),
        (M.R2Score, {"num_regressors": 2}), (M.MeanAbsolutePercentageError, {}), (M.SquaredHinge, {}),
    ),
    "positive": ("mae", (M.Poisson, {}), (M.MeanSquaredLogarithmicError, {}), (M.RootMeanSquaredError, {}), "acc"),
    "binary": (
        "accuracy", "acc", "binary_accuracy", "AUC", "Precision", "Recall", "bce", "mae",
        (M.BinaryAccuracy, {"threshold": 0.4}),
        (M.AUC, {"num_thresholds": 20}), (M.AUC, {"curve": "PR"}), (M.Precision, {"thresholds": 0.4}), (M.Recall, {}),
        (M.PrecisionAtRecall, {"recall": 0.6}), (M.SensitivityAtSpecificity, {"specificity": 0.5}),
        (M.BinaryCrossentropy, {}),
        (M.BinaryIoU, {}), (M.FalsePositives, {}), (M.TrueNegatives, {}), (M.F1Score, {"threshold": 0.5}),
        (M.AUC, {"summation_method": "minoring"}), (M.AUC, {"curve": "PR", "summation_method": "majoring"}),
        (M.AUC, {"thresholds": [0.2, 0.5, 0.9]}), (M.Precision, {"thresholds": [0.2, 0.5]}),
        (M.RecallAtPrecision, {"precision": 0.5, "num_thresholds": 20}), (M.Hinge, {}), (M.SquaredHinge, {}),
        (M.SpecificityAtSensitivity, {"sensitivity": 0.6}), (M.BinaryCrossentropy, {"label_smoothing": 0.2}),
        (M.BinaryIoU, {"target_class_ids": [1], "threshold": 0.3}), (M.MeanIoU, {"num_classes": 2}),
    ),
    "multilabel": (
        "accuracy", "binary_accuracy", (M.AUC, {"multi_label": True, "num_thresholds": 15}),
        (M.Precision, {"class_id": 1}),
        (M.Precision, {"top_k": 2}), (M.F1Score, {"threshold": 0.5, "average": "micro"}), (M.BinaryCrossentropy, {}),
        (M.Recall, {"thresholds": [0.3, 0.6]}), (M.FBetaScore, {"beta": 2.0, "threshold": 0.4, "average": "macro"}),
        (M.AUC, {"multi_label": True, "curve": "PR"}), (M.Recall, {"top_k": 2, "class_id": 0}), (M.AUC, {}),
        (M.FBetaScore, {"beta": 0.5, "threshold": 0.5, "average": "weighted"}), "Precision", "Recall",
    ),
    "classes": (
        "accuracy", "acc", "categorical_accuracy", "CategoricalAccuracy", "categorical_crossentropy", "kl_divergence",
        (M.TopKCategoricalAccuracy, {"k": 2}), (M.AUC, {}), (M.F1Score, {"average": "weighted"}),
        (M.CategoricalCrossentropy, {}),
        (M.OneHotMeanIoU, {"num_classes": 3}), (M.OneHotIoU, {"num_classes": 3, "target_class_ids": [0, 2]}),
        (M.KLDivergence, {}), (M.CategoricalHinge, {}), (M.Precision, {}), "mse", (M.F1Score, {}),
        (M.Precision, {"top_k": 1}), (M.Recall, {"class_id": 2}), (M.F1Score, {"average": "macro"}), "AUC",
        (M.CategoricalCrossentropy, {"label_smoothing": 0.1}), (M.FBetaScore, {"beta": 2.0, "average": "micro"}),
        (M.OneHotMeanIoU, {"num_classes": 3, "ignore_class": 1}), "TopKCategoricalAccuracy",
        "top_k_categorical_accuracy",
    ),
    "logits": (
        "accuracy", "categorical_accuracy", (M.CategoricalCrossentropy, {"from_logits": True}),
        (M.TopKCategoricalAccuracy, {"k": 2}),
        (M.PearsonCorrelation, {}), (M.ConcordanceCorrelation, {}),
    ),
    "sparse": (
        "accuracy", "acc", "sparse_categorical_accuracy", "SparseCategoricalAccuracy",
        (M.SparseCategoricalAccuracy, {}),
        (M.SparseTopKCategoricalAccuracy, {"k": 2}), (M.SparseCategoricalCrossentropy, {}),
        M.sparse_categorical_accuracy, "sparse_categorical_crossentropy", "sparse_top_k_categorical_accuracy",
        (M.SparseTopKCategoricalAccuracy, {"k": 1, "name": "best"}),
        (M.MeanIoU, {"num_classes": 3, "sparse_y_pred": False}),
        (M.IoU, {"num_classes": 3, "target_class_ids": [0, 2], "sparse_y_pred": False}),
    ),
}  # fmt: skip


#: Whose result is their state, of which Keras on torch logs what validation makes of it.
COUNTS = (M.FalsePositives, M.TrueNegatives)
#: Whose sample weights Keras on torch cuts to integers.
OVERLAPS = (M.BinaryIoU, M.OneHotIoU, M.OneHotMeanIoU, M.IoU, M.MeanIoU)


#: Which take (rows, outputs) only.
FLAT = (M.FBetaScore, M.F1Score, M.R2Score)


def random_metric(draw: Draw, head: Head, sparse: bool, without: tuple[Any, ...]) -> Any:
    """A metric for an output, none of the classes `without`."""
    choices = METRICS["sparse" if sparse else head.kind]
    without = (*without, *FLAT) if head.stepwise else without
    given = draw.pick([c for c in choices if not (isinstance(c, tuple) and c[0] in without)])
    if isinstance(given, tuple):
        return given[0](**given[1])
    return given


def random_metrics(draw: Draw, made: Made, sparse: dict[str, bool], without: tuple[Any, ...]) -> Any:
    """Metrics for all outputs, in any shape that Keras takes."""
    several = {
        head.name: [random_metric(draw, head, sparse[head.name], without) for _ in range(draw.pick((0, 1, 1, 2, 3)))]
        for head in made.heads
    }  # fmt: skip
    if made.structure == "one":
        only = several[made.heads[0].name]
        return draw.pick((only, tuple(only), {made.heads[0].name: only}, [only]))
    if made.structure == "nested":
        return made.nested(several)
    shape = draw.pick(("dict", "partial", "list"))
    single = {
        name: (items[0] if len(items) == 1 and draw.chance(0.5) else items) or None for name, items in several.items()
    }
    if shape == "list":
        return list(single.values())
    return {name: items for name, items in single.items() if items or (shape == "dict" and draw.chance(0.5))}


# All of it.


@dataclass(slots=True)
class Settings:
    """Arguments of `compile`, labels by output name, and whether a loss leaves out values by itself."""

    arguments: dict[str, Any]
    labels: dict[str, Array]
    masks: bool


def random_settings(draw: Draw, made: Made, rows: int, *, scheduled: bool, counted: bool) -> Settings:
    """How to compile a model, with labels."""
    losses: dict[str, Any] = {}
    sparse: dict[str, bool] = {}
    labels: dict[str, Array] = {}
    for place, head in enumerate(made.heads):
        losses[head.name], sparse[head.name] = random_loss(draw, head)
        labels[head.name] = random_labels(draw, head, sparse[head.name], rows)
        if place and draw.chance(0.15):
            losses[head.name] = None
    names = [head.name for head in made.heads]
    several = draw.chance(0.06)
    optimizer = random_multi_optimizer(draw, made) if several else random_optimizer(draw, scheduled=scheduled)
    arguments: dict[str, Any] = {"optimizer": optimizer}
    shapes = {"one": ("one",), "list": ("list", "dict"), "dict": ("dict",), "nested": ("nested", "nested", "list")}
    shape = draw.pick(shapes[made.structure])
    arguments["loss"] = {
        "one": draw.pick((losses[names[0]], losses[names[0]], [losses[names[0]]], {names[0]: losses[names[0]]})),
        "list": list(losses.values()),
        "dict": losses,
        "nested": made.nested(losses) if shape == "nested" else None,
    }[shape]
    if draw.chance(0.4) and not any(loss is None for loss in losses.values()):
        weights = {name: draw.between(0.1, 2.0) for name in names}
        arguments["loss_weights"] = {
            "one": draw.pick(([weights[names[0]]], weights[names[0]])),
            "list": list(weights.values()),
            "dict": weights,
            "nested": made.nested(weights) if shape == "nested" else None,
        }[shape]
    counts = () if counted else COUNTS
    for name, without in (("metrics", counts), ("weighted_metrics", (*counts, *OVERLAPS))):
        if draw.chance(0.6):
            arguments[name] = random_metrics(draw, made, sparse, without)
    masks = any(
        isinstance(loss, L.Circle) or getattr(loss, "ignore_class", None) is not None for loss in losses.values()
    )
    return Settings(arguments, labels, masks)
