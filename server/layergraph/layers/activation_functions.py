"""Activation functions by name (keras.activations)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch.nn import functional

#: A function of a tensor.
Function: TypeAlias = Callable[[torch.Tensor], torch.Tensor]
#: A function, or an activation layer such as LeakyReLU. Any for type checkers: the constructors of layers also accept a
#: name or Keras's serialised form, which `activation` resolves.
Activation: TypeAlias = Any


def linear(x: torch.Tensor) -> torch.Tensor:
    """Returns x."""
    return x


def relu(
    x: torch.Tensor, negative_slope: float = 0.0, max_value: float | None = None, threshold: float = 0.0
) -> torch.Tensor:
    """max_value above max_value, x from threshold up, negative_slope * (x - threshold) below."""
    if negative_slope and max_value is None and not threshold:
        return functional.leaky_relu(x, negative_slope)
    y = torch.where(x > threshold, x, 0) if threshold else torch.relu(x)
    if max_value is not None:
        y = y.clamp(0, max_value)
    return y - negative_slope * torch.relu(threshold - x) if negative_slope else y


def leaky_relu(x: torch.Tensor, negative_slope: float = 0.2) -> torch.Tensor:
    """x above zero, negative_slope * x below."""
    return functional.leaky_relu(x, negative_slope)


def relu6(x: torch.Tensor) -> torch.Tensor:
    """min(max(x, 0), 6)."""
    return functional.relu6(x)


def softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """exp(x) / sum exp(x) along `axis`."""
    return torch.softmax(x, axis)


def log_softmax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """log(softmax(x)) along `axis`."""
    return torch.log_softmax(x, axis)


def sparsemax(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """Euclidean projection of x onto the probability simplex (Martins and Astudillo, 2016)."""
    ordered = x.sort(dim=axis, descending=True).values
    total = ordered.cumsum(axis)
    rank_shape = [1] * x.ndim
    rank_shape[axis] = -1
    rank = torch.arange(1, x.shape[axis] + 1, device=x.device, dtype=x.dtype).view(rank_shape)
    support = ordered - (total - 1) / rank > 0
    # As in Keras: the sum of the support's cumulative sums, not of its values.
    excess = torch.where(support, total, 0).sum(axis, keepdim=True) - 1
    return (x - excess / support.sum(axis, keepdim=True)).clamp_min(0)


def celu(x: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """x above zero, alpha * (exp(x / alpha) - 1) below."""
    return functional.celu(x, alpha)


def elu(x: torch.Tensor, alpha: float = 1.0) -> torch.Tensor:
    """x above zero, alpha * (exp(x) - 1) below."""
    return functional.elu(x, alpha)


def selu(x: torch.Tensor) -> torch.Tensor:
    """1.0507 * elu(x, alpha=1.6733), which preserves mean and variance (Klambauer et al., 2017)."""
    return torch.selu(x)


def softplus(x: torch.Tensor) -> torch.Tensor:
    """log(exp(x) + 1)."""
    return functional.softplus(x)


def softsign(x: torch.Tensor) -> torch.Tensor:
    """x / (|x| + 1)."""
    return functional.softsign(x)


def soft_shrink(x: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """x moved towards zero by threshold; 0 where |x| <= threshold."""
    return functional.softshrink(x, threshold)


def hard_shrink(x: torch.Tensor, threshold: float = 0.5) -> torch.Tensor:
    """x where |x| > threshold, else 0."""
    return functional.hardshrink(x, threshold)


def squareplus(x: torch.Tensor, b: float = 4) -> torch.Tensor:
    """(x + sqrt(x^2 + b)) / 2."""
    return (x + (x.square() + b).sqrt()) / 2


def sparse_plus(x: torch.Tensor) -> torch.Tensor:
    """0 below -1, x above 1, (x + 1)^2 / 4 between."""
    return torch.where(x <= -1, 0, torch.where(x < 1, (x + 1).square() / 4, x))


def silu(x: torch.Tensor) -> torch.Tensor:
    """x * sigmoid(x), also called swish."""
    return functional.silu(x)


def hard_silu(x: torch.Tensor) -> torch.Tensor:
    """x * relu6(x + 3) / 6, also called hard_swish."""
    return functional.hardswish(x)


def gelu(x: torch.Tensor, approximate: bool = False) -> torch.Tensor:
    """x * P(X <= x) for a standard normal X; computed with tanh if `approximate`."""
    return functional.gelu(x, approximate="tanh" if approximate else "none")


def gelu_approximate(x: torch.Tensor) -> torch.Tensor:
    """gelu computed with tanh, which KerasHub has registered under this name."""
    return functional.gelu(x, approximate="tanh")


# As in files.
gelu_approximate.__name__ = "keras_hub>gelu_approximate"


def glu(x: torch.Tensor, axis: int = -1) -> torch.Tensor:
    """a * sigmoid(b), where a and b are the halves of x along `axis`."""
    return functional.glu(x, axis)


def tanh(x: torch.Tensor) -> torch.Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


def tanh_shrink(x: torch.Tensor) -> torch.Tensor:
    """x - tanh(x)."""
    return functional.tanhshrink(x)


def hard_tanh(x: torch.Tensor) -> torch.Tensor:
    """x clipped to [-1, 1]."""
    return functional.hardtanh(x)


def sigmoid(x: torch.Tensor) -> torch.Tensor:
    """1 / (1 + exp(-x))."""
    return torch.sigmoid(x)


def hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """relu6(x + 3) / 6, as in Keras 3."""
    return functional.hardsigmoid(x)


def keras2_hard_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """x / 5 + 1 / 2 clipped to [0, 1]: hard_sigmoid of Keras 1 and 2."""
    return (0.2 * x + 0.5).clamp(0, 1)


def log_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """log(sigmoid(x))."""
    return functional.logsigmoid(x)


def sparse_sigmoid(x: torch.Tensor) -> torch.Tensor:
    """(x + 1) / 2 clipped to [0, 1]."""
    return (0.5 * (x + 1)).clamp(0, 1)


def exponential(x: torch.Tensor) -> torch.Tensor:
    """exp(x)."""
    return torch.exp(x)


def mish(x: torch.Tensor) -> torch.Tensor:
    """x * tanh(softplus(x))."""
    return functional.mish(x)


FUNCTIONS: tuple[Function, ...] = (
    celu,
    elu,
    exponential,
    gelu,
    glu,
    hard_shrink,
    hard_sigmoid,
    hard_silu,
    hard_tanh,
    keras2_hard_sigmoid,
    leaky_relu,
    linear,
    log_sigmoid,
    log_softmax,
    mish,
    relu,
    relu6,
    selu,
    sigmoid,
    silu,
    soft_shrink,
    softmax,
    softplus,
    softsign,
    sparse_plus,
    sparse_sigmoid,
    sparsemax,
    squareplus,
    tanh,
    tanh_shrink,
)

#: Name -> function. Keras's `threshold` is left out: it requires arguments, so no config can name it.
ACTIVATIONS: Mapping[str, Function] = {
    **{function.__name__: function for function in FUNCTIONS},
    "swish": silu,
    "hard_swish": hard_silu,
}
