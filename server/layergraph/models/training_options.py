"""Options of layers that training alone needs: custom ones, whose code isn't in the file, don't hinder serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.config.values import TRAINING_OPTIONS
from layergraph.constraints import UnknownConstraint
from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer
from layergraph.initializers import ALIASES, INITIALIZERS
from layergraph.regularizers import UnknownRegularizer


def training_option(known: type[Layer], key: str, value: Any, *, has_weights: bool) -> Any:
    """Returns the value of an option of class `known`: an initializer with the options that it has here; for a file
    that has the weights' values, a custom initializer as the option's default, and a custom regularizer or constraint
    as an object that training refuses.
    """
    if not key.endswith(TRAINING_OPTIONS) or value is None:
        return value
    try:
        known.validated(key, value)
    except ConfigError:
        if not has_weights:
            return _without_unknown(value) or value
        if key.endswith("_regularizer"):
            return UnknownRegularizer(value)
        if key.endswith("_constraint"):
            return UnknownConstraint(value)
        return _fit(known, key, value)
    return value


def _fit(known: type[Layer], key: str, value: Any) -> Any:
    fit = _without_unknown(value)
    try:
        known.validated(key, fit)
    except ConfigError:
        return known._options[key].default
    return fit


def _without_unknown(value: Any) -> Any:
    """The serialised form of an initializer without options that it lacks; None if there is no such initializer."""
    if not isinstance(value, Mapping) or not isinstance(value.get("config"), Mapping):
        return None
    name = value.get("class_name")
    found = INITIALIZERS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if found is None:
        return None
    return {"class_name": name, "config": {k: v for k, v in value["config"].items() if k in found._options}}
