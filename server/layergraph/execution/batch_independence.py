"""Whether the rows of a batch are independent, so that rows of several requests can be computed together.

The rows of Keras layers are independent in inference. Operations may do anything to the first axis (average it, reverse
it, divide by its length), and so may layers with an axis option, those of single numbers, whose last axis is the first,
and plugin layers. Those are tested: their result for a batch of three rows must equal their results for each row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from layergraph.execution.step import Step
from layergraph.functional.layer import Layer
from layergraph.functional.row_independence import may_mix_rows, rows_are_independent
from layergraph.functional.strings import Strings


def is_batch_independent(steps: Sequence[Step]) -> bool:
    """Whether each call's result for a row is independent of the other rows in the batch."""
    tried: dict[tuple[Any, ...], bool] = {}
    for step in steps:
        if not all(layer.rows_are_independent for layer in step.call.layer.walk_layers()):
            return False
        if not _may_mix(step):
            continue
        key = (id(step.call.layer), step.call.training, *(id(tensor) for tensor in step.call.tensors))
        if key not in tried:
            tried[key] = rows_are_independent(step.call)
        if not tried[key]:
            return False
    return True


def _may_mix(step: Step) -> bool:
    layer = step.call.layer
    if any(tensor.dtype == Strings.dtype for tensor in step.call.tensors):
        return False  # Text is looked up element by element.
    if step.call.training is True or any(len(tensor.shape) == 1 for tensor in step.call.tensors):
        return True
    return any(_layer_may_mix(inner) for inner in layer.walk_layers())


def _layer_may_mix(layer: Layer) -> bool:
    # A model that converts its inputs is one step: calls inside of it aren't looked at one by one.
    return layer.inner_model is not None or may_mix_rows(layer)
