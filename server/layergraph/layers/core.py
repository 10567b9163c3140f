"""Core layers: Dense, Dropout, reshaping-free basics (keras.layers.core)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import boolean, option, positive_int
from layergraph.functional.layer import Layer
from layergraph.functional.run import Run
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation, activation
from layergraph.training.constraints import constraint
from layergraph.training.regularizers import regularizer


class Dense(Layer):
    """Densely connected layer: activation(x @ kernel + bias) over the last axis (keras.layers.Dense).

    Input (..., d), kernel (d, units), output (..., units).
    """

    units: int = option(positive_int)
    activation: Activation = option(activation, default=None)
    use_bias: bool = option(boolean, default=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    kernel_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    activity_regularizer: Any = option(regularizer, default=None)
    kernel_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)

    supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Creates kernel and bias."""
        self.add_weight(
            "kernel",
            (input_shape[-1], self.units),
            self.kernel_initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )
        if self.use_bias:
            self.add_weight(
                "bias",
                (self.units,),
                self.bias_initializer,
                regularizer=self.bias_regularizer,
                constraint=self.bias_constraint,
            )

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """Computes the outputs."""
        x = x.to(w.kernel.dtype)
        y = torch.nn.functional.linear(x, w.kernel.t(), w.bias if self.use_bias else None)
        return self.activation(y)


LAYERS: dict[str, type[Layer]] = {"Dense": Dense}
