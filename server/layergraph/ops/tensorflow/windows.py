"""TensorFlow functions on windows of images, with kernels as arguments (tf.nn)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional

from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.layers.spatial import same_padding
from layergraph.ops import windows
from layergraph.ops.operation import Operation, as_tensors, function_node

_FIRST = ("NCHW", "NCW", "NCDHW")


def _floats(value: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.as_tensor(value, device=like.device).to(like.dtype)


def _format(data_format: Any) -> str:
    return "channels_first" if data_format in _FIRST else "channels_last"


def _sizes(value: Any, rank: int, data_format: Any) -> Any:
    """Sizes of the spatial axes. TensorFlow accepts one for all axes, or sizes that include rows and channels."""
    if value is None or isinstance(value, int):
        return (value or 1,) * rank
    sizes = [int(n) for n in value]
    if len(sizes) == rank + 2:
        sizes = sizes[2:] if data_format in _FIRST else sizes[1:-1]
    return tuple(sizes * rank if len(sizes) == 1 else sizes)


def _padded(x: torch.Tensor, padding: Any, data_format: Any) -> tuple[torch.Tensor, str]:
    """x and the padding mode; explicit paddings are applied to x."""
    if isinstance(padding, str):
        return x, padding.lower()
    pads = [int(n) for pair in reversed(padding) for n in pair]
    return functional.pad(x, pads), "valid"


# Pooling.


def _pooled(kind: Any) -> Callable[..., Any]:
    def pooled(x: torch.Tensor, ksize: Any, strides: Any, padding: Any, data_format: Any = None) -> Any:
        rank = x.ndim - 2
        if not isinstance(padding, str):
            raise GraphError("pooling with explicit paddings is not supported")
        pool = kind(
            pool_size=_sizes(ksize, rank, data_format),
            strides=_sizes(strides, rank, data_format),
            padding=padding.lower(),
            data_format=_format(data_format),
            name="op",
        )
        return pool.forward(CallContext(), Weights(), x)

    return pooled


def _any_pool(
    x: torch.Tensor,
    window_shape: Any,
    pooling_type: str,
    padding: Any = "VALID",
    strides: Any = None,
    data_format: Any = None,
    dilation_rate: Any = None,
    dilations: Any = None,
) -> Any:
    rate = dilation_rate if dilations is None else dilations
    if rate is not None and set(_sizes(rate, x.ndim - 2, data_format)) != {1}:
        raise GraphError("dilated pooling is not supported")
    kind = windows.MaxPool if pooling_type == "MAX" else windows.AveragePool
    return _pooled(kind)(x, window_shape, 1 if strides is None else strides, padding, data_format)


# Convolutions.


def _convolved(
    x: torch.Tensor,
    filters: Any = None,
    strides: Any = 1,
    padding: Any = "VALID",
    data_format: Any = None,
    dilations: Any = None,
    filter: Any = None,
    stride: Any = None,
    dilation_rate: Any = None,
) -> Any:
    rank = x.ndim - 2
    kernel = _floats(filters if filter is None else filter, x)
    rate = dilations if dilation_rate is None else dilation_rate
    x, mode = _padded(x, padding, data_format)
    convolution = windows.Conv(
        _sizes(strides if stride is None else stride, rank, data_format),
        mode,
        _format(data_format),
        _sizes(rate, rank, data_format),
        name="op",
    )
    return convolution.forward(CallContext(), Weights(), x, kernel)


def _depthwise(
    x: torch.Tensor,
    filter: Any,
    strides: Any,
    padding: Any,
    data_format: Any = None,
    dilations: Any = None,
    rate: Any = None,
) -> Any:
    x, mode = _padded(x, padding, data_format)
    sizes = [_sizes(v, 2, data_format) for v in (strides, rate if dilations is None else dilations)]
    convolution = windows.DepthwiseConv(sizes[0], mode, _format(data_format), sizes[1], name="op")
    return convolution.forward(CallContext(), Weights(), x, _floats(filter, x))


def _separable(
    x: torch.Tensor,
    depthwise_filter: Any,
    pointwise_filter: Any,
    strides: Any,
    padding: Any,
    data_format: Any = None,
    dilations: Any = None,
    rate: Any = None,
) -> Any:
    deep = _depthwise(x, depthwise_filter, strides, padding, data_format, dilations, rate)
    return _convolved(deep, pointwise_filter, 1, "VALID", data_format)


def _transposed(
    x: torch.Tensor,
    filters: Any = None,
    output_shape: Any = None,
    strides: Any = 1,
    padding: Any = "SAME",
    data_format: Any = None,
    dilations: Any = None,
    filter: Any = None,
) -> torch.Tensor:
    """A transposed convolution to `output_shape`. Kernels are (..., out, in)."""
    rank = x.ndim - 2
    kernel = _floats(filters if filter is None else filter, x)
    steps, rates = (_sizes(v, rank, data_format) for v in (strides, dilations))
    wanted = output_shape.tolist() if isinstance(output_shape, torch.Tensor) else list(output_shape)
    wanted = [int(n) for n in (wanted[2:] if data_format in _FIRST else wanted[1:-1])]
    y = x if data_format in _FIRST else x.movedim(-1, 1)
    transpose: Any = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)[rank - 1]
    y = transpose(y, kernel.permute(rank + 1, rank, *range(rank)), stride=steps, dilation=rates)
    for axis in range(rank):
        window = (kernel.shape[axis] - 1) * rates[axis] + 1
        before = same_padding(wanted[axis], window, steps[axis])[0] if padding == "SAME" else 0
        missing = max(before + wanted[axis] - y.shape[axis + 2], 0)
        y = functional.pad(y, [0, 0] * (rank - 1 - axis) + [0, missing]).narrow(axis + 2, before, wanted[axis])
    return y if data_format in _FIRST else y.movedim(1, -1)


def _biased(value: torch.Tensor, bias: Any, data_format: Any = None) -> torch.Tensor:
    offset = _floats(bias, value)
    if data_format not in _FIRST:
        return value + offset
    return value + offset.reshape(-1, *[1] * (value.ndim - 2))


# Other windows.


def _local_response(
    x: torch.Tensor, depth_radius: int = 5, bias: float = 1, alpha: float = 1, beta: float = 0.5
) -> torch.Tensor:
    """x normalised by the sum of squares of neighbouring channels (tf.nn.local_response_normalization)."""
    squares = functional.pad(x.square(), (depth_radius, depth_radius))
    total = squares.unfold(-1, 2 * depth_radius + 1, 1).sum(-1)
    return x * (bias + alpha * total) ** -beta


def _morphology(sign: int) -> Callable[..., torch.Tensor]:
    """tf.nn.dilation2d and erosion2d: maximum of sums, or minimum of differences, of a window and the filter."""

    def computed(
        x: torch.Tensor, filters: Any, strides: Any, padding: str, data_format: str = "NHWC", dilations: Any = 1
    ) -> torch.Tensor:
        kernel = _floats(filters, x)
        kernel = kernel if sign > 0 else kernel.flip(0, 1)
        y = (sign * x).movedim(-1, 1)
        steps, rates = _sizes(strides, 2, data_format), _sizes(dilations, 2, data_format)
        spans = [(k - 1) * rate + 1 for k, rate in zip(kernel.shape, rates, strict=False)]
        if padding == "SAME":
            pads = [same_padding(n, k, s) for n, k, s in zip(y.shape[2:], spans, steps, strict=True)]
            y = functional.pad(y, [*pads[1], *pads[0]], value=-torch.inf)
        y = y.unfold(2, spans[0], steps[0]).unfold(3, spans[1], steps[1])[..., :: rates[0], :: rates[1]]
        return sign * (y + kernel.movedim(-1, 0)[:, None, None]).amax((-2, -1)).movedim(1, -1)

    return computed


# Losses.


def _sigmoid_loss(labels: Any, logits: Any) -> torch.Tensor:
    target, output = as_tensors(labels, logits)
    return functional.binary_cross_entropy_with_logits(output, target.to(output.dtype), reduction="none")


def _softmax_loss(labels: Any, logits: Any, axis: int = -1) -> torch.Tensor:
    target, output = as_tensors(labels, logits)
    return -(target * torch.log_softmax(output, axis)).sum(axis)


def _sparse_loss(labels: Any, logits: torch.Tensor) -> torch.Tensor:
    places = torch.as_tensor(labels, device=logits.device).to(torch.int64).unsqueeze(-1)
    return -torch.log_softmax(logits, -1).gather(-1, places).squeeze(-1)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "AvgPool": _pooled(windows.AveragePool),
    "BiasAdd": _biased,
    "Convolution": _convolved,
    "ConvolutionTranspose": _transposed,
    "DepthwiseConvolution": _depthwise,
    "Dilation": _morphology(1),
    "Erosion": _morphology(-1),
    "LocalResponseNormalization": _local_response,
    "MaxPool": _pooled(windows.MaxPool),
    "Pool": _any_pool,
    "SeparableConvolution": _separable,
    "SigmoidCrossEntropy": _sigmoid_loss,
    "SoftmaxCrossEntropy": _softmax_loss,
    "SparseSoftmaxCrossEntropy": _sparse_loss,
}

OPERATIONS: dict[str, type[Operation]] = {
    f"tf>{name}": function_node(name, function, reads_values=name == "ConvolutionTranspose")
    for name, function in _FUNCTIONS.items()
}
