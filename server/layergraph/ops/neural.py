"""Operations of neural networks: windows, normalization, losses, attention (keras.ops.nn)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.nn import functional

from layergraph.config.options import anything, boolean, integer, one_or_list_of, option, optional
from layergraph.errors import GraphError
from layergraph.functional.layer import Layer
from layergraph.functional.run import Run
from layergraph.layers import convolutional, convolutional_depthwise, pooling, pooling_whole
from layergraph.ops.operation import Operation

_EPSILON = 1e-7


class _Neural(Operation):
    keras_module = "keras.src.ops.nn"


def _of_rank(layers: dict[str, type[Layer]], name: str, x: torch.Tensor) -> type[Layer]:
    """The layer of that name for as many spatial axes as x has."""
    known = layers.get(f"{name}{x.ndim - 2}D")
    if known is None:
        raise GraphError(f"got an input of {x.ndim} axes, expected rows, channels, and 1 to 3 more")
    return known


# --- windows ----------------------------------------------------------------------------------------------------------


class _Pool(_Neural):
    pool_size: Any = option(anything)
    strides: Any = option(anything, default=None)
    padding: Any = option(anything, default="valid")
    data_format: Any = option(anything, default=None)

    layer_name = ""

    def forward(self, run: Run, w: Any, inputs: torch.Tensor) -> Any:
        """One value for each window."""
        kind = _of_rank(pooling.LAYERS, self.layer_name, inputs)
        layer = kind(
            pool_size=self.pool_size,
            strides=self.strides,
            padding=self.padding,
            data_format=self.data_format,
            name="op",
        )
        return layer.forward(run, None, inputs)


class MaxPool(_Pool):
    """keras.ops.max_pool."""

    layer_name = "MaxPooling"


class AveragePool(_Pool):
    """keras.ops.average_pool."""

    layer_name = "AveragePooling"


class _AdaptivePool(_Neural):
    output_size: Any = option(anything)
    data_format: Any = option(anything, default=None)

    layer_name = ""

    def forward(self, run: Run, w: Any, inputs: torch.Tensor) -> Any:
        """One value for each of so many windows."""
        kind = _of_rank(pooling_whole.LAYERS, self.layer_name, inputs)
        layer = kind(output_size=self.output_size, data_format=self.data_format, name="op")
        return layer.forward(run, None, inputs)


class AdaptiveMaxPool(_AdaptivePool):
    """keras.ops.adaptive_max_pool."""

    layer_name = "AdaptiveMaxPooling"


class AdaptiveAveragePool(_AdaptivePool):
    """keras.ops.adaptive_average_pool."""

    layer_name = "AdaptiveAveragePooling"


class _Convolve(_Neural):
    strides: Any = option(anything, default=1)
    padding: Any = option(anything, default="valid")
    data_format: Any = option(anything, default=None)
    dilation_rate: Any = option(anything, default=1)

    def options(self, kernel: torch.Tensor) -> dict[str, Any]:
        """Those of the layer that computes it."""
        return {
            "kernel_size": tuple(kernel.shape[:-2]),
            "strides": self.strides,
            "padding": self.padding,
            "data_format": self.data_format,
            "dilation_rate": self.dilation_rate,
            "use_bias": False,
            "name": "op",
        }


class Conv(_Convolve):
    """keras.ops.conv."""

    def forward(self, run: Run, w: Any, inputs: torch.Tensor, kernel: Any) -> torch.Tensor:  # type: ignore[override]
        """The convolution."""
        kernel = torch.as_tensor(kernel, device=inputs.device)
        kind: Any = _of_rank(convolutional.LAYERS, "Conv", inputs)
        layer = kind(filters=kernel.shape[-1], **self.options(kernel))
        channels = layer.channels_of(inputs.shape)
        result: torch.Tensor = layer.convolve(inputs, kernel, None, channels // kernel.shape[-2])
        return result


class DepthwiseConv(_Convolve):
    """keras.ops.depthwise_conv."""

    def forward(self, run: Run, w: Any, inputs: torch.Tensor, kernel: Any) -> torch.Tensor:  # type: ignore[override]
        """Each channel by itself."""
        kernel = torch.as_tensor(kernel, device=inputs.device)
        kind: Any = _of_rank(convolutional_depthwise.LAYERS, "DepthwiseConv", inputs)
        layer = kind(depth_multiplier=kernel.shape[-1], **self.options(kernel))
        flat = convolutional_depthwise.depthwise_kernel(kernel)
        result: torch.Tensor = layer.convolve(inputs, flat, None, kernel.shape[-2])
        return result


# --- normalization ----------------------------------------------------------------------------------------------------


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


# --- losses -----------------------------------------------------------------------------------------------------------


class BinaryCrossentropy(_Neural):
    """keras.ops.binary_crossentropy."""

    from_logits: bool = option(boolean, default=False)

    def forward(self, run: Run, w: Any, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The loss of each element."""
        target = target.to(output.dtype)
        if self.from_logits:
            return functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        p = output.clamp(_EPSILON, 1 - _EPSILON)
        return -(target * torch.log(p) + (1 - target) * torch.log(1 - p))


class _Crossentropy(_Neural):
    from_logits: bool = option(boolean, default=False)
    axis: int = option(integer, default=-1)

    def logarithms(self, output: torch.Tensor) -> torch.Tensor:
        """Of the probabilities."""
        if self.from_logits:
            return torch.log_softmax(output, self.axis)
        p = output / output.sum(self.axis, keepdim=True)
        return torch.log(p.clamp(_EPSILON, 1 - _EPSILON))


class CategoricalCrossentropy(_Crossentropy):
    """keras.ops.categorical_crossentropy."""

    def forward(self, run: Run, w: Any, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The loss of each row."""
        return -(target * self.logarithms(output)).sum(self.axis)


class SparseCategoricalCrossentropy(_Crossentropy):
    """keras.ops.sparse_categorical_crossentropy."""

    def forward(self, run: Run, w: Any, target: torch.Tensor, output: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """The loss of each row."""
        target = target.to(torch.int64)
        if target.ndim == output.ndim and target.shape[-1] == 1:
            target = target.squeeze(-1)
        logs = self.logarithms(output)
        return -logs.gather(self.axis, target.unsqueeze(self.axis)).squeeze(self.axis)


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


OPERATIONS: dict[str, type[Operation]] = {
    known.__name__: known
    for known in (
        MaxPool,
        AveragePool,
        AdaptiveMaxPool,
        AdaptiveAveragePool,
        Conv,
        DepthwiseConv,
        Moments,
        RMSNorm,
        LayerNorm,
        BinaryCrossentropy,
        CategoricalCrossentropy,
        SparseCategoricalCrossentropy,
        DotProductAttention,
    )
}
