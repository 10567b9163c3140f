"""Checks names and options that only Keras 2 has: Keras 3 can't open a file with them."""

from __future__ import annotations

from collections.abc import Iterator

from layergraph.config.keras2_releases import KERAS3_USES
from layergraph.constraints import RadialConstraint
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor
from layergraph.layers.normalization.batch import BatchNormalization
from layergraph.layers.regularization import AddLoss, AddMetric
from layergraph.saving.mask_nodes import broadcasts, skips_masks


def check_for_keras3(model: Functional) -> None:
    """Raises ConfigError for layers that Keras 3 can't open, all of them in one text; for names before others."""
    _check_names(model)
    found = [f"layer '{layer.name}': {what}" for layer in model.walk_layers() for what in _beyond_keras3(layer)]
    found += [
        f"layer '{layer.name}': a call without the mask of its input, in model '{inner.name}'"
        for inner, layer in _called_without_masks(model)
    ]
    found += [
        f"layer '{layer.name}': the mask of its output, which is one of model '{inner.name}'"
        for inner, layer in _masks_lost_at_the_end(model)
    ]
    if found:
        listed = "; ".join(found[:5]) + (f"; and {len(found) - 5} more" if len(found) > 5 else "")
        raise ConfigError(f"save: Keras 3 lacks {listed}; save it for Keras 2")


def _check_names(model: Functional) -> None:
    """Raises ConfigError for names with '/', which Keras 3 separates names in paths with."""
    models = [one for one in model.walk_layers() if isinstance(one, Functional) and one.built]
    layers = dict.fromkeys([*(layer for one in models for layer in one.graph.layers), *model.walk_layers()])
    found = [layer.name for layer in layers if "/" in layer.name]
    if found:
        listed = ", ".join(f"'{name}'" for name in found[:5]) + (
            f" and {len(found) - 5} more" if len(found) > 5 else ""
        )
        raise ConfigError(
            f"save: Keras 3 doesn't allow '/' in names of layers and models: {listed}; "
            "rename them where the model is created, or save it for Keras 2"
        )


def _beyond_keras3(layer: Layer) -> Iterator[str]:
    if isinstance(layer, (AddLoss, AddMetric)):
        yield type(layer).__name__
    if isinstance(layer, BatchNormalization) and not layer.has_one_axis:
        yield "BatchNormalization over several axes"
    for name in layer._options:
        if name.endswith("_constraint") and isinstance(getattr(layer, name), RadialConstraint):
            yield f"RadialConstraint as {name}"


def _called_without_masks(model: Functional) -> Iterator[tuple[Functional, Layer]]:
    """Layers that a release of Keras 2 doesn't pass masks to or through, where a file of Keras 3 can't take the mask
    away: a Sequential has no operations between its layers, and the mask of a nested model's input isn't known in it.
    """
    models = [layer for layer in model.walk_layers() if isinstance(layer, Functional) and layer.built]
    masked = {node.layer for one in models for node in one.graph.nodes if _has_mask(node)}
    for one in models:
        sequential = one.keras_class_name == "Sequential"
        # Tensors that have the mask of an input of the model, or may have it.
        reached = {id(tensor) for tensor in one.inputs} if one in masked else set()
        for node in one.graph.nodes:
            comes = any(id(tensor) in reached for tensor in node.input_tensors)
            if (comes or (sequential and _has_mask(node))) and _drops_mask(node):
                yield one, node.layer
            if comes and node.layer.supports_masking:
                reached.update(id(tensor) for tensor in node.output_tensors)


def _masks_lost_at_the_end(model: Functional) -> Iterator[tuple[Functional, Layer]]:
    """Last layers of nested models whose masks other layers use, and that lose them when masks are written as
    operations: their inputs must have none.
    """
    for outer in (layer for layer in model.walk_layers() if isinstance(layer, Functional) and layer.built):
        for node in outer.graph.nodes:
            if not isinstance(node.layer, Functional):
                continue
            makers = {id(tensor): made.layer for made in node.layer.graph.nodes for tensor in made.output_tensors}
            for inside, outside in zip(node.layer.outputs, node.output_tensors, strict=True):
                layer = makers[id(inside)]
                if skips_masks(layer) and outside.mask_shape is not None and _is_used_with_mask(outer, outside):
                    yield node.layer, layer


def _is_used_with_mask(model: Functional, tensor: Tensor) -> bool:
    users = [node for node in model.graph.nodes if any(given is tensor for given in node.input_tensors)]
    return any(node.layer.uses_masks for node in users)


def _drops_mask(node: Node) -> bool:
    """Whether a call neither uses nor passes on a mask that it would have to in any Keras 3."""
    if getattr(node.layer, "mask_rule", "") == "fitting":
        pairs = [(tensor.mask_shape, tensor.shape) for tensor in node.input_tensors]
        return any(mask is None or not broadcasts(mask, shape) for mask, shape in pairs)
    return node.layer.mask_use not in KERAS3_USES


def _has_mask(node: Node) -> bool:
    return any(tensor.mask_shape is not None for tensor in node.input_tensors)
