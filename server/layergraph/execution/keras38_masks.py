"""Masks that calls don't find, since MultiHeadAttention removes those of its inputs, as in Keras 3.8 and later.

In Keras a mask is an attribute of a tensor. A layer called on one tensor gets the mask that it had when the model was
built, which can't be lost, and passes it on. Looked up when the model runs are the masks of several tensors
(attention), those that an input of a nested model comes with, and those of outputs, for the loss. Another call whose
tensor has lost its mask returns tensors that have lost theirs; a Concatenate only if none of its masks is left. A
nested model called on one that had a mask when the model was built sets it again. An attention within the `call` of a
class removes masks, too, and layers there look up all masks when the model runs. Such a class may also return the very
tensor that it was given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from layergraph.errors import GraphError
from layergraph.execution.named_masks import NamedMask
from layergraph.execution.step import Step
from layergraph.functional.call_context import CallContext
from layergraph.functional.invocation import Invocation, Mask
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten
from layergraph.functional.shape_inference import infer_anew
from layergraph.functional.tensor import Tensor
from layergraph.layers.activation_functions import linear
from layergraph.layers.activations import Activation
from layergraph.layers.attention.attention import AdditiveAttention, Attention
from layergraph.layers.core.basic import Identity, Masking
from layergraph.layers.merging import Concatenate
from layergraph.layers.regularization import (
    ActivityRegularization,
    AlphaDropout,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
)

_DROPPING = (Dropout, AlphaDropout, GaussianDropout, SpatialDropout1D, SpatialDropout2D, SpatialDropout3D)
#: Tensors with more axes than (rows, features) are sequences: (rows, timesteps, ...).
_MATRIX_AXES = 2


def removes_masks(layer: Layer) -> bool:
    """Whether calls of a layer may remove masks of their inputs."""
    return layer.removes_masks or (layer.finds_masks and any(inner.removes_masks for inner in layer.walk_layers()))


def is_recorded(call: Invocation, recorded: Collection[int]) -> bool:
    """Whether the outputs of a call have masks when the model is built, by the ids of the tensors that have them.

    Those of a nested model have none then, and neither do those whose masks a layer within a `call` sets.
    """
    if call.layer.inner_model is not None or not call.layer.supports_masking:
        return False
    masked = [call.tensors[index] for index in _passed_on(call) if call.tensors[index].mask_shape is not None]
    if not masked and type(call.layer).compute_mask is Layer.compute_mask:
        return False
    if isinstance(call.layer, Concatenate):
        return any(id(tensor) in recorded for tensor in masked)
    return isinstance(call.layer, Masking) or all(id(tensor) in recorded for tensor in masked)


def without_lost_masks(
    steps: Sequence[Step], recorded: Collection[int], set_again: Mapping[int, Collection[int]], *, training: bool
) -> tuple[list[Step], set[int]]:
    """Returns steps that take no lost masks, and the slots whose masks are lost in the end.

    `steps` are in Keras's order, which decides what is lost for whom. `recorded` has the ids of the tensors that have
    masks when the model is built, and `set_again` the slots whose masks are set again before the step of that index.
    In training, Dropout returns new tensors.
    """
    found: list[Step] = []
    taken = _taken_when_built(steps, recorded, set_again)
    #: The slot with the same tensor that was filled first.
    first: dict[int, int] = {}
    lost: set[int] = set()
    for number, step in enumerate(steps):
        lost.difference_update(first.get(slot, slot) for slot in set_again.get(number, ()))
        call, at_sources = step.call, [first.get(slot, slot) for slot in step.sources]
        gone = [index for index, slot in enumerate(at_sources) if slot in lost]
        several = not isinstance(call.mask_sources.get("mask"), Tensor)
        untaken = [index for index in gone if several or id(call.tensors[index]) not in recorded]
        if gone:
            step = replace(step, call=call.without_taking(untaken).without_finding(gone))
        if isinstance(call.layer, Concatenate) and not taken.isdisjoint(step.targets):
            unknown = [index for index, tensor in enumerate(call.tensors) if id(tensor) not in recorded]
            found.append(replace(step, call=step.call.without_passing_on(unknown)))
            continue
        if several and _keeps_others(call, gone):
            found.append(replace(step, call=step.call.without_passing_on(gone)))
            continue
        found.append(step)
        removed, same = _effects(call, training=training)
        first.update({step.targets[made]: at_sources[given] for made, given in same.items()})
        if isinstance(call.layer, NamedMask):
            lost.discard(at_sources[0])
        elif (several or untaken) and not _passed_on(call).isdisjoint(gone) and not isinstance(call.layer, Masking):
            lost.update(slot for made, slot in enumerate(step.targets) if made not in same)
        lost.update(at_sources[index] for index in removed)
    return found, lost | {slot for slot, same in first.items() if same in lost}


def _effects(call: Invocation, *, training: bool) -> tuple[Collection[int], Mapping[int, int]]:
    """The indices of the tensors whose masks a call removes; index of an output -> index of the tensor that it is."""
    if not call.layer.finds_masks:
        return call.removed, {0: 0} if _returns_inputs(call, training=training) else {}
    # Calls of a nested model give it masks that its tensors don't have when it is built. Not all layers accept one.
    for masked in (True, False):
        watched = _Watched(call, training=training, masked=masked)
        with suppress(GraphError):
            infer_anew(watched)
            return watched.without_masks_after, watched.same
    return call.removed, {}


class _Watched(Invocation):
    """A call of a class with `call` that notes what it does with its tensors. If `masked`, all sequences have masks."""

    __slots__ = ("masked", "same", "without_masks_after")

    def __init__(self, call: Invocation, *, training: bool, masked: bool) -> None:
        for name in Invocation.__slots__:
            setattr(self, name, getattr(call, name))
        self.training = training if call.training is None else call.training
        self.masked = masked
        self.without_masks_after: set[int] = set()
        self.same: dict[int, int] = {}

    def structured(
        self, context: CallContext, w: Any, values: list[torch.Tensor], masks: list[Mask], *, want_masks: bool
    ) -> tuple[Structure, list[Mask]]:
        if self.masked:
            masks = [_some_mask(value) if mask is None else mask for value, mask in zip(values, masks, strict=True)]
        left = {id(value): (value, mask) for value, mask in zip(values, masks, strict=True) if mask is not None}
        before = set(left)
        outputs, made_masks = super().structured(replace(context, masks=left), w, values, masks, want_masks=want_masks)
        made = flatten(outputs)
        # A layer that supports masking sets the mask of what it returns.
        set_again = {id(value) for value, mask in zip(made, made_masks, strict=True) if mask is not None}
        removed = before - left.keys() - set_again
        self.without_masks_after = {index for index, value in enumerate(values) if id(value) in removed}
        places = {id(value): index for index, value in enumerate(values)}
        self.same = {index: places[id(value)] for index, value in enumerate(made) if id(value) in places}
        return outputs, made_masks


def _some_mask(value: Any) -> Mask:
    """A mask of a sequence; None for other tensors."""
    is_sequence = isinstance(value, torch.Tensor) and value.ndim > _MATRIX_AXES
    return value.new_ones(value.shape[:2], dtype=torch.bool) if is_sequence else None


def _passed_on(call: Invocation) -> frozenset[int]:
    """Indices of the tensors whose masks the outputs' masks are made of."""
    indices = call.passes_on
    return indices & {0} if isinstance(call.layer, (Attention, AdditiveAttention)) else indices


