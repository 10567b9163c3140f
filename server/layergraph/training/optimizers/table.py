"""Table of the optimizers by Keras's names. Their formulas are Keras's, which differ from torch's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.formulas import FORMULAS, aliases, resolved
from layergraph.training.optimizers.legacy import LEGACY, NOT_LEGACY
from layergraph.training.optimizers.loss_scale import LossScaleOptimizer, fixed_scale
from layergraph.training.optimizers.multi_optimizer import MultiOptimizer
from layergraph.training.optimizers.optimizer import is_legacy

OPTIMIZERS: Mapping[str, type[BaseOptimizer]] = {
    **FORMULAS,
    "LossScaleOptimizer": LossScaleOptimizer,
    "MultiOptimizer": MultiOptimizer,
}
ALIASES: Mapping[str, str] = {**aliases(OPTIMIZERS), "LossScaleOptimizerV3": "LossScaleOptimizer"}


def optimizer(value: Any, *, legacy: bool = False) -> BaseOptimizer:
    """Returns the optimizer for a name in any case, an optimizer, or a serialised form (keras.optimizers.get).

    Configs of Keras 2's legacy optimizers give optimizers with the legacy formulas; with `legacy`, names and configs
    without options of the newer ones do so, too. Raises ConfigError for unknown names.
    """
    if isinstance(value, str):
        value = ALIASES.get(value.lower(), value)
    if legacy:
        value = _legacy_form(value)
    config = value.get("config") if isinstance(value, Mapping) else None
    if isinstance(config, Mapping) and config.get("dynamic") is False and not is_legacy(config):
        return fixed_scale(config)
    return resolved(value, OPTIMIZERS, ALIASES)


def _legacy_form(value: Any) -> Any:
    """A name or config of an optimizer as the config of the legacy one, if there is one with these options."""
    kind, config = (value.get("class_name"), value.get("config")) if isinstance(value, Mapping) else (value, {})
    if not isinstance(kind, str) or not isinstance(config, Mapping):
        return value
    kind = ALIASES.get(kind, kind)
    given = {name: item for name, item in config.items() if item is not None or name not in NOT_LEGACY}
    if kind not in LEGACY or not given.keys().isdisjoint((*NOT_LEGACY, "is_legacy_optimizer")):
        return value
    return {"class_name": kind, "config": given if kind == "Nadam" else {"decay": 0.0, **given}}
