"""More elementwise functions (keras.ops.numpy, nn and math)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from layergraph.config.options import anything, boolean, integer, number, option
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.exporting import has_any
from layergraph.functional.weights import Weights
from layergraph.layers import activation_functions as activations
from layergraph.ops.operation import Binary, Operation, Typed, Unary, as_tensors, operation


def _floating(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_floating_point() else x.to(torch.float32)


def _of_floats(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: function(_floating(x))


def _of_wide_floats(function: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """Like `_of_floats`, but 64-bit integers are converted to float64, as Keras does for a few functions."""
    return lambda x: function(x.to(torch.float64) if x.dtype is torch.int64 else _floating(x))


def _of_two_floats(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def widened(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
        x1, x2 = torch.broadcast_tensors(_floating(x1), _floating(x2))  # type: ignore[no-untyped-call]
        return function(x1, x2)

    return widened


def _fmod(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    if not (x1.is_floating_point() or x2.is_floating_point()) and has_any(x2 == 0):
        raise DataError("integer division by zero")
    return torch.fmod(x1, x2)


def _cbrt(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(x) * torch.abs(x) ** (1 / 3)


def _without_nan(x1: torch.Tensor, x2: torch.Tensor) -> torch.Tensor:
    return torch.where(x2 == 0, torch.zeros_like(x2), x1 / torch.where(x2 == 0, torch.ones_like(x2), x2))


_UNARY: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "Angle": lambda x: torch.angle(x if x.is_complex() else _floating(x)),
    "BitwiseInvert": torch.bitwise_not,
    "BitwiseNot": torch.bitwise_not,
    "Cbrt": _of_wide_floats(_cbrt),
    "Conj": torch.conj_physical,
    "Conjugate": torch.conj_physical,
    "Deg2rad": _of_wide_floats(torch.deg2rad),
    "Erfc": _of_floats(torch.erfc),
    "Erfinv": _of_floats(torch.erfinv),
    "Exp2": _of_floats(torch.exp2),
    "Fabs": _of_floats(torch.abs),
    "I0": _of_wide_floats(torch.i0),
    "Isneginf": torch.isneginf,
    "Isposinf": torch.isposinf,
    "Isreal": torch.isreal,
    "Rad2deg": _of_wide_floats(torch.rad2deg),
    "Real": torch.real,
    "Signbit": torch.signbit,
    "Sinc": _of_floats(torch.sinc),
    "Trunc": lambda x: torch.trunc(x) if x.is_floating_point() else x,
}

_BINARY: Mapping[str, Callable[[Any, Any], torch.Tensor]] = {
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseLeftShift": torch.bitwise_left_shift,
    "BitwiseOr": torch.bitwise_or,
    "BitwiseRightShift": torch.bitwise_right_shift,
    "BitwiseXor": torch.bitwise_xor,
    "DivideNoNan": _of_two_floats(_without_nan),
    "Fmax": torch.fmax,
    "Fmin": torch.fmin,
    "Fmod": _fmod,
    "Gcd": torch.gcd,
    "Heaviside": _of_two_floats(torch.heaviside),
    "Hypot": _of_two_floats(torch.hypot),
    "Lcm": torch.lcm,
    "Ldexp": lambda x1, x2: torch.ldexp(_floating(x1), x2),
    "LeftShift": torch.bitwise_left_shift,
    "Logaddexp": _of_two_floats(torch.logaddexp),
    "Logaddexp2": _of_two_floats(torch.logaddexp2),
    "Nextafter": _of_two_floats(torch.nextafter),
    "RightShift": torch.bitwise_right_shift,
}

#: TensorFlow functions without an equivalent in Keras 3. The prefix keeps their names distinct from Keras's.
_TENSORFLOW: Mapping[str, Callable[[Any, Any], torch.Tensor]] = {
    "tf>SquaredDifference": lambda x1, x2: (x1 - x2).square(),
    "tf>Xdivy": lambda x1, x2: torch.where(x1 == 0, torch.zeros_like(x1 * x2), x1 / x2),
    "tf>Xlogy": torch.xlogy,
    "tf>TruncateDiv": lambda x1, x2: torch.div(x1, x2, rounding_mode="trunc"),
}

_MATH = frozenset({"Erfc", "Erfinv"})


class Round(Operation):
    """keras.ops.round: halves are rounded to even."""

    decimals: int = option(integer, default=0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():
            return torch.round(x, decimals=self.decimals)
        return torch.round(x.double(), decimals=self.decimals).to(x.dtype)


class NanToNum(Operation):
    """x with NaN and infinities replaced (keras.ops.nan_to_num)."""

    nan: float = option(number, default=0.0)
    posinf: Any = option(anything, default=None)
    neginf: Any = option(anything, default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.nan_to_num(x, self.nan, self.posinf, self.neginf) if x.is_floating_point() else x


class Isclose(Operation):
    """Whether elements are equal within the tolerances (keras.ops.isclose)."""

    equal_nan: bool = option(boolean, default=False)

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, x1: Any, x2: Any, rtol: float = 1e-5, atol: float = 1e-8
    ) -> torch.Tensor:
        a, b = as_tensors(x1, x2)
        dtype = torch.promote_types(a.dtype, b.dtype)
        return torch.isclose(a.to(dtype), b.to(dtype), rtol, atol, self.equal_nan)


class AllClose(Operation):
    """Whether all elements are equal within the tolerances (keras.ops.allclose)."""

    rtol: float = option(number, default=1e-5)
    atol: float = option(number, default=1e-8)
    equal_nan: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x1: Any, x2: Any) -> torch.Tensor:  # type: ignore[override]
        a, b = as_tensors(x1, x2)
        dtype = torch.promote_types(a.dtype, b.dtype)
        return torch.isclose(a.to(dtype), b.to(dtype), self.rtol, self.atol, self.equal_nan).all()


class FullLike(Typed):
    """The value, broadcast to the shape of x (keras.ops.full_like)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, fill_value: Any) -> torch.Tensor:  # type: ignore[override]
        like = self.converted(x.new_empty(()))
        value = fill_value if isinstance(fill_value, torch.Tensor) else torch.as_tensor(fill_value, device=x.device)
        return value.to(like.dtype).expand(x.shape)


