"""Activation functions by name (keras.activations)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from layergraph.config.options import Expected

Activation: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def linear(x: torch.Tensor) -> torch.Tensor:
    """x."""
    return x


def relu(x: torch.Tensor) -> torch.Tensor:
    """max(x, 0)."""
    return torch.relu(x)


ACTIVATIONS = {"linear": linear, "relu": relu}


def activation(value: Any) -> Activation:
    """Validator: the name of an activation function."""
    if value is None:
        return linear
    if callable(value):
        return value
    if isinstance(value, str) and value in ACTIVATIONS:
        return ACTIVATIONS[value]
    raise Expected("the name of an activation function")
