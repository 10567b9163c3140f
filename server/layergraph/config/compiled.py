"""The arguments of `compile`, from files of any generation."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from layergraph.config.diagnostics import Diagnostics
from layergraph.config.keras_versions import Generation
from layergraph.config.values import ValueReader

KEYS = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
#: Arguments by which Keras's own `compile` is known.
_OF_KERAS = frozenset({"loss", "metrics", "run_eagerly"})
#: Functions that aren't also names of metrics. A `.h5` stores functions by name.
_ONLY_LOSSES = frozenset(
    {
        "binary_focal_crossentropy",
        "categorical_focal_crossentropy",
        "categorical_generalized_cross_entropy",
        "circle",
        "dice",
        "huber",
        "log_cosh",
        "tversky",
    }
)
_BY_SHAPES = ("accuracy", "acc", "crossentropy", "ce")
_WRAPPERS = ("MeanMetricWrapper", "LossFunctionWrapper")


def compile_config(
    raw: Mapping[str, Any],
    generation: Generation,
    output_names: Sequence[str],
    problems: Diagnostics,
    functions: Container[str] = (),
) -> dict[str, Any] | None:
    """Returns the arguments of `compile` in serialised form: names, {"class_name", "config"}, and lists and dicts of
    these.

    None if the file has only the arguments of a `compile` that the model's author overrode. Custom losses, metrics and
    optimizers are added to `problems`, except those in `functions`, the names of registered functions.

    Keras 3 writes no optimizer into the `.keras` of a model that it has saved as an `.h5` before, and opens it with the
    default one; here, too, the optimizer is then None.
    """
    given: dict[str, Any] = dict(raw)
    if "optimizer_config" in given:
        given["optimizer"] = given.pop("optimizer_config")
    if "optimizer" not in given and not given.keys() >= _OF_KERAS:
        return None
    if generation.major != 3:
        given["optimizer"] = _with_scale(given.get("optimizer"))
    values = ValueReader(generation, problems, functions, lambda value, owner: None)
    for key in ("metrics", "weighted_metrics"):
        given[key] = _functions_wrapped(given.get(key))
    result = {key: values.value(f"compile argument '{key}'", given.get(key)) for key in KEYS}
    for key in ("metrics", "weighted_metrics"):
        result[key] = _of_one_output(_unwrapped(result[key], output_names), output_names)
        if generation.major != 3:
            result[key] = _of_all_outputs(_without_prefixes(result[key], output_names), output_names)
    if generation.major != 3:
        result["loss_weights"] = _as_the_losses(result["loss_weights"], result["loss"], output_names)
    optimizer = result["optimizer"]
    if isinstance(optimizer, dict) and generation.major != 3:
        # Keras 2.11 registers its new optimizers like custom ones.
        optimizer["class_name"] = str(optimizer.get("class_name")).removeprefix("Custom>").removeprefix("Addons>")
    return result


def names_optimizer(raw: Mapping[str, Any]) -> bool:
    """Whether arguments of `compile` in a file have an optimizer, whose state the file may hold."""
    return "optimizer" in raw or "optimizer_config" in raw


def _with_scale(optimizer: Any) -> Any:
    """Returns the LossScaleOptimizer of TensorFlow 2.1 to 2.3 in the form of later releases; others unchanged."""
    config = optimizer.get("config") if isinstance(optimizer, dict) else None
    scale = config.get("loss_scale") if isinstance(config, dict) else None
    details = scale.get("config") if isinstance(scale, dict) else None
    if not isinstance(config, dict) or not isinstance(scale, dict) or not isinstance(details, dict):
        return optimizer
    if scale.get("class_name") == "FixedLossScale":
        later = {"dynamic": False, "initial_scale": details.get("loss_scale_value")}
    elif scale.get("class_name") == "DynamicLossScale" and details.get("multiplier", 2.0) == 2.0:
        growth, initial = details.get("increment_period"), details.get("initial_loss_scale")
        later = {"dynamic": True, "initial_scale": initial, "dynamic_growth_steps": growth}
    else:
        return optimizer
    kept = {key: value for key, value in config.items() if key not in ("optimizer", "loss_scale")}
    return {**optimizer, "config": {**kept, "inner_optimizer": config.get("optimizer"), **later}}


def _functions_wrapped(metrics: Any) -> Any:
    """Wraps functions in the class that Keras makes of them, since plain names mean metric classes."""
    if isinstance(metrics, list):
        return [_functions_wrapped(metric) for metric in metrics]
    if isinstance(metrics, str) and metrics in _ONLY_LOSSES:
        return {"class_name": "MeanMetricWrapper", "config": {"name": metrics, "fn": metrics}}
    if not isinstance(metrics, dict):
        return metrics
    if "class_name" not in metrics:
        return {key: _functions_wrapped(metric) for key, metric in metrics.items()}
    config = metrics.get("config")
    if metrics["class_name"] == "function" and isinstance(config, str):
        return {"class_name": "MeanMetricWrapper", "config": {"name": config, "fn": metrics}}
    wrapped = config if metrics["class_name"] == "MeanMetricWrapper" and isinstance(config, dict) else {}
    if wrapped.get("fn") == "cosine_similarity":
        # The function in Keras 2's metrics, which isn't the one in its losses.
        return {"class_name": "CosineSimilarity", "config": {k: v for k, v in wrapped.items() if k != "fn"}}
    return metrics


def _of_one_output(metrics: Any, output_names: Sequence[str]) -> Any:
    """Keras 2 writes a list per output, even for a single output."""
    nested = isinstance(metrics, list) and len(metrics) == len(output_names) == 1 and isinstance(metrics[0], list)
    return metrics[0] if nested else metrics


def _of_all_outputs(metrics: Any, output_names: Sequence[str]) -> Any:
    """Keras 2 applies each metric of a flat list to all outputs; Keras 3 pairs them if their numbers are equal."""
    if not isinstance(metrics, list) or not 1 < len(metrics) == len(output_names):
        return metrics
    flat = not any(isinstance(metric, list) or metric is None for metric in metrics)
    return [list(metrics) for _ in output_names] if flat else metrics


def _as_the_losses(weights: Any, losses: Any, output_names: Sequence[str]) -> Any:
    """Keras 2 pairs a dict with a list by output name, Keras 3 by the order of sorted names."""
    if isinstance(weights, dict) and isinstance(losses, list) and set(weights) <= set(output_names):
        return [weights.get(name) for name in output_names]
    return weights


def _unwrapped(metrics: Any, output_names: Sequence[str]) -> Any:
    """Restores names that Keras resolves by shapes, from Keras 2's `.h5`: {"name": "output_accuracy", "fn": ...}.

    Other metrics stay wrapped: the wrapper has the name used in the logs.
    """
    if isinstance(metrics, list):
        return [_unwrapped(metric, output_names) for metric in metrics]
    if not isinstance(metrics, dict):
        return metrics
    if metrics.get("class_name") not in _WRAPPERS:
        return {key: _unwrapped(value, output_names) for key, value in metrics.items()} if _plain(metrics) else metrics
    config = metrics.get("config", {})
    name, function = config.get("name"), config.get("fn")
    if not isinstance(function, str) or not isinstance(name, str):
        return metrics
    for output in output_names:
        name = name.removeprefix(f"{output}_")
    return name if name.lower() in _BY_SHAPES else metrics


def _plain(value: Mapping[str, Any]) -> bool:
    return "class_name" not in value


def _without_prefixes(given: Any, names: Sequence[str]) -> Any:
    """Removes the output's name that Keras 2 puts before a metric's when it first computes several outputs.

    It does so again for metrics loaded from its own `.keras` files.
    """
    if len(names) < 2:
        return given
    if isinstance(given, dict) and _plain(given):
        return {name: _without_prefix(item, name) for name, item in given.items()}
    if isinstance(given, list) and len(given) == len(names):
        return [_without_prefix(item, name) for item, name in zip(given, names, strict=True)]
    return given


def _without_prefix(given: Any, output: str) -> Any:
    if isinstance(given, list):
        return [_without_prefix(item, output) for item in given]
    if not isinstance(given, dict) or not isinstance(given.get("config"), dict):
        return given
    config = given["config"]
    name = config.get("name")
    if not isinstance(name, str):
        return given
    return {**given, "config": {**config, "name": name.removeprefix(f"{output}_")}}
