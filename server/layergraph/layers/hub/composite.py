"""Base of layers that compute with sublayers, each stored in files under the name of Keras's attribute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from layergraph.errors import GraphError
from layergraph.functional import scopes
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.activation_functions import Activation
from layergraph.layers.attention.multi_head import copied
from layergraph.layers.core.basic import Dense
from layergraph.layers.normalization.statistics import LayerNormalization
from layergraph.layers.regularization import Dropout


class CompositeLayer(Layer):
    """A layer made of sublayers, which `build` adds in the order in which Keras lists their weights."""

    def add(self, group: str, layer: Layer, *shapes: Any) -> None:
        """Adds a sublayer, built for inputs of `shapes` and stored in the group `group` of files."""
        with scopes.building(layer):
            layer.build(*shapes)
        layer.built = True
        self.sublayers[group] = layer
        if not self.trainable:
            layer.trainable = False

    def run(self, context: CallContext, w: Weights, group: str, *args: Any, **kwargs: Any) -> Any:
        """Computes the outputs of a sublayer."""
        return self.sublayers[group].execute(context, w[group], args, kwargs, None, want_masks=False)[0]

    def head_size(self, features: int | None, heads: int) -> int:
        """Features of each head. Raises GraphError if their number is unknown, or if there are fewer than heads."""
        if features is None or features < heads:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): got {features} features, expected at least {heads}, one "
                "for each head"
            )
        return features // heads


class BlockLayer(CompositeLayer):
    """A block of an encoder or decoder. Its sublayers get their options from the block's options of the same names."""

    def add_norm(self, name: str, shape: Any) -> None:
        """Adds a normalization of inputs of `shape`."""
        options: Any = self
        norm = LayerNormalization(epsilon=options.layer_norm_epsilon, dtype=self.dtype_policy, name=name)
        self.add(f"_{name}", norm, shape)

    def add_dropout(self, name: str, shape: Any) -> None:
        """Adds a dropout of inputs of `shape`."""
        options: Any = self
        self.add(f"_{name}", Dropout(options.dropout, dtype=self.dtype_policy, name=name), shape)

    def add_dense(self, name: str, units: Any, chosen: Activation, shape: Any) -> None:
        """Adds a dense layer for inputs of `shape`."""
        options: Any = self
        dense = Dense(
            units,
            activation=chosen,
            kernel_initializer=copied(options.kernel_initializer),
            bias_initializer=copied(options.bias_initializer),
            dtype=self.dtype_policy,
            name=name,
        )
        self.add(f"_{name}", dense, shape)


def checked_sequence(layer: Layer, shape: Any) -> tuple[int | None, ...]:
    """Returns the shape as a tuple. Raises GraphError unless it is (rows, timesteps, features)."""
    if not isinstance(shape, (list, tuple)) or len(shape) != 3:
        got = tuple(shape) if isinstance(shape, (list, tuple)) else shape
        raise GraphError(
            f"layer '{layer.name}' ({type(layer).__name__}): got shape {got}, expected (rows, timesteps, features)"
        )
    return tuple(shape)


def has_unknown_length(context: CallContext, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether this is shape inference with a length that may differ from the one that it will have to equal."""
    return context.symbolic_dims is not None and any(context.symbolic_dims.length in x.shape for x in tensors)


def merged_mask(
    context: CallContext,
    sequences: Sequence[torch.Tensor],
    own: torch.Tensor | None,
    padding_mask: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> torch.Tensor | None:
    """Returns the mask of attention between `sequences` as integers, or None: the smaller of both masks if both are
    given.

    padding_mask     (rows, S): which keys are no padding; by default `own`, the mask that the keys come with
    attention_mask   (rows, T, S)

    Raises GraphError for masks of other ranks. Source: keras_hub's merge_padding_and_attention_mask.
    """
    padding = own if padding_mask is None else padding_mask
    for mask, rank, expected in ((padding, 2, "(rows, timesteps)"), (attention_mask, 3, "(rows, queries, keys)")):
        if mask is not None and mask.ndim != rank:
            raise GraphError(f"got a mask of shape {tuple(mask.shape)}, expected {expected}")
    tensors = [*sequences, *(mask for mask in (padding, attention_mask) if mask is not None)]
    if has_unknown_length(context, tensors):
        return None
    whole = None if attention_mask is None else attention_mask.to(torch.int32)
    if padding is None:
        return whole
    keys = padding.unsqueeze(1).to(torch.int32)
    return keys if whole is None else torch.minimum(keys, whole)
