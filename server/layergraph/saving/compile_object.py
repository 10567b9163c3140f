"""Serialises the arguments of `compile` in Keras 3's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layergraph.config.options import keras_object, serialized
from layergraph.saving.later_options import without_later_defaults
from layergraph.training import losses
from layergraph.training.compile import ByShapes, Compiled, is_single
from layergraph.training.metrics import table as metrics
from layergraph.training.metrics.metric import Metric
from layergraph.training.trainer import Trainer

_MODULES = {
    "optimizer": "keras.optimizers",
    "loss": "keras.losses",
    "metrics": "keras.metrics",
    "weighted_metrics": "keras.metrics",
}
#: Names of losses and metrics that Keras 3 doesn't resolve, mostly Keras 2's.
_NAMES_OF_KERAS2 = {
    "loss": frozenset(
        {
            "CategoricalGeneralizedCrossEntropy",
            "categorical_generalized_cross_entropy",
            "huber_loss",
            "kullback_leibler_divergence",
            "logcosh",
        }
    ),
    "metrics": frozenset({"kld", "kullback_leibler_divergence", "log_cosh", "logcosh"}),
}
_FUNCTION = {"module": "builtins", "class_name": "function", "registered_name": "function"}


def compile_object(model: Trainer, *, names: bool = True) -> dict[str, Any]:
    """`compile_config` of `config.json`, for a model with compile settings that can be used.

    Without `names`, which Keras 3 doesn't resolve in an `.h5`, all losses and metrics are written as objects.
    """
    compiled = model.saved_compilation
    assert compiled is not None, "it is compiled"
    config = _in_lists(compiled.keras_config(), compiled.output_names)
    for key in ("metrics", "weighted_metrics"):
        if _holds_crossentropy(config[key]):
            config[key] = _by_output(model, compiled, weighted=key == "weighted_metrics")
    result = {key: _with_module(module, _named(key, config[key], names)) for key, module in _MODULES.items()}
    return {**result, "loss_weights": config["loss_weights"]}


def _in_lists(config: dict[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """Expands a single loss or metric, or one list for all outputs (Keras 2), to the lists that Keras 3 expects."""
    config, count = dict(config), len(outputs)
    if config["loss"] is not None and is_single(config["loss"]) and count > 1:
        config["loss"] = [config["loss"]] * count
    for key in ("metrics", "weighted_metrics"):
        given = config[key]
        if given is not None and is_single(given):
            given = [given]
        if isinstance(given, list) and 1 < count != len(given) and all(map(is_single, given)):
            given = [given] * count
        config[key] = given
    if isinstance(config["loss_weights"], list) and isinstance(config["loss"], Mapping):
        config["loss_weights"] = dict(zip(outputs, config["loss_weights"], strict=True))
    return config


def _holds_crossentropy(given: Any) -> bool:
    """Whether there is a name that only Keras 2 resolves by shapes."""
    if isinstance(given, str):
        return metrics.by_shapes(given) and not metrics.is_accuracy(given)
    if isinstance(given, Mapping):
        return "class_name" not in given and any(map(_holds_crossentropy, given.values()))
    return isinstance(given, list) and any(map(_holds_crossentropy, given))


def _by_output(model: Trainer, compiled: Compiled, *, weighted: bool) -> list[Any]:
    """The metrics of each output, or of the only one, with names resolved by shapes."""

    def written(metric: Metric | ByShapes, index: int) -> Any:
        if isinstance(metric, ByShapes):
            if metrics.is_accuracy(metric.word):
                return metric.word
            metric = compiled.likely_metric(metric.word, index, model.output_specs[index].shape)
        return keras_object("keras.metrics", metric)

    listed = compiled.listed_metrics(weighted=weighted)
    found = [[written(metric, index) for metric in ones] for index, ones in enumerate(listed)]
    return found[0] if len(found) == 1 else found


def _named(key: str, value: Any, names: bool) -> Any:
    """Losses and metrics, as objects where Keras 3 doesn't resolve their names."""
    if isinstance(value, list):
        return [_named(key, item, names) for item in value]
    if isinstance(value, Mapping):
        return value if "class_name" in value else {name: _named(key, item, names) for name, item in value.items()}
    if key == "loss" and isinstance(value, str):
        known = value in losses.BY_SHAPES or (names and value not in _NAMES_OF_KERAS2["loss"])
        return value if known else serialized(losses.loss(value))
    if key in ("metrics", "weighted_metrics") and isinstance(value, str):
        known = metrics.by_shapes(value) or (names and value not in _NAMES_OF_KERAS2["metrics"])
        return value if known else serialized(metrics.metric(value))
    return value


def _with_module(module: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_module(module, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "class_name" not in value:
        return {key: _with_module(module, item) for key, item in value.items()}
    config = value.get("config")
    if isinstance(config, Mapping):
        # Objects in a config are schedules of the learning rate, and inner optimizers.
        inside = dict.fromkeys(("inner_optimizer", "optimizer_map", "default_optimizer"), "keras.optimizers")
        config = {k: _with_module(inside.get(k, "keras.optimizers.schedules"), item) for k, item in config.items()}
        if value["class_name"] == "MeanMetricWrapper" and isinstance(config.get("fn"), str):
            # Keras 3 doesn't resolve a plain name here.
            config["fn"] = {**_FUNCTION, "config": config["fn"]}
        config = without_later_defaults(value["class_name"], config)
    return {"module": module, "class_name": value["class_name"], "config": config, "registered_name": None}
