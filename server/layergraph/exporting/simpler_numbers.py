"""Functions of numbers in terms of simpler ones (see `simpler`). Formulas are torch's own documentation's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch


def _remainder(x: Any, y: Any) -> torch.Tensor:
    """Exact, as torch's kernel: dividing and rounding gives 0 for the remainder of 6 and 0.1."""
    x, y = _of_common_type(x, y)
    if not x.is_floating_point():
        return torch.remainder(x, y)
    left = torch.fmod(x, y)
    return torch.where((left != 0) & ((left < 0) != (y < 0)), left + y, left)


def _floor_divide(x: Any, y: Any) -> torch.Tensor:
    """From the exact remainder, as torch's kernel."""
    x, y = _of_common_type(x, y)
    if not x.is_floating_point():
        return torch.div(x, y, rounding_mode="floor")
    left = torch.fmod(x, y)
    quotient = (x - left) / y
    quotient = torch.where((left != 0) & ((left < 0) != (y < 0)), quotient - 1, quotient)
    below = torch.floor(quotient)
    found = torch.where(quotient - below > 0.5, below + 1, below)
    return torch.where(y == 0, x / y, found)


def _of_common_type(x: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    wide = torch.result_type(x, y)
    return torch.as_tensor(x).to(wide), torch.as_tensor(y).to(wide)


def _of_one_type(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of two tensors of the result's type: torch's exporter gives a tensor without axes as much weight as any other."""

    def computed(x: Any, y: Any, **named: Any) -> torch.Tensor:
        if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor) and x.dtype != y.dtype:
            x, y = _of_common_type(x, y)
        return function(x, y, **named)

    return computed


def _where(condition: torch.Tensor, x: Any, y: Any) -> torch.Tensor:
    return _of_one_type(lambda x, y: torch.where(condition, x, y))(x, y)


def _arctan2(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    y, x = (one if one.is_floating_point() else one.to(torch.float32) for one in _of_common_type(y, x))
    return torch.arctan2(y, x)


def _round(x: torch.Tensor, *, decimals: int = 0) -> torch.Tensor:
    """Divided by the power of ten, as torch's kernel: products with its inverse are rounded."""
    power = 10.0 ** abs(decimals)
    if not decimals or not x.is_floating_point():
        return torch.round(x)
    return torch.round(x * power) / power if decimals > 0 else torch.round(x / power) * power


def _isclose(
    x: torch.Tensor, y: torch.Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> torch.Tensor:
    if not x.is_floating_point():
        x, y = x.to(torch.float64), y.to(torch.float64)
    near = ((x - y).abs() <= atol + rtol * y.abs()) & y.isfinite()
    near = near | (x == y)
    return near | (x.isnan() & y.isnan()) if equal_nan else near


def _logaddexp(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    largest, off = torch.maximum(x, y), (x - y).abs()
    # Equal infinities have no difference.
    return torch.where(off.isfinite(), largest + torch.log1p(torch.exp(-off)), largest)


def _logaddexp2(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return _logaddexp(x * math.log(2), y * math.log(2)) / math.log(2)


def _fmax(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = _of_common_type(x, y)
    larger = torch.maximum(x, y)
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, larger)) if larger.is_floating_point() else larger


def _fmin(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x, y = _of_common_type(x, y)
    smaller = torch.minimum(x, y)
    return torch.where(x.isnan(), y, torch.where(y.isnan(), x, smaller)) if smaller.is_floating_point() else smaller


def _hypot(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    large, small = torch.maximum(x.abs(), y.abs()), torch.minimum(x.abs(), y.abs())
    ratio = small / torch.where(large == 0, torch.ones_like(large), large)
    infinite = x.isinf() | y.isinf()
    return torch.where(infinite, torch.full_like(large, math.inf), large * torch.sqrt(1 + ratio * ratio))


def _trunc(x: torch.Tensor) -> torch.Tensor:
    return torch.sign(x) * torch.floor(x.abs()) if x.is_floating_point() else x


def _sinc(x: torch.Tensor) -> torch.Tensor:
    angle = math.pi * x
    return torch.where(x == 0, torch.ones_like(x), torch.sin(angle) / torch.where(x == 0, torch.ones_like(x), angle))


def _expm1(x: torch.Tensor) -> torch.Tensor:
    """2 tanh(x/2) / (1 - tanh(x/2)) near 0, where exp(x) - 1 cancels."""
    half = torch.tanh(x / 2)
    return torch.where(x.abs() < 1, 2 * half / (1 - half), torch.exp(x) - 1)


def _sinh(x: torch.Tensor) -> torch.Tensor:
    return (_expm1(x) - _expm1(-x)) / 2


def _clamp(x: torch.Tensor, min: Any = None, max: Any = None) -> torch.Tensor:
    """With the type of integers and fractions, which ONNX doesn't find itself."""
    for bound in (min, max):
        x = x if bound is None or isinstance(bound, torch.Tensor) else x.to(torch.result_type(x, bound))
    return torch.clamp(x, min, max)


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *rest: Any, **named: Any) -> torch.Tensor:
    """In float32 for bfloat16, which torch's exporter takes for complex numbers."""
    attention = torch.nn.functional.scaled_dot_product_attention
    if query.dtype != torch.bfloat16:
        return attention(query, key, value, *rest, **named)

    def wide(one: Any) -> Any:
        return one.float() if isinstance(one, torch.Tensor) and one.dtype == torch.bfloat16 else one

    rest, named = tuple(map(wide, rest)), {name: wide(one) for name, one in named.items()}
    return attention(wide(query), wide(key), wide(value), *rest, **named).to(query.dtype)


NUMBERS: Mapping[Any, Callable[..., Any]] = {
    **{one: _of_one_type(one) for one in (torch.add, torch.maximum, torch.minimum, torch.mul, torch.pow)},
    torch.arctan2: _arctan2,
    torch.where: _where,
    torch.clamp: _clamp,
    torch.cosh: lambda x: (torch.exp(x) + torch.exp(-x)) / 2,
    torch.deg2rad: lambda x: x * (math.pi / 180),
    torch.exp2: lambda x: torch.exp(x * math.log(2)),
    torch.expm1: _expm1,
    torch.floor_divide: _floor_divide,
    torch.fmax: _fmax,
    torch.fmin: _fmin,
    torch.heaviside: lambda x, values: torch.where(x == 0, values.to(x.dtype), (x > 0).to(x.dtype)),
    torch.hypot: _hypot,
    torch.isclose: _isclose,
    torch.isneginf: lambda x: x == -math.inf,
    torch.isposinf: lambda x: x == math.inf,
    torch.logaddexp2: _logaddexp2,
    torch.logaddexp: _logaddexp,
    torch.nn.functional.scaled_dot_product_attention: _attention,
    torch.rad2deg: lambda x: x * (180 / math.pi),
    torch.remainder: _remainder,
    torch.round: _round,
    torch.sinc: _sinc,
    torch.sinh: _sinh,
    torch.Tensor.__floordiv__: _floor_divide,
    torch.Tensor.__mod__: _remainder,
    torch.Tensor.clamp: _clamp,
    torch.Tensor.floor_divide: _floor_divide,
    torch.Tensor.remainder: _remainder,
    torch.trunc: _trunc,
    torch.xlogy: lambda x, y: torch.where((x == 0) & ~y.isnan(), torch.zeros_like(x), x * torch.log(y)),
}
