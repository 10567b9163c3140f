"""The arguments of `compile` -> as Keras 3 writes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MODULES = {
    "optimizer": "keras.optimizers",
    "loss": "keras.losses",
    "metrics": "keras.metrics",
    "weighted_metrics": "keras.metrics",
}
_FUNCTION = {"module": "builtins", "class_name": "function", "registered_name": "function"}


def compile_object(config: Mapping[str, Any]) -> dict[str, Any]:
    """`compile_config` of `config.json`, from a model's serialised compile arguments."""
    result = {key: _with_module(module, config.get(key)) for key, module in _MODULES.items()}
    return {**result, "loss_weights": config.get("loss_weights")}


def _with_module(module: str, value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_module(module, item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "class_name" not in value:
        return {key: _with_module(module, item) for key, item in value.items()}
    config = value.get("config")
    if isinstance(config, Mapping):
        # Objects inside of others are schedules of the learning rate, and optimizers inside of optimizers.
        inside = dict.fromkeys(("inner_optimizer", "optimizer_map", "default_optimizer"), "keras.optimizers")
        config = {k: _with_module(inside.get(k, "keras.optimizers.schedules"), item) for k, item in config.items()}
        if value["class_name"] == "MeanMetricWrapper" and isinstance(config.get("fn"), str):
            # A name alone Keras 3 doesn't look up.
            config["fn"] = {**_FUNCTION, "config": config["fn"]}
    return {"module": module, "class_name": value["class_name"], "config": config, "registered_name": None}
