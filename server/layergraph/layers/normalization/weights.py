"""Scale and shift after a normalization, and the dtype of its computation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layergraph.config.options import option
from layergraph.constraints import constraint
from layergraph.errors import GraphError
from layergraph.functional.layer import Layer
from layergraph.initializers import initializer
from layergraph.regularizers import regularizer


def axis_length(layer: Layer, shape: Any, axis: int) -> int:
    """Returns the length of an input's axis. Raises GraphError if the axis doesn't exist or its length is unknown."""
    if not -len(shape) <= axis < len(shape) or shape[axis] is None:
        raise GraphError(
            f"layer '{layer.name}' ({type(layer).__name__}): axis is {axis}, expected one of known length in {shape}"
        )
    return int(shape[axis])


class AffineLayer(Layer):
    """A layer with weights gamma (scale) and beta (shift)."""

    beta_initializer: Any = option(initializer, default="zeros")
    gamma_initializer: Any = option(initializer, default="ones")
    beta_regularizer: Any = option(regularizer, default=None)
    gamma_regularizer: Any = option(regularizer, default=None)
    beta_constraint: Any = option(constraint, default=None)
    gamma_constraint: Any = option(constraint, default=None)

    def add_affine(self, shape: Sequence[int], *, gamma: bool, beta: bool) -> None:
        """Creates gamma and beta if requested; neither is cast to the layer's compute dtype."""
        if gamma:
            self.add_weight_by_options("gamma", shape, autocast=False)
        if beta:
            self.add_weight_by_options("beta", shape, autocast=False)
