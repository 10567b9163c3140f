"""Operations of neural networks: normalisation, attention, one-hot encoding (keras.ops.nn)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import anything, boolean, integer, number, one_or_list_of, option, optional, positive_int
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import at_least_float32
from layergraph.functional.weights import Weights
from layergraph.ops.operation import Operation, Typed

_EPSILON = 1e-7


class _Neural(Operation):
    keras_module = "keras.src.ops.nn"


class Moments(_Neural):
    """Mean and variance (keras.ops.moments)."""

    axes: Any = option(one_or_list_of(integer))
    keepdims: bool = option(boolean, default=False)
    synchronized: bool = option(boolean, default=False)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> list[torch.Tensor]:
        axes = [self.axes] if isinstance(self.axes, int) else list(self.axes)
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=self.keepdims)
        return [mean, variance]


def _axes(axis: Any) -> list[int]:
    return [axis] if isinstance(axis, int) else list(axis)


class RMSNorm(_Neural):
    """x divided by its root mean square (keras.ops.rms_normalization)."""

    axis: Any = option(one_or_list_of(integer), default=-1)
    epsilon: Any = option(anything, default=None)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor, scale: Any = None) -> torch.Tensor:
        epsilon = _EPSILON if self.epsilon is None else self.epsilon
        wide = at_least_float32(x)
        y = wide * torch.rsqrt(wide.square().mean(_axes(self.axis), keepdim=True) + epsilon)
        y = y if scale is None else y * torch.as_tensor(scale, device=x.device)
        return y.to(x.dtype)


class LayerNorm(_Neural):
    """x normalised by its mean and variance over the axes (keras.ops.layer_normalization)."""

    axis: Any = option(one_or_list_of(integer), default=-1)
    epsilon: Any = option(anything, default=None)
    rms_scaling: bool = option(boolean, default=False)

    def forward(
        self, context: CallContext, w: Weights, x: torch.Tensor, gamma: Any = None, beta: Any = None
    ) -> torch.Tensor:
        epsilon = _EPSILON if self.epsilon is None else self.epsilon
        wide = at_least_float32(x)
        axes = sorted(axis % x.ndim for axis in _axes(self.axis))
        variance, mean = torch.var_mean(wide, axes, correction=0, keepdim=True)
        y = (wide if self.rms_scaling else wide - mean) * torch.rsqrt(variance + epsilon)
        gamma, beta = (
            None if given is None else torch.as_tensor(given, device=x.device).to(y.dtype) for given in (gamma, beta)
        )
        if axes != [x.ndim - 1]:
            shape = [n if axis in axes else 1 for axis, n in enumerate(x.shape)]
            gamma, beta = (v.reshape(shape) if v is not None and v.ndim != x.ndim else v for v in (gamma, beta))
        y = y if gamma is None else y * gamma
        return (y if beta is None else y + beta).to(x.dtype)


class BatchNorm(_Neural):
    """x normalised by the mean and variance of each channel (keras.ops.batch_normalization)."""

    axis: int = option(integer)
    epsilon: float = option(number, default=1e-3)

    def forward(  # type: ignore[override]
        self,
        context: CallContext,
        w: Weights,
        x: torch.Tensor,
        mean: Any,
        variance: Any,
        offset: Any = None,
        scale: Any = None,
    ) -> Any:
        shape = [1] * x.ndim
        shape[self.axis] = -1
        mean, variance, offset, scale = (
            None if value is None else torch.as_tensor(value, device=x.device).reshape(shape)
            for value in (mean, variance, offset, scale)
        )
        factor = torch.rsqrt(variance + self.epsilon)
        y = (x - mean) * (factor if scale is None else factor * scale)
        return y if offset is None else y + offset


class DotProductAttention(_Neural):
    """Attention over (rows, steps, heads, features) (keras.ops.dot_product_attention).

    Raises GraphError for attn_logits_soft_cap.
    """

    is_causal: bool = option(boolean, default=False)
    flash_attention: Any = option(anything, default=None)
    attn_logits_soft_cap: Any = option(optional(anything), default=None)

    def forward(  # type: ignore[override]
        self,
        context: CallContext,
        w: Weights,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: torch.Tensor | None = None,
        mask: Any = None,
        scale: Any = None,
    ) -> torch.Tensor:
        if self.attn_logits_soft_cap is not None:
            raise GraphError("attn_logits_soft_cap is not supported")
        groups = query.shape[2] // key.shape[2]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 2), value.repeat_interleave(groups, 2)
        scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
        scores = torch.einsum("btnh,bsnh->bnts", query, key) * scale
        if bias is not None:
            scores = scores + bias
        allowed = None if mask is None else torch.as_tensor(mask, device=query.device).to(torch.bool)
        if self.is_causal:
            causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
            allowed = causal if allowed is None else allowed & causal
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min)
        return torch.einsum("bnts,bsnh->btnh", scores.softmax(-1), value)


class _Codes(Typed):
    keras_module = "keras.src.ops.nn"
    inserts_axis = True

    num_classes: int = option(positive_int)
    axis: int = option(integer, default=-1)
    sparse: bool = option(boolean, default=False)


class OneHot(_Codes):
    """1 at the index of each integer; all 0 for integers out of range (keras.ops.one_hot)."""

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, dtype=dtype or "float32", **kwargs)

    def forward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        classes = torch.arange(self.num_classes, device=x.device)
        return self.converted(x.to(torch.int64).unsqueeze(-1) == classes).movedim(-1, self.axis)


class MultiHot(_Codes):
    """1 at the indices of all integers of a row (keras.ops.multi_hot)."""

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor) -> torch.Tensor:
        codes = OneHot(self.num_classes, self.axis, dtype=self.element_type, name="op").forward(context, w, inputs)
        return codes.amax(1 if inputs.ndim > 1 else 0)


class FakeQuantWithMinMaxVars(Operation):
    """x rounded to 2^num_bits levels between the bounds (keras.quantizers.fake_quant_with_min_max_vars).

    The bounds are adjusted so that 0 is a level.
    """

    keras_module = "keras.src.quantizers.quantizers"

    num_bits: int = option(positive_int, default=8)
    narrow_range: bool = option(boolean, default=False)
    axis: int | None = option(optional(integer), default=None)

    def forward(  # type: ignore[override]
        self, context: CallContext, w: Weights, inputs: torch.Tensor, min_vals: Any, max_vals: Any
    ) -> Any:
        shape = [1] * inputs.ndim
        if self.axis is not None:
            shape[self.axis] = -1
        low, high = (torch.as_tensor(v, dtype=torch.float32, device=inputs.device) for v in (min_vals, max_vals))
        low, high = (v.reshape(shape if self.axis is not None else ()) for v in (low, high))
        first, last = (1 if self.narrow_range else 0), 2**self.num_bits - 1
        scale, inverse = (high - low) / (last - first), (last - first) / (high - low)
        zero = first - low / scale
        zero = torch.where(zero < first, first, torch.where(zero > last, last, torch.floor(zero + 0.5)))
        low, high = (first - zero) * scale, (last - zero) * scale
        steps = torch.clamp(inputs.float(), low, high) - low
        y = torch.floor(steps * inverse - torch.floor(-low * inverse + 0.5) + 0.5) * scale
        return y.to(inputs.dtype)


OPERATIONS: dict[str, type[Operation]] = {
    known.__name__: known
    for known in (
        Moments,
        RMSNorm,
        OneHot,
        BatchNorm,
        FakeQuantWithMinMaxVars,
        MultiHot,
        LayerNorm,
        DotProductAttention,
    )
}
