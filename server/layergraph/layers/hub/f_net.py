"""A block of FNet's encoder (keras_hub.layers.FNetEncoder)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import fraction, nonnegative, option, positive_int
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activation
from layergraph.layers.hub.composite import BlockLayer, checked_sequence


class FNetEncoder(BlockLayer):
    """Mixes tokens by a Fourier transform over timesteps and features instead of attention, followed by a feedforward
    part (Lee-Thorp et al., 2021; keras_hub.layers.FNetEncoder).

    Inputs and outputs have shape (rows, timesteps, features).
    """

    intermediate_dim: int = option(positive_int)
    dropout: float = option(fraction, default=0.0)
    activation: Activation = option(activation, default="relu")
    layer_norm_epsilon: float = option(nonnegative, default=1e-5)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")

    def build(self, inputs_shape: Any, *rest: Any) -> None:
        """Creates the sublayers. Raises GraphError for another rank."""
        shape = checked_sequence(self, inputs_shape)
        self.add_norm("mixing_layer_norm", shape)
        self.add_norm("output_layer_norm", shape)
        self.add_dense("intermediate_dense", self.intermediate_dim, self.activation, shape)
        self.add_dense("output_dense", shape[-1], None, (*shape[:-1], self.intermediate_dim))
        self.add_dropout("output_dropout", shape)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        mixed = torch.fft.fft2(inputs.to(torch.float32)).real.to(inputs.dtype)
        mixed = self.run(context, w, "_mixing_layer_norm", inputs + mixed)
        y = self.run(context, w, "_intermediate_dense", mixed)
        y = self.run(context, w, "_output_dense", y)
        y = self.run(context, w, "_output_dropout", y)
        made: torch.Tensor = self.run(context, w, "_output_layer_norm", mixed + y)
        return made


LAYERS: dict[str, type[Layer]] = {"FNetEncoder": FNetEncoder}
