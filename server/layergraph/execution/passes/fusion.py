"""Fuses a convolution with the zero padding before it, and the normalisation and activation after it, for inference.

Zeros become the convolution's own padding, a normalisation is folded into kernel and bias, the kernel is packed once
for oneDNN's convolutions, and the activation is applied in place. Training executes the graph as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from layergraph.execution.passes.fold_batch_norm import whole_normalization
from layergraph.execution.passes.fold_padding import PaddedPooling, is_padding, never_negative
from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.layer import Layer
from layergraph.layers.activation_functions import Function, linear, relu, relu6
from layergraph.layers.activations import Activation, ReLU
from layergraph.layers.convolutional.convolution import Conv1D, Conv2D, kernel_to_torch
from layergraph.layers.convolutional.depthwise import DepthwiseConv1D, DepthwiseConv2D, depthwise_kernel
from layergraph.layers.normalization.batch import BatchNormalization
from layergraph.layers.pooling import MaxPooling1D, MaxPooling2D
from layergraph.layers.spatial import Pads

_DEPTHWISE = (DepthwiseConv1D, DepthwiseConv2D)
_CONVOLUTIONS = (Conv1D, Conv2D, *_DEPTHWISE)
_POOLING = (MaxPooling1D, MaxPooling2D)
#: A normalisation with larger factors or summands is applied after the convolution: folded into the kernel, it would be
#: less exact than subtracting the mean first.
_MAX_FACTOR = 1e4


def fuse(steps: Sequence[Step], outputs: Sequence[int], *, packed: bool) -> list[Step]:
    """Returns the steps, with each convolution and its neighbours as one. `outputs` are the slots of the outputs.

    With `packed`, kernels are laid out for oneDNN's convolutions; otherwise the steps are those that engines can fuse.
    """
    readers = Counter(slot for step in steps for slot in step.sources)
    readers.update(outputs)
    following = {step.sources[0]: step for step in steps if len(step.sources) == 1}
    inside: set[int] = set()
    rectified: set[int] = set()
    result: list[Step] = []
    for step in steps:
        if id(step) in inside:
            continue
        chain = _chain(step, readers, following) or _padded_pooling(step, readers, following, rectified)
        inside.update(id(part) for part in chain)
        if chain:
            step = _joined(chain, packed=packed)
        elif not packed and isinstance(step.call.layer, BatchNormalization) and _plain(step):
            step = whole_normalization(step)
        result.append(step)
        if never_negative(result[-1].call):
            rectified.update(result[-1].targets)
    return result


def _chain(first: Step, readers: Counter[int], following: dict[int, Step]) -> list[Step]:
    """A convolution with its zero padding, normalisation and activation, if nothing else reads the values in between.

    Empty if `first` doesn't start such a chain.
    """
    chain = [first]
    if _pads(first):
        after = following.get(first.targets[0])
        if after is None or readers[first.targets[0]] != 1:
            return []
        chain.append(after)
    layer = chain[-1].call.layer
    if type(layer) not in _CONVOLUTIONS or not _plain(chain[-1]):
        return []
    if isinstance(layer.activation, Layer) or (len(chain) > 1 and not _same_axes(chain[0].call.layer, layer)):
        return []
    activated = layer.activation is not linear
    normalized = False
    while not activated and readers[chain[-1].targets[0]] == 1:
        after = following.get(chain[-1].targets[0])
        if after is None or not _plain(after):
            break
        activated = _function(after.call.layer) is not None
        if not activated and (normalized or not _normalizes(after, layer)):
            break
        normalized = True
        chain.append(after)
    return chain


def _padded_pooling(first: Step, readers: Counter[int], following: dict[int, Step], rectified: set[int]) -> list[Step]:
    """Zero padding of values that are never negative, and the max pooling that alone reads it; otherwise empty."""
    if not _pads(first) or first.sources[0] not in rectified or readers[first.targets[0]] != 1:
        return []
    after = following.get(first.targets[0])
    if after is None or type(after.call.layer) not in _POOLING or not _plain(after):
        return []
    layer = after.call.layer
    fits = _same_axes(first.call.layer, layer) and layer.padding == "valid"
    return [first, after] if fits and PaddedPooling.takes(layer, _zeros(first)) else []


def _pads(step: Step) -> bool:
    return is_padding(step.call.layer) and _plain(step)


def _same_axes(padding: Any, layer: Any) -> bool:
    return bool(padding.rank == layer.rank and padding.channels_first == layer.channels_first)


def _zeros(step: Step) -> Pads:
    pads: Pads = step.call.layer.pairs(step.call.layer.padding)
    return pads


def _plain(step: Step) -> bool:
    """Whether a call has one float32 input without a mask, and computes in float32 as in inference."""
    call = step.call
    if not call.is_single or call.training or call.layer.compute_dtype != "float32":
        return False
    return call.tensors[0].dtype == "float32" and call.tensors[0].mask_shape is None


def _normalizes(step: Step, convolution: Any) -> bool:
    """Whether a call normalises the axis of the channels of the convolution before it."""
    layer = step.call.layer
    rank = len(step.call.tensors[0].shape)
    if type(layer) is not BatchNormalization or not layer.has_one_axis:
        return False
    return bool(layer.axis % rank == (1 if convolution.channels_first else rank - 1))


def _function(layer: Layer) -> Function | None:
    """The activation function that a layer applies, if it can be fused."""
    # No subclasses: a plugin's may compute something else.
    if type(layer) is Activation and not isinstance(layer.activation, Layer):
        function: Function = layer.activation
        return function
    if type(layer) is ReLU and not layer.negative_slope and not layer.threshold:
        return {None: relu, 6.0: relu6}.get(layer.max_value)
    return None


def _joined(chain: list[Step], *, packed: bool) -> Step:
    """The chain as one step."""
    zeros = _zeros(chain[0]) if is_padding(chain[0].call.layer) else None
    layers = [step.call.layer for step in (chain if zeros is None else chain[1:])]
    if isinstance(layers[0], _POOLING):
        assert zeros is not None
        return Step(PaddedPooling(layers[0], zeros), chain[0].sources, chain[-1].targets)
    normalization = layers[1] if len(layers) > 1 and isinstance(layers[1], BatchNormalization) else None
    function = _function(layers[-1]) or layers[0].activation
    call = FusedConvolution(layers[0], normalization, function, zeros=zeros, packed=packed)
    return Step(call, chain[0].sources, chain[-1].targets)


class _Folded(NamedTuple):
    """Kernel and bias with the folded normalisation; `late` has the weights of one that couldn't be folded."""

    versions: list[int]
    kernel: torch.Tensor
    bias: torch.Tensor | None
    packed: bool
    late: Any


