"""Max pooling before a rectifier instead of after it: the same values and gradients, with a fraction of the work.

A rectifier keeps the order of values, so that the largest of a window is the largest afterwards as well. Where several
are equal only afterwards, they are all at a bound of the rectifier, and none of them has a gradient.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from layergraph.execution.step import Step
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.functional.layer import Layer
from layergraph.layers.activation_functions import Function, relu, relu6
from layergraph.layers.activations import Activation, ReLU
from layergraph.layers.convolutional.convolution import Conv1D, Conv2D, Conv3D
from layergraph.layers.convolutional.depthwise import DepthwiseConv1D, DepthwiseConv2D
from layergraph.layers.pooling import MaxPooling1D, MaxPooling2D, MaxPooling3D

_CONVOLUTIONS = (Conv1D, Conv2D, Conv3D, DepthwiseConv1D, DepthwiseConv2D)
_POOLING = (MaxPooling1D, MaxPooling2D, MaxPooling3D)
_RECTIFIERS = (relu, relu6)


def pool_first(steps: Sequence[Step], outputs: Sequence[int]) -> list[Step]:
    """The steps, of which rectifiers that only a max pooling reads are applied behind it. Slots stay as they are."""
    readers = Counter(slot for step in steps for slot in step.sources)
    readers.update(outputs)
    pooling = {step.sources[0]: place for place, step in enumerate(steps) if _plain(step, _POOLING)}
    result = list(steps)
    for place, step in enumerate(steps):
        function = _rectifier(step)
        after = pooling.get(step.targets[0])
        if function is None or after is None or readers[step.targets[0]] != 1:
            continue
        result[place] = replace(step, call=_Unrectified(step.call))
        result[after] = replace(steps[after], call=_Rectified(steps[after].call, function))
    return result


def _plain(step: Step, kinds: tuple[type[Layer], ...]) -> bool:
    """Whether a call of a layer of these kinds takes one tensor without a mask and penalises no output."""
    call = step.call
    return (
        type(call.layer) in kinds
        and call.is_single
        and call.tensors[0].mask_shape is None
        and getattr(call.layer, "activity_regularizer", None) is None
    )


def _rectifier(step: Step) -> Function | None:
    """The rectifier that a call ends with, or that it is."""
    layer: Any = step.call.layer
    if _plain(step, (*_CONVOLUTIONS, Activation)):
        return next((function for function in _RECTIFIERS if layer.activation is function), None)
    if _plain(step, (ReLU,)) and not layer.negative_slope and not layer.threshold:
        return {None: relu, 6.0: relu6}.get(layer.max_value)
    return None


class _Unrectified:
    """A call without the rectifier at its end."""

    takes_masks = False

    def __init__(self, call: Any) -> None:
        self.layer = call.layer

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Carries the call out."""
        convolves = isinstance(self.layer, _CONVOLUTIONS)
        return [self.layer.convolved(w, values[0]) if convolves else values[0]], [None]


class _Rectified:
    """A call with a rectifier behind it."""

    takes_masks = False

    def __init__(self, call: Any, function: Function) -> None:
        self.layer = call.layer
        self._call = call
        self._function = function

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Carries the call out."""
        outputs, made = self._call(context, w, values, masks, want_masks=want_masks)
        return [self._function(outputs[0])], made
