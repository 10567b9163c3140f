"""New models from the architecture of others: Keras's clone_model and model_from_json."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from layergraph.archive.limits import DEFAULT_LIMITS
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.graph import Replaced
from layergraph.functional.input import Input, InputLayer
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Tensor
from layergraph.models.model import Model
from layergraph.models.reading import described_model
from layergraph.models.sequential import Sequential
from layergraph.plugins import custom_object_scope


def model_from_json(json_string: str, custom_objects: Mapping[str, Any] | None = None) -> Model:
    """Returns the model of a JSON text by `Model.to_json`, ours or Keras's, with new weights, compiled if the text is.

    Raises ConfigError for a text that isn't JSON, errors.ModelFileError for a model that can't be created. Source:
    keras.models.model_from_json.
    """
    try:
        described = json.loads(json_string)
    except (ValueError, RecursionError) as wrong:
        raise ConfigError(f"model_from_json: got a text that isn't JSON: {wrong}") from wrong
    with custom_object_scope(custom_objects or {}):
        return cast("Model", described_model(described, DEFAULT_LIMITS))


def clone_model(
    model: Functional, input_tensors: Any = None, clone_function: Callable[[Layer], Layer] | None = None
) -> Model:
    """Returns an uncompiled model of the same architecture, with new layers of the same names and new weights.

    input_tensors    a symbolic tensor, or a list of them, instead of the model's inputs
    clone_function   returns the new layer for each layer except inputs and operations; by default one of equal config

    Raises ConfigError for another number of inputs, GraphError for inputs that don't fit. Source:
    keras.models.clone_model.
    """
    kind: Any = type(model)
    # Classes that aren't registered are taken from the model itself.
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
    """Whether `clone_function` is called for a layer."""
    return not isinstance(layer, InputLayer) and not layer.is_operation


def _called_again(model: Functional, clone: Mapping[Layer, Layer], inputs: list[Tensor] | None) -> Model:
    """Repeats the calls of a model with other layers, from its inputs or from given ones."""
    given = model.inputs if inputs is None else inputs
    if len(given) != len(model.inputs):
        raise ConfigError(f"clone_model: got {len(given)} input tensors, expected {len(model.inputs)}")
    replaced = Replaced(model.inputs, given)
    for node in model.graph.nodes:
        if not node.is_input:
            replaced.call_again(node, clone[node.layer])
    inputs, outputs = map(replaced.within, (model.graph.inputs, model.graph.outputs))
    again = Model(inputs, outputs, name=model.name, trainable=model.trainable)
    # Tensors beside the outputs, such as losses.
    if model.graph.ends:
        again.keep(replaced.within(list(model.graph.ends)))
    return again
