"""Max pooling before a ReLU instead of after it: equal values and gradients, for a fraction of the work.

A ReLU keeps the order of values, so the largest of a window is still the largest afterwards. If several become equal
only by the ReLU, all of them are at one of its bounds, where the gradient is 0.
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
    """Returns the steps with each ReLU that only a max pooling reads moved behind it. Slots don't change."""
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
    """Whether a step calls a layer of these kinds on one tensor without a mask and without an activity regularizer."""
    call = step.call
    return (
        type(call.layer) in kinds
        and call.is_single
        and call.tensors[0].mask_shape is None
        and getattr(call.layer, "activity_regularizer", None) is None
    )


def _rectifier(step: Step) -> Function | None:
    """The ReLU that a call ends with, or is; None if it has none."""
    layer: Any = step.call.layer
    if _plain(step, (*_CONVOLUTIONS, Activation)):
        return next((function for function in _RECTIFIERS if layer.activation is function), None)
    if _plain(step, (ReLU,)) and not layer.negative_slope and not layer.threshold:
        return {None: relu, 6.0: relu6}.get(layer.max_value)
    return None


class _Unrectified:
    """A call without the ReLU at its end."""

    takes_masks = False

    def __init__(self, call: Any) -> None:
        self.layer = call.layer

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Executes the call."""
        convolves = isinstance(self.layer, _CONVOLUTIONS)
        return [self.layer.convolved(w, values[0]) if convolves else values[0]], [None]


class _Rectified:
    """A call followed by a ReLU."""

    takes_masks = False

    def __init__(self, call: Any, function: Function) -> None:
        self.layer = call.layer
        self._call = call
        self._function = function

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Executes the call."""
        outputs, made = self._call(context, w, values, masks, want_masks=want_masks)
        return [self._function(outputs[0])], made