def _keeps_others(call: Invocation, gone: Collection[int]) -> bool:
    """Whether the outputs have a mask without those that are gone: Concatenate takes True in place of a mask."""
    if not gone or not isinstance(call.layer, Concatenate):
        return False
    return any(call.tensors[index].mask_shape is not None for index in call.passes_on.difference(gone))


def _taken_when_built(
    steps: Sequence[Step], recorded: Collection[int], set_again: Mapping[int, Collection[int]]
) -> set[int]:
    """Slots whose masks of when the model was built are taken, or passed on, by calls on one tensor."""
    taken = {slot for slots in set_again.values() for slot in slots}
    for step in reversed(steps):
        if isinstance(step.call.mask_sources.get("mask"), Tensor):
            taken.update(step.sources)
        elif not taken.isdisjoint(step.targets) and all(id(tensor) in recorded for tensor in step.made):
            taken.update(step.sources[index] for index in _passed_on(step.call))
    return taken


def _returns_inputs(call: Invocation, *, training: bool) -> bool:
    """Whether a call returns the tensor that it was given, not another one with the same values."""
    layer: Layer = call.layer
    if 0 in call.cast:
        return False
    training = training if call.training is None else call.training
    if isinstance(layer, _DROPPING):
        return not (training and layer.rate)
    if isinstance(layer, GaussianNoise):
        return not (training and layer.stddev)
    if isinstance(layer, Activation):
        return layer.activation is linear
    return isinstance(layer, (ActivityRegularization, Identity, NamedMask))
