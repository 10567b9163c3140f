"""Models from the descriptions of others, with weights of their own: Keras's clone_model and model_from_json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from layergraph.archive.limits import DEFAULT_LIMITS
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.input import Input, InputLayer
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten, map_structure
from layergraph.functional.tensor import Tensor
from layergraph.models.loading import described_model
from layergraph.models.model import Model
from layergraph.models.sequential import Sequential
from layergraph.plugins import custom_object_scope


def model_from_json(json_string: str, custom_objects: Mapping[str, Any] | None = None) -> Model:
    """The model that `Model.to_json` of this package or of Keras describes, with new weights, compiled as it was.

    Raises ConfigError for a text that isn't JSON, errors.ModelFileError for a model that can't be made. Source:
    keras.models.model_from_json.
    """
    try:
        described = json.loads(json_string)
    except (ValueError, RecursionError) as wrong:
        raise ConfigError(f"model_from_json: got a text that isn't JSON: {wrong}") from wrong
    with custom_object_scope(custom_objects or {}):
        return described_model(described, DEFAULT_LIMITS)


def clone_model(
    model: Functional, input_tensors: Any = None, clone_function: Callable[[Layer], Layer] | None = None
) -> Model:
    """A model of the same architecture, with new layers of the same names and new weights; it isn't compiled.

    input_tensors    a symbolic tensor, or a list of them, in place of the model's inputs
    clone_function   gives the new layer for each layer but inputs and operations; by default one of the same config

    Raises GraphError for other inputs than the model takes. Source: keras.models.clone_model.
    """
    kind: Any = type(model)
    # Classes that aren't registered are known from the model itself.
    classes = {type(layer).__name__: type(layer) for layer in model.walk_layers() if layer.computes_by_call}
    fresh: Model = kind.from_config(model.get_config(), classes)
    if input_tensors is None and clone_function is None:
        return fresh
    clone: dict[Layer, Layer] = dict(zip(fresh.graph.layers, fresh.graph.layers, strict=True))
    if clone_function is not None:
        pairs = zip(model.graph.layers, fresh.graph.layers, strict=True)
        clone |= {new: clone_function(old) for old, new in pairs if _has_function(old)}
    inputs = None if input_tensors is None else flatten(input_tensors)
    if isinstance(fresh, Sequential):
        head = inputs[0] if inputs else Input(batch_shape=fresh.inputs[0].shape, dtype=fresh.inputs[0].dtype)
        return Sequential([head, *(clone[layer] for layer in fresh.layers)], name=fresh.name, trainable=fresh.trainable)
    return _called_again(fresh, clone, inputs)


def _has_function(layer: Layer) -> bool:
    """Whether `clone_function` says what stands for a layer."""
    return not isinstance(layer, InputLayer) and not layer.is_operation


def _called_again(model: Functional, clone: Mapping[Layer, Layer], inputs: list[Tensor] | None) -> Model:
    """The calls of a model made by other layers, from its inputs or from those that are given."""
    given = model.inputs if inputs is None else inputs
    if len(given) != len(model.inputs):
        raise ConfigError(f"clone_model: got {len(given)} input tensors, expected {len(model.inputs)}")
    made: dict[int, Any] = {id(own): tensor for own, tensor in zip(model.inputs, given, strict=True)}

    def swapped(leaf: Any) -> Any:
        return made[id(leaf)] if isinstance(leaf, Tensor) else leaf

    for node in model.graph.nodes:
        if node.is_input:
            continue
        extra = {} if node.training is None else {"training": node.training}
        args, kwargs = map_structure(swapped, list(node.args)), map_structure(swapped, node.kwargs)
        outputs = clone[node.layer](*args, **kwargs, **extra)
        made.update({id(old): new for old, new in zip(node.output_tensors, flatten(outputs), strict=True)})
    structure = model.graph.inputs
    return Model(
        map_structure(swapped, structure),
        map_structure(swapped, model.graph.outputs),
        name=model.name,
        trainable=model.trainable,
    )
