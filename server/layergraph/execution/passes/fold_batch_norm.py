"""Batch normalisation as one operation, for engines: as several, one that reads an image each, they can't fuse it.

torch computes it as x * factor + summand, which far from zero loses what subtracting the mean first keeps, so only
normalisations with small factors and summands become one.
"""

from __future__ import annotations

from typing import Any

import torch

from layergraph.execution.step import Step
from layergraph.functional.binding import Binder
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Mask
from layergraph.layers.normalization.batch import BatchNormalization

#: Largest factor and summand: 16 times the rounding of a number about 1 stays below 1e-6 of it.
_MOST = 16.0


def whole_normalization(step: Step) -> Step:
    """The step, as one operation where that is as exact; of a layer that takes one tensor, for inference."""
    layer = step.call.layer
    if type(layer) is not BatchNormalization or len(step.call.tensors[0].shape) < 2:
        return step
    factor, summand = layer.as_affine(Binder(lambda weight: weight.value)(layer))
    if not max(factor.abs().max(), summand.abs().max()) < _MOST:
        return step
    return Step(WholeNormalization(layer), step.sources, step.targets)


class WholeNormalization:
    """A batch normalisation by moving statistics, in the place of a step's `Invocation`."""

    takes_masks = False

    def __init__(self, layer: BatchNormalization) -> None:
        self.layer = layer

    def __call__(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[list[torch.Tensor], list[Mask]]:
        """Carries the call out. No masks come, and none go."""
        layer = self.layer
        gamma, beta = (w.gamma if layer.scale else None), (w.beta if layer.center else None)
        # torch has the channels after the rows.
        x = values[0].movedim(layer.axis, 1)
        y = torch.nn.functional.batch_norm(
            x, w.moving_mean, w.moving_variance, gamma, beta, training=False, eps=layer.epsilon
        )
        return [y.movedim(1, layer.axis)], [None]
