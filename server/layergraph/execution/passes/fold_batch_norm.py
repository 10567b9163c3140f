"""Batch normalisation as one operation, for engines that can't fuse its usual several, each of which reads the image.

torch computes it as x * factor + summand, which is less exact far from zero than subtracting the mean first, so only
normalisations with small factors and summands are replaced.
"""

from __future__ import annotations

from typing import Any

import torch

from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.layers.normalization.batch import BatchNormalization

#: Largest factor and summand: the rounding error of a number near 1, times 16, stays below 1e-6.
_MOST = 16.0


def whole_normalization(step: Step) -> Step:
    """Returns the step as one operation if that is as exact. The layer must have one input and run in inference."""
    layer = step.call.layer
    if type(layer) is not BatchNormalization or not layer.has_one_axis or len(step.call.tensors[0].shape) < 2:
        return step
    factor, summand = layer.as_affine(Binder(lambda weight: weight.value)(layer))
    if not max(factor.abs().max(), summand.abs().max()) < _MOST:
        return step
    return Step(WholeNormalization(layer), step.sources, step.targets)


class WholeNormalization:
    """A batch normalisation by moving statistics; substitutes a step's `Invocation`."""

    takes_masks = False

    def __init__(self, layer: BatchNormalization) -> None:
        self.layer = layer

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Executes the call. Takes and returns no masks."""
        layer = self.layer
        gamma, beta = (w.gamma if layer.scale else None), (w.beta if layer.center else None)
        # torch expects channels on axis 1.
        x = values[0].movedim(layer.axis, 1)
        y = torch.nn.functional.batch_norm(
            x, w.moving_mean, w.moving_variance, gamma, beta, training=False, eps=layer.epsilon
        )
        return [y.movedim(1, layer.axis)], [None]