class _Shrink(Operation):
    keras_module = "keras.src.ops.nn"

    threshold: float = option(number, default=0.5)


class SoftShrink(_Shrink):
    """x moved towards 0 by the threshold (keras.ops.soft_shrink)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.softshrink(x, self.threshold)


class HardShrink(_Shrink):
    """x where its absolute value is above the threshold, else 0 (keras.ops.hard_shrink)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.hardshrink(x, self.threshold)


class Threshold(Operation):
    """x where it is above the threshold, else the default value (keras.ops.threshold)."""

    keras_module = "keras.src.ops.nn"

    threshold: float = option(number)
    default_value: float = option(number)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        # Not where x is above it, as NaN stays NaN.
        return torch.where(x <= self.threshold, torch.as_tensor(self.default_value, dtype=x.dtype, device=x.device), x)


class Squareplus(Operation):
    """(x + sqrt(x^2 + b)) / 2 (keras.ops.squareplus)."""

    keras_module = "keras.src.ops.nn"

    b: float = option(number, default=4.0)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return (x + torch.sqrt(x.square() + self.b)) / 2


class _AlongAxis(Operation):
    keras_module = "keras.src.ops.nn"

    axis: int = option(integer, default=-1)


class Glu(_AlongAxis):
    """The first half times the sigmoid of the second (keras.ops.glu)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.glu(x, self.axis)


class Sparsemax(_AlongAxis):
    """The projection onto the simplex (keras.ops.sparsemax)."""

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        return activations.sparsemax(x.movedim(self.axis, -1)).movedim(-1, self.axis)


OPERATIONS: dict[str, type[Operation]] = {
    **{
        name: operation(Unary, name, "keras.src.ops.math" if name in _MATH else Operation.keras_module, function)
        for name, function in _UNARY.items()
    },
    **{name: operation(Binary, name, Operation.keras_module, function) for name, function in _BINARY.items()},
    **{name: operation(Binary, name, "layergraph.ops", function) for name, function in _TENSORFLOW.items()},
    "AllClose": AllClose,
    "FullLike": FullLike,
    "Glu": Glu,
    "HardShrink": HardShrink,
    "Isclose": Isclose,
    "NanToNum": NanToNum,
    "Round": Round,
    "SoftShrink": SoftShrink,
    "Sparsemax": Sparsemax,
    "Squareplus": Squareplus,
    "Threshold": Threshold,
}
