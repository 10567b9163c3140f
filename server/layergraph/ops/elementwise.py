"""Elementwise operations: arithmetic, comparisons, logic, functions (keras.ops.numpy and keras.ops.nn)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from layergraph.config.options import anything, boolean, integer, number, option, optional
from layergraph.errors import ConfigError, DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import has_any
from layergraph.functional.invocation import constant
from layergraph.functional.logits import ANY, EXPECTED, keep_logits
from layergraph.functional.weights import Weights
from layergraph.layers import activation_functions as activations
from layergraph.ops.operation import Binary, Operation, Typed, Unary, as_tensors, operation, unknown_length


def _floating(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function on floating-point numbers; as in Keras, integers are converted to float32."""
    return lambda x: function(x if x.is_floating_point() else x.to(torch.float32))


def _by_nonzero(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A division. Raises DataError for a division of integers by zero."""

    def divided(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        integers = not (x1.is_floating_point() or x2.is_floating_point())
        if integers and has_any(x2 == 0):
            raise DataError("integer division by zero")
        return function(x1, x2)

    return divided


def _truth(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.bool)


def _absolute(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype is torch.bool else torch.abs(x)


def _hard_tanh(x: torch.Tensor) -> torch.Tensor:
    return x if x.dtype is torch.bool else activations.hard_tanh(x)


def _square(x: torch.Tensor) -> torch.Tensor:
    return torch.square(x.to(torch.int32) if x.dtype is torch.bool else x)


def _subtracted(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    x1 = x1.to(x2.dtype) if x1.dtype is torch.bool else x1
    return torch.sub(x1, x2.to(x1.dtype) if x2.dtype is torch.bool else x2)


def _modulus(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    if x1.dtype is x2.dtype is torch.bool:
        x1, x2 = x1.to(torch.int32), x2.to(torch.int32)
    return torch.remainder(x1, x2)


#: Functions of floating-point numbers.
_FLOATING: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Arccos": torch.arccos,
    "Arccosh": torch.arccosh,
    "Arcsin": torch.arcsin,
    "Arcsinh": torch.arcsinh,
    "Arctan": torch.arctan,
    "Arctanh": torch.arctanh,
    "Ceil": torch.ceil,
    "Cos": torch.cos,
    "Cosh": torch.cosh,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expm1": torch.expm1,
    "Floor": torch.floor,
    "HardSigmoid": activations.hard_sigmoid,
    "HardSilu": activations.hard_silu,
    "Log": torch.log,
    "Log10": torch.log10,
    "Log1p": torch.log1p,
    "Log2": torch.log2,
    "LogSigmoid": activations.log_sigmoid,
    "Mish": activations.mish,
    "Reciprocal": torch.reciprocal,
    "Rsqrt": torch.rsqrt,
    "Selu": activations.selu,
    "Sigmoid": activations.sigmoid,
    "Silu": activations.silu,
    "Sin": torch.sin,
    "Sinh": torch.sinh,
    "Softplus": activations.softplus,
    "Softsign": activations.softsign,
    "SparsePlus": activations.sparse_plus,
    "SparseSigmoid": activations.sparse_sigmoid,
    "Sqrt": torch.sqrt,
    "Tan": torch.tan,
    "Tanh": torch.tanh,
    "TanhShrink": activations.tanh_shrink,
}

_UNARY: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Relu": torch.relu,
    "Relu6": activations.relu6,
    "Abs": _absolute,
    "Absolute": _absolute,
    "HardTanh": _hard_tanh,
    "Negative": torch.neg,
    "Sign": torch.sign,
    "Square": _square,
    "LogicalNot": torch.logical_not,
    "Isfinite": torch.isfinite,
    "Isinf": torch.isinf,
    "Isnan": torch.isnan,
    "Copy": torch.clone,
    "StopGradient": torch.detach,
    **{name: _floating(function) for name, function in _FLOATING.items()},
}

#: Keras's modules of operations that aren't in keras.src.ops.numpy.
_MODULES: Mapping[str, frozenset[str]] = {
    "keras.src.ops.core": frozenset({"StopGradient"}),
    "keras.src.ops.math": frozenset({"Erf", "Rsqrt"}),
    "keras.src.ops.nn": frozenset(
        {
            "HardSigmoid",
            "HardSilu",
            "HardTanh",
            "LogSigmoid",
            "Relu",
            "Relu6",
            "Selu",
            "Sigmoid",
            "Silu",
            "Softplus",
            "Softsign",
            "SparsePlus",
            "SparseSigmoid",
            "TanhShrink",
        }
    ),
    "keras.src.activations.activations": frozenset({"Mish"}),
}


def _module(name: str) -> str:
    return next((module for module, names in _MODULES.items() if name in names), Operation.keras_module)


_BINARY: Mapping[str, Callable[[Any, Any], torch.Tensor]] = {
    "Add": torch.add,
    "Arctan2": torch.arctan2,
    "Divide": torch.true_divide,
    "Equal": torch.eq,
    "FloorDivide": _by_nonzero(torch.floor_divide),
    "Greater": torch.gt,
    "GreaterEqual": torch.ge,
    "Less": torch.lt,
    "LessEqual": torch.le,
    "LogicalAnd": lambda x1, x2: torch.logical_and(_truth(x1), _truth(x2)),
    "LogicalOr": lambda x1, x2: torch.logical_or(_truth(x1), _truth(x2)),
    "LogicalXor": lambda x1, x2: torch.logical_xor(_truth(x1), _truth(x2)),
    "Maximum": torch.maximum,
    "Minimum": torch.minimum,
    "Mod": _by_nonzero(_modulus),
    "Multiply": torch.mul,
    "NotEqual": torch.ne,
    "Power": torch.pow,
    "Subtract": _subtracted,
    "TrueDivide": torch.true_divide,
}


class Cast(Typed):
    """x in another dtype (keras.ops.cast)."""

    computes_values = True

    keras_module = "keras.src.ops.core"

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return self.converted(x)


class Array(Cast):
    """x, in another dtype if the option is set (keras.ops.array)."""

    keras_module = Operation.keras_module


class ConvertToTensor(Cast):
    """x, in another dtype if the option is set, as a dense tensor (keras.ops.convert_to_tensor)."""

    keras_module = "keras.src.ops.core"

    sparse: Any = option(optional(boolean), default=None)
    ragged: Any = option(optional(boolean), default=None)

    def setup(self) -> None:
        """Raises ConfigError for a sparse or ragged tensor."""
        if self.sparse or self.ragged:
            raise ConfigError("ConvertToTensor: sparse and ragged tensors are not supported, expected dense ones")


class SaturateCast(Typed):
    """x in another dtype, clipped to its range (keras.ops.saturate_cast)."""

    keras_module = "keras.src.ops.core"

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        wanted = torch_dtype(self.element_type or "float32")
        if wanted is torch.bool:
            return x.clamp(0, 1).to(wanted)
        given, limits = (
            torch.finfo(dtype) if dtype.is_floating_point else torch.iinfo(dtype)
            for dtype in (torch.uint8 if x.dtype is torch.bool else x.dtype, wanted)
        )
        lowest, highest = max(given.min, limits.min), min(given.max, limits.max)
        if x.is_floating_point() and not wanted.is_floating_point:
            # The largest integer may not be representable in x's dtype: use the largest representable number below.
            digits = 1 - math.frexp(torch.finfo(x.dtype).eps)[1] + 1
            rest = max(0, int(highest).bit_length() - digits)
            highest = float(int(highest) >> rest << rest)
        return x.clamp(lowest, highest).to(wanted)


class View(Typed):
    """The bits of x reinterpreted in another dtype (keras.ops.view)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return x if self.element_type is None else x.contiguous().view(torch_dtype(self.element_type))


class ZerosLike(Typed):
    """Zeros with the shape of x (keras.ops.zeros_like)."""

    computes_values = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(self.converted(x.new_empty(()))).expand(x.shape)


class EmptyLike(ZerosLike):
    """An array with the shape of x and unspecified values (keras.ops.empty_like)."""


class OnesLike(Typed):
    """Ones with the shape of x (keras.ops.ones_like)."""

    computes_values = True

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.ones_like(self.converted(x.new_empty(()))).expand(x.shape)


class Clip(Operation):
    """x clipped to a range (keras.ops.clip)."""

    x_min: Any = option(anything)
    x_max: Any = option(anything)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        x = x.to(torch.int32) if x.dtype is torch.bool else x
        low, high = (
            torch.as_tensor(bound, device=x.device) if isinstance(bound, (list, tuple, np.ndarray)) else bound
            for bound in (self.x_min, self.x_max)
        )
        if isinstance(low, torch.Tensor) or isinstance(high, torch.Tensor):
            low, high = (torch.as_tensor(bound, device=x.device) for bound in (low, high))
        return torch.clamp(x, low, high)


class Where(Operation):
    """x1 where the condition is true, else x2 (keras.ops.where).

    For a condition alone, the indices where it is true: (axes, count).
    """

    computes_values = True

    def forward(
        self, context: CallContext, w: Weights, condition: torch.Tensor, x1: Any = None, x2: Any = None
    ) -> torch.Tensor:
        if x1 is not None and x2 is not None:
            if not (isinstance(x1, torch.Tensor) or isinstance(x2, torch.Tensor)):
                x1, x2 = (constant(x, condition.device) for x in (x1, x2))
            return torch.where(condition.to(torch.bool), *as_tensors(x1, x2))
        if condition.is_meta:
            return condition.new_empty((condition.ndim, unknown_length(context)), dtype=torch.int64)
        return torch.nonzero(condition).T


class ReLU(Operation):
    """x rectified, with Keras's arguments (keras.activations.relu)."""

    keras_module = "keras.src.activations.activations"

    negative_slope: float = option(number, default=0.0)
    max_value: float | None = option(optional(number), default=None)
    threshold: float = option(number, default=0.0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activations.relu(x, self.negative_slope, self.max_value, self.threshold)


class LeakyRelu(Operation):
    """The rectified x (keras.ops.leaky_relu)."""

    keras_module = "keras.src.ops.nn"

    negative_slope: float = option(number, default=0.2)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activations.leaky_relu(x, self.negative_slope)


class Elu(Operation):
    """The rectified x (keras.ops.elu)."""

    keras_module = "keras.src.ops.nn"

    alpha: float = option(number, default=1.0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activations.elu(x, self.alpha)


class Celu(Elu):
    """The rectified x (keras.ops.celu)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activations.celu(x, self.alpha)


class Gelu(Operation):
    """The activation of x (keras.ops.gelu)."""

    keras_module = "keras.src.ops.nn"

    approximate: bool = option(boolean, default=True)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activations.gelu(x, self.approximate)


def _found(taken_by: str) -> str:
    """Which crossentropies find an operation: those that expect it."""
    return EXPECTED if taken_by == ANY else taken_by


class Softmax(Operation):
    """keras.ops.softmax; over all elements if the axis is None."""

    keras_module = "keras.src.ops.nn"

    axis: int | None = option(optional(integer), default=-1)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        if self.axis is None:
            return activations.softmax(x.reshape(-1)).reshape(x.shape)
        y = x.softmax(self.axis)
        if context.keeps_logits and self.axis in (-1, x.ndim - 1):
            # Keras 2 finds TensorFlow's own operation, which computes along the last axis.
            keep_logits(y, x, "softmax", _found(context.keeps_logits))
        return y


class Sigmoid(Unary):
    """The sigmoid of x (keras.ops.sigmoid)."""

    function = _UNARY["Sigmoid"]
    keras_module = "keras.src.ops.nn"

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(context, w, x)
        return keep_logits(y, x, "sigmoid", _found(context.keeps_logits)) if context.keeps_logits else y


class LogSoftmax(Softmax):
    """The logarithm of the softmax of x (keras.ops.log_softmax)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        flat = self.axis is None
        return x.reshape(-1).log_softmax(0).reshape(x.shape) if flat else x.log_softmax(self.axis or 0)


OPERATIONS: dict[str, type[Operation]] = {
    **{name: operation(Unary, name, _module(name), function) for name, function in _UNARY.items()},
    **{name: operation(Binary, name, _module(name), function) for name, function in _BINARY.items()},
    "Array": Array,
    "Sigmoid": Sigmoid,
    "Cast": Cast,
    "ConvertToTensor": ConvertToTensor,
    "Celu": Celu,
    "Clip": Clip,
    "Elu": Elu,
    "EmptyLike": EmptyLike,
    "Gelu": Gelu,
    "LeakyRelu": LeakyRelu,
    "LogSoftmax": LogSoftmax,
    "OnesLike": OnesLike,
    "ReLU": ReLU,
    "SaturateCast": SaturateCast,
    "Softmax": Softmax,
    "View": View,
    "Where": Where,
    "ZerosLike": ZerosLike,
}
