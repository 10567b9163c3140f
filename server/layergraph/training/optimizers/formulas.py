"""The optimizers with a formula, by Keras's names: those that others may be made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.config.options import Expected, resolve
from layergraph.training.optimizers.base_optimizer import BaseOptimizer
from layergraph.training.optimizers.elementwise import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    AdamW,
    Ftrl,
    Lion,
    Nadam,
    RMSprop,
    ScheduleFreeAdamW,
)
from layergraph.training.optimizers.legacy import LEGACY
from layergraph.training.optimizers.normed import Adafactor, Lamb, Muon
from layergraph.training.optimizers.optimizer import Optimizer, is_legacy

FORMULAS: Mapping[str, type[Optimizer]] = {
    known.__name__: known
    for known in (
        SGD,
        RMSprop,
        Adam,
        AdamW,
        Adamax,
        Nadam,
        Adagrad,
        Adadelta,
        Adafactor,
        Lion,
        Lamb,
        Ftrl,
        Muon,
        ScheduleFreeAdamW,
    )
}
#: Classes, in lower case, that consist of optimizers with a formula.
_COMPOSED = ("lossscaleoptimizer", "lossscaleoptimizerv3", "multioptimizer")


def aliases(names: Mapping[str, Any]) -> dict[str, str]:
    """Other spellings of names: Keras accepts lower case; Keras 2.15 writes "Custom>Adam" into H5 files."""
    return {**{name.lower(): name for name in names}, **{f"Custom>{name}": name for name in names}}


def resolved(value: Any, table: Mapping[str, type[BaseOptimizer]], others: Mapping[str, str]) -> BaseOptimizer:
    """The optimizer of a table for a name in any case, an optimizer, or a serialised form.

    A config of Keras 2's legacy optimizers gives one with the legacy formula. Raises ConfigError for unknown names.
    """
    if isinstance(value, str):
        value = others.get(value.lower(), value)
    config = value.get("config") if isinstance(value, Mapping) else None
    if isinstance(config, Mapping) and is_legacy(config):
        table = {**table, **LEGACY}
    return resolve("optimizer", value, table, others)


def formula(value: Any) -> Optimizer:
    """Validator: an optimizer with a formula, its name, or its serialised form."""
    name = value.get("class_name") if isinstance(value, Mapping) else value
    if isinstance(name, str) and name.lower().removeprefix("custom>") not in _COMPOSED:
        value = resolved(value, FORMULAS, aliases(FORMULAS))
    if not isinstance(value, Optimizer):
        raise Expected("an optimizer other than LossScaleOptimizer and MultiOptimizer")
    return value
