"""Operations of neural networks: normalization, attention, one-hot codes (keras.ops.nn)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import anything, boolean, integer, one_or_list_of, option, optional, positive_int
from layergraph.errors import GraphError
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.run import Run
from layergraph.ops.operation import Operation

_EPSILON = 1e-7


class _Neural(Operation):
    keras_module = "keras.src.ops.nn"


class Moments(_Neural):
    """keras.ops.moments."""

    axes: Any = option(one_or_list_of(integer))
    keepdims: bool = option(boolean, default=False)
    synchronized: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> list[torch.Tensor]:
        """Mean and variance."""
        axes = [self.axes] if isinstance(self.axes, int) else list(self.axes)
        variance, mean = torch.var_mean(x, axes, correction=0, keepdim=self.keepdims)
        return [mean, variance]


def _axes(axis: Any) -> list[int]:
    return [axis] if isinstance(axis, int) else list(axis)


class RMSNorm(_Neural):
    """keras.ops.rms_normalization."""

    axis: Any = option(one_or_list_of(integer), default=-1)
    epsilon: Any = option(anything, default=None)

    def forward(self, run: Run, w: Any, x: torch.Tensor, scale: Any = None) -> torch.Tensor:
        """x by its root mean square."""
        epsilon = _EPSILON if self.epsilon is None else self.epsilon
        y = x * torch.rsqrt(x.square().mean(_axes(self.axis), keepdim=True) + epsilon)
        return y if scale is None else y * torch.as_tensor(scale, device=x.device)


class LayerNorm(_Neural):
    """keras.ops.layer_normalization."""

    axis: Any = option(one_or_list_of(integer), default=-1)
    epsilon: Any = option(anything, default=None)
    rms_scaling: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, x: torch.Tensor, gamma: Any = None, beta: Any = None) -> torch.Tensor:
        """x by its mean and variance over the axes."""
        epsilon = _EPSILON if self.epsilon is None else self.epsilon
        variance, mean = torch.var_mean(x, _axes(self.axis), correction=0, keepdim=True)
        centred = x if self.rms_scaling else x - mean
        y = centred * torch.rsqrt(variance + epsilon)
        y = y if gamma is None else y * torch.as_tensor(gamma, device=x.device)
        return y if beta is None else y + torch.as_tensor(beta, device=x.device)


class DotProductAttention(_Neural):
    """keras.ops.dot_product_attention."""

    is_causal: bool = option(boolean, default=False)
    flash_attention: Any = option(anything, default=None)
    attn_logits_soft_cap: Any = option(optional(anything), default=None)

    def forward(  # type: ignore[override]
        self,
        run: Run,
        w: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        bias: Any = None,
        mask: Any = None,
        scale: Any = None,
    ) -> torch.Tensor:
        """Attention over (rows, steps, heads, features). Raises GraphError for a cap on the scores."""
        if self.attn_logits_soft_cap is not None:
            raise GraphError("a soft cap on scores is not supported")
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


class OneHot(_Neural):
    """keras.ops.one_hot."""

    num_classes: int = option(positive_int)
    axis: int = option(integer, default=-1)
    sparse: bool = option(boolean, default=False)

    def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
        self.element_type = dtype or "float32"
        super().__init__(*args, **kwargs)

    def forward(self, run: Run, w: Any, x: torch.Tensor) -> torch.Tensor:
        """1 at the place of each integer, which is nowhere for one out of range."""
        classes = torch.arange(self.num_classes, device=x.device)
        y = (x.to(torch.int64).unsqueeze(-1) == classes).to(torch_dtype(self.element_type))
        return y.movedim(-1, self.axis)

    def get_config(self) -> dict[str, Any]:
        """Name, type and options."""
        return {**super().get_config(), "dtype": self.element_type}


OPERATIONS: dict[str, type[Operation]] = {
    known.__name__: known
    for known in (
        Moments,
        RMSNorm,
        OneHot,
        LayerNorm,
        DotProductAttention,
    )
}