class FusedConvolution:
    """activation(normalization(convolution(padded(x)))) as one call; substitutes a step's `Invocation`.

    The kernel is folded on the first call, and again after training has changed a weight.
    """

    takes_masks = False

    def __init__(
        self,
        layer: Any,
        normalization: BatchNormalization | None,
        function: Function,
        *,
        zeros: Pads | None,
        packed: bool,
    ) -> None:
        self.layer = layer
        self.function = function
        self._zeros = zeros
        self._packed = packed and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        self._normalization = normalization
        own = [*layer.own_weights, *(normalization.own_weights if normalization else ())]
        self._weights = [weight.value for weight in own]
        self._folded: _Folded | None = None

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Executes the call. Takes and returns no masks."""
        layer = self.layer
        x, padding = layer.framed(values[0], self._zeros)
        strides, dilation = layer.torch_sizes(layer.strides), layer.torch_sizes(layer.dilation_rate)
        groups = x.shape[1] if isinstance(layer, _DEPTHWISE) else layer.groups
        folded = self._folded
        if not x.numel():
            # Not kept, as it isn't packed: with one thread, torch's convolution of no rows refuses packed kernels.
            folded = self._fold(x, padding, strides, dilation, groups)
        elif folded is None or folded.versions != [weight._version for weight in self._weights]:
            folded = self._folded = self._fold(x, padding, strides, dilation, groups)
        if folded.packed:
            convolution = torch.ops.mkldnn._convolution_pointwise
            y = convolution(x, folded.kernel, folded.bias, padding, strides, dilation, groups, "none", [], "")
        else:
            y = torch.nn.functional.conv2d(x, folded.kernel, folded.bias, strides, padding, dilation, groups)
        y = layer.from_torch(y)
        if folded.late is not None and self._normalization is not None:
            y = self._normalization.forward(context, folded.late, y)
        return [self._activated(y)], [None]

    def _activated(self, y: torch.Tensor) -> torch.Tensor:
        # Not as the convolution's post-operation in oneDNN, which turns NaN into 0.
        if self.function is relu:
            return torch.relu_(y)
        if self.function is relu6:
            return torch.nn.functional.hardtanh(y, 0.0, 6.0, inplace=True)
        return self.function(y)

    def _fold(self, x: torch.Tensor, padding: Any, strides: Any, dilation: Any, groups: int) -> _Folded:
        versions = [weight._version for weight in self._weights]
        with torch.inference_mode(False), torch.no_grad():
            bind = Binder(lambda weight: weight.value)
            own = bind(self.layer)
            kernel = depthwise_kernel(own.kernel) if isinstance(self.layer, _DEPTHWISE) else own.kernel
            bias = own.bias if self.layer.use_bias else None
            late = None
            if self._normalization is not None:
                weights = bind(self._normalization)
                factor, summand = self._normalization.as_affine(weights)
                if max(factor.abs().max(), summand.abs().max()) < _MAX_FACTOR:
                    kernel = kernel * factor
                    bias = summand if bias is None else bias * factor + summand
                else:
                    late = weights
            # In the memory format of the images; torch would convert them to the kernel's format.
            order = torch.contiguous_format if self.layer.channels_first else torch.channels_last
            kernel = kernel_to_torch(kernel).contiguous(memory_format=order)
            packed = self._packed and x.device.type == "cpu" and x.numel() > 0
            if packed:
                pack = torch.ops.mkldnn._reorder_convolution_weight
                kernel = pack(kernel, padding, strides, dilation, groups, list(x.shape))
        return _Folded(versions, kernel, bias, packed, late)
