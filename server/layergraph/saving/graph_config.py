"""Models and layers -> the configs that Keras 3 writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from layergraph.config.generation import KERAS3_RULE, OWN_KEY, OWN_OPTIONS
from layergraph.config.values import LAYER_KEYS
from layergraph.functional.layer import Layer
from layergraph.functional.model import Model
from layergraph.functional.node import Node
from layergraph.functional.structure import Structure
from layergraph.functional.tensor import Tensor
from layergraph.saving.layouts import class_name

#: Ends of option names -> the module in which Keras looks for the class.
_MODULES = {
    "_initializer": "keras.initializers",
    "_regularizer": "keras.regularizers",
    "_constraint": "keras.constraints",
}


#: Layer -> the number by which a file says that it is one and the same in several places.
SharedIds = Mapping[Layer, int]


def shared_ids(model: Model) -> SharedIds:
    """Numbers for the layers that a wrapper holds and that lie in another place of the model too.

    Not for those that only lie in several models: Keras, told that they are one, miscounts their calls.
    """
    holders: dict[Layer, list[Layer]] = {}
    for layer in model.walk_layers():
        for inner in layer.sublayers.values():
            holders.setdefault(inner, []).append(layer)
    shared = [
        inner for inner, held in holders.items() if len(held) > 1 and not all(isinstance(one, Model) for one in held)
    ]
    return {layer: number for number, layer in enumerate(shared, 1)}


def model_object(model: Model, shared: SharedIds | None = None) -> dict[str, Any]:
    """A model as `config.json` has it."""
    sequential = model.keras_class_name == "Sequential"
    return {
        "module": "keras" if sequential else "keras.src.models.functional",
        "class_name": model.keras_class_name,
        "config": graph_config(model, shared),
        "registered_name": None if sequential else model.keras_class_name,
    }


def graph_config(model: Model, shared: SharedIds | None = None) -> dict[str, Any]:
    """The config of a Functional or Sequential model (keras.Model.get_config)."""
    shared = shared_ids(model) if shared is None else shared
    head = {"name": model.name, "trainable": model.trainable}
    if model.keras_class_name == "Sequential":
        inputs = [tensor.history.layer for tensor in model.inputs] if model.built else []
        layers = [layer_object(layer, shared) for layer in [*inputs, *model.layers]]
        shape = {"build_input_shape": list(model.inputs[0].shape)} if model.built else {}
        return {**head, "dtype": _policy(model.dtype_policy.name), "layers": layers, **shape}
    graph = model.graph
    return {
        **head,
        "layers": [
            {
                **layer_object(layer, shared),
                "name": layer.name,
                "inbound_nodes": [_call(node, graph.numbers) for node in graph.nodes_of(layer) if not node.is_input],
            }
            for layer in graph.layers
        ],
        "input_layers": _end(graph.inputs, graph.numbers),
        "output_layers": _end(graph.outputs, graph.numbers),
    }


def layer_object(layer: Layer, shared: SharedIds) -> dict[str, Any]:
    """A layer, without its calls."""
    described = model_object(layer, shared) if isinstance(layer, Model) else _plain_object(layer, shared)
    return {**described, "shared_object_id": shared[layer]} if layer in shared else described


def _plain_object(layer: Layer, shared: SharedIds) -> dict[str, Any]:
    config = layer.get_config()
    own = {key: getattr(layer, key) for key in OWN_OPTIONS if getattr(layer, key, KERAS3_RULE) != KERAS3_RULE}
    for key in config:
        inner = getattr(layer, key, None) if key in LAYER_KEYS or key.endswith("activation") else None
        config[key] = _layers(inner, shared) if _holds_layers(inner) else _with_module(key, config[key])
    result = {
        "module": layer.keras_module,
        "class_name": class_name(layer),
        "config": config,
        "registered_name": class_name(layer) if layer.is_operation else None,
    }
    return {**result, OWN_KEY: own} if own else result


def _holds_layers(value: Any) -> bool:
    return isinstance(value, Layer) or (isinstance(value, (list, tuple)) and any(isinstance(v, Layer) for v in value))


def _layers(value: Any, shared: SharedIds) -> Any:
    if isinstance(value, (list, tuple)):
        return [layer_object(item, shared) for item in value]
    return layer_object(value, shared)


def _with_module(key: str, value: Any) -> Any:
    """A serialised initializer, regularizer, constraint or policy with the module that Keras wants beside it."""
    if key == "dtype" and isinstance(value, str):
        return _policy(value)
    if not isinstance(value, Mapping) or "class_name" not in value:
        return value
    module = next((module for end, module in _MODULES.items() if key.endswith(end)), "keras")
    return {"module": module, **value, "registered_name": None}


def _policy(name: str) -> dict[str, Any]:
    return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": name}, "registered_name": None}


def _call(node: Node, numbers: Mapping[Node, int]) -> dict[str, Any]:
    kwargs = {name: _argument(value, numbers) for name, value in node.kwargs.items()}
    if node.training is not None:
        kwargs["training"] = node.training
    return {"args": [_argument(value, numbers) for value in node.args], "kwargs": kwargs}


def _argument(value: Any, numbers: Mapping[Node, int]) -> Any:
    """A value of a call's arguments, with Keras's marks for what JSON lacks."""
    if isinstance(value, Tensor):
        layer, node_index, tensor_index = value.history
        number = numbers[layer.inbound_nodes[node_index]]
        config = {"shape": list(value.shape), "dtype": value.dtype, "keras_history": [layer.name, number, tensor_index]}
        return {"class_name": "__keras_tensor__", "config": config}
    if isinstance(value, (list, tuple)):
        # Keras makes no difference here, and reads no tuples back.
        return [_argument(item, numbers) for item in value]
    if isinstance(value, Mapping):
        return {key: _argument(item, numbers) for key, item in value.items()}
    if isinstance(value, slice):
        parts = {name: _argument(getattr(value, name), numbers) for name in ("start", "stop", "step")}
        return {"class_name": "__slice__", "config": parts}
    if value is Ellipsis:
        return {"class_name": "__ellipsis__", "config": {}}
    if isinstance(value, np.ndarray) and value.ndim:
        return {"class_name": "__numpy__", "config": {"value": value.tolist(), "dtype": value.dtype.name}}
    return value.item() if isinstance(value, (np.generic, np.ndarray)) else value


def _end(structure: Structure, numbers: Mapping[Node, int]) -> Structure:
    """Inputs or outputs as [layer, node, tensor]. Here, and only here, Keras counts a Functional's calls from 1."""
    if isinstance(structure, Tensor):
        layer, node_index, tensor_index = structure.history
        functional = isinstance(layer, Model) and layer.keras_class_name == "Functional"
        return [layer.name, numbers[layer.inbound_nodes[node_index]] + functional, tensor_index]
    if isinstance(structure, Mapping):
        return {key: _end(item, numbers) for key, item in structure.items()}
    return [_end(item, numbers) for item in structure]
