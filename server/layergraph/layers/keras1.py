"""Layers that exist in Keras 1 only (keras.layers of 1.2: MaxoutDense, Highway, ParametricSoftplus, SReLU, Merge)."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import boolean, integer, number, one_or_list_of, option, optional, positive_int
from layergraph.constraints import constraint
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import Constant, Ones, Zeros, initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import PerElement, activate, activation, adopt_activation
from layergraph.layers.merging import Dot, Masks
from layergraph.regularizers import regularizer


class _Dense(Layer):
    """Options of the densely connected layers. Input (rows, features)."""

    use_bias: bool = option(boolean, default=True, kw_only=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform", kw_only=True)
    kernel_regularizer: Any = option(regularizer, default=None, kw_only=True)
    bias_regularizer: Any = option(regularizer, default=None, kw_only=True)
    kernel_constraint: Any = option(constraint, default=None, kw_only=True)
    bias_constraint: Any = option(constraint, default=None, kw_only=True)

    def features(self, shape: Any) -> int | None:
        """Returns the number of input features. Raises GraphError if the shape is not (rows, features)."""
        if len(shape) != 2:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got shape {shape}, expected (rows, features)"
            )
        length: int | None = shape[1]
        return length

    def add_kernel(self, *shape: int | None) -> None:
        """Creates the kernel from the kernel options."""
        self.add_weight_by_options("kernel", shape)

    def add_bias(self, *shape: int | None) -> None:
        """Creates the bias from the bias options."""
        self.add_weight_by_options("bias", shape, initializer=Zeros())


class MaxoutDense(_Dense):
    """Maximum of `nb_feature` linear layers, for each unit (Goodfellow et al., 2013).

    Kernel (nb_feature, features, units), bias (nb_feature, units), output (rows, units).
    """

    units: int = option(positive_int)
    nb_feature: int = option(positive_int, default=4)

    def build(self, input_shape: Any) -> None:
        self.add_kernel(self.nb_feature, self.features(input_shape), self.units)
        if self.use_bias:
            self.add_bias(self.nb_feature, self.units)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        y = torch.einsum("rf,nfu->rnu", x, w.kernel)
        return (y + w.bias if self.use_bias else y).amax(1)


class Highway(_Dense):
    """t * activation(x @ kernel + bias) + (1 - t) * x, with t = sigmoid(x @ carry_kernel + carry_bias)
    (Srivastava et al., 2015). Kernels (features, features), output of the input's shape.
    """

    activation: Activation = option(activation, default=None)

    def setup(self) -> None:
        adopt_activation(self, self.activation)

    def build(self, input_shape: Any) -> None:
        """Creates kernels and biases, in Keras's order."""
        features = self.features(input_shape)
        self.add_kernel(features, features)
        self.add_weight("carry_kernel", (features, features), self.kernel_initializer)
        if self.use_bias:
            self.add_bias(features)
            self.add_weight("carry_bias", (features,), Ones())

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        share = x @ w.carry_kernel
        y = x @ w.kernel
        if self.use_bias:
            share, y = share + w.carry_bias, y + w.bias
        share = torch.sigmoid(share)
        return activate(self.activation, context, w, y) * share + (1 - share) * x


class CosineMerge(Dot):
    """Cosine similarity of two inputs (rows, features); output (rows, 1, 1) (Merge with mode='cos')."""

    def merge(self, tensors: list[torch.Tensor], masks: Masks) -> torch.Tensor:
        """Computes the cosines. Raises GraphError unless both inputs are (rows, features)."""
        if any(tensor.ndim != 2 for tensor in tensors):
            raise GraphError(f"got shapes {[tuple(t.shape) for t in tensors]}, expected two of (rows, features)")
        first, second = tensors
        lengths = torch.sqrt(first.square().sum(1) * second.square().sum(1)).clamp(min=1e-7)
        return ((first * second).sum(1) / lengths)[:, None, None]


class ParametricSoftplus(PerElement):
    """alpha * softplus(beta * x), with trainable alpha and beta for each element."""

    alpha_init: float = option(number, default=0.2)
    beta_init: float = option(number, default=5.0)
    shared_axes: Any = option(optional(one_or_list_of(integer)), default=None)

    def build(self, input_shape: Any) -> None:
        shape = self.parameter_shape(input_shape)
        self.add_weight("alphas", shape, Constant(self.alpha_init))
        self.add_weight("betas", shape, Constant(self.beta_init))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        # torch's softplus returns x itself above a threshold, by default 20.
        y: torch.Tensor = w.alphas * functional.softplus(w.betas * x, threshold=50)
        return y


class SReLU(PerElement):
    """x between t_left and t_left + |t_right|, with slopes a_left below and a_right above (Jin et al., 2015)."""

    t_left_init: Any = option(initializer, default="zeros")
    a_left_init: Any = option(initializer, default="glorot_uniform")
    t_right_init: Any = option(initializer, default="glorot_uniform")
    a_right_init: Any = option(initializer, default="ones")
    shared_axes: Any = option(optional(one_or_list_of(integer)), default=None)

    def build(self, input_shape: Any) -> None:
        """Creates the thresholds and slopes, in Keras's order."""
        shape = self.parameter_shape(input_shape)
        for name in ("t_left", "a_left", "t_right", "a_right"):
            self.add_weight(name, shape, getattr(self, f"{name}_init"))

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        width = w.t_right.abs()
        above = x - w.t_left
        middle = torch.minimum(torch.relu(above), width)
        y: torch.Tensor = w.t_left + middle - w.a_left * torch.relu(-above) + w.a_right * torch.relu(above - width)
        return y


LAYERS: dict[str, type[Layer]] = {
    "CosineMerge": CosineMerge,
    "Highway": Highway,
    "MaxoutDense": MaxoutDense,
    "ParametricSoftplus": ParametricSoftplus,
    "SReLU": SReLU,
}
