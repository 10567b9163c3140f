"""Configs of models and layers in Keras 3's format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from layergraph.config.keras2_releases import KERAS3_USES
from layergraph.config.keras_versions import FIRST_CALL, KERAS3_RULE, OWN_KEY, OWN_OPTIONS
from layergraph.config.options import serialized
from layergraph.config.values import LAYER_KEYS
from layergraph.functional.class_form import ClassForm
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure
from layergraph.functional.node import Node
from layergraph.functional.tensor import Tensor
from layergraph.saving.keras2.activations import IN_KERAS3
from layergraph.saving.later_options import without_later_defaults
from layergraph.saving.layouts import registered_name
from layergraph.saving.mask_nodes import keeps_mask_back, without_masks
from layergraph.saving.sharing import WrittenModel

#: The Keras version that saved files claim.
KERAS_VERSION = "3.15.0"

#: Suffixes of option names -> the module in which Keras looks for the class.
_MODULES = {
    "_initializer": "keras.initializers",
    "_regularizer": "keras.regularizers",
    "_constraint": "keras.constraints",
}


def model_object(model: Functional, written: WrittenModel) -> dict[str, Any]:
    """The serialised form of a model, whole or nested, as in `config.json`."""
    sequential = model.keras_class_name == "Sequential"
    if (form := model.class_form) is not None:
        return _class_object(model, form, written)
    return {
        "module": "keras" if sequential else "keras.src.models.functional",
        "class_name": model.keras_class_name,
        "config": graph_config(model, written),
        "registered_name": None if sequential else model.keras_class_name,
    }


def _class_object(model: Functional, form: ClassForm, written: WrittenModel) -> dict[str, Any]:
    """The serialised form of a model of one of KerasHub's classes: its hyperparameters, without its layers."""
    config = {key: _with_module(key, value) for key, value in form.hyperparameters.items()}
    if form.backbone is not None:
        config["backbone"] = layer_object(form.backbone, written)
    # KerasHub looks its classes up by their registered names.
    names = {"class_name": model.keras_class_name, "registered_name": form.registered_name}
    return {"module": None, **names, "config": config}


def graph_config(model: Functional, written: WrittenModel | None = None) -> dict[str, Any]:
    """The config of a Functional or Sequential model, on its own or inside of `written` (keras.Model.get_config)."""
    written = WrittenModel(model) if written is None else written
    head = {"name": model.name, "trainable": model.trainable}
    if model.keras_class_name == "Sequential":
        inputs = [tensor.history.layer for tensor in model.inputs] if model.built else []
        layers = [layer_object(layer, written) for layer in [*inputs, *model.layers]]
        shape = {"build_input_shape": list(model.inputs[0].shape)} if model.built else {}
        return {**head, "dtype": _policy(model.dtype_policy.name), "layers": layers, **shape}
    calls = _Calls(model, written)
    return {
        **head,
        "layers": [calls.layer(layer) for layer in calls.graph.layers],
        "input_layers": calls.end(calls.graph.inputs),
        "output_layers": calls.end(calls.graph.outputs),
    }


def layer_object(layer: Layer, written: WrittenModel) -> dict[str, Any]:
    """The serialised form of a layer, without its calls."""
    described = model_object(layer, written) if isinstance(layer, Functional) else _plain_object(layer, written)
    number = written.shared.get(layer)
    return described if number is None else {**described, "shared_object_id": number}


def _plain_object(layer: Layer, written: WrittenModel) -> dict[str, Any]:
    config = without_later_defaults(layer.keras_class_name, layer.get_config())
    if layer.computes_by_call:
        config = {key: serialized(value) for key, value in config.items()}
    own = {key: getattr(layer, key) for key in OWN_OPTIONS if getattr(layer, key, KERAS3_RULE) != KERAS3_RULE}
    if own.get("mask_use") in KERAS3_USES and not any(
        without_masks(node) or keeps_mask_back(node) for node in layer.inbound_nodes
    ):
        del own["mask_use"]
    for key in config:
        inner = getattr(layer, key, None) if key in LAYER_KEYS or key.endswith("activation") else None
        config[key] = _layers(inner, written) if _holds_layers(inner) else _with_module(key, config[key])
        if key.endswith("activation") and isinstance(inner, Layer) and inner.own_weights:
            # Keras builds it on its first call, too late to load its weights, unless there is a build_config.
            config[key]["build_config"] = {"input_shape": [None, *inner.own_weights[0].shape]}
    # As in Keras, a class that isn't registered has its own name; the loader must supply the class.
    registered = registered_name(layer) or (layer.keras_class_name if layer.computes_by_call else None)
    result = {
        # Keras looks registered classes up by their names alone.
        "module": None if registered else layer.keras_module,
        "class_name": layer.keras_class_name,
        "config": config,
        "registered_name": layer.keras_class_name if layer.is_operation else registered,
    }
    return {**result, OWN_KEY: own} if own else result


def _holds_layers(value: Any) -> bool:
    return isinstance(value, Layer) or (isinstance(value, (list, tuple)) and any(isinstance(v, Layer) for v in value))


def _layers(value: Any, written: WrittenModel) -> Any:
    if isinstance(value, (list, tuple)):
        return [layer_object(item, written) for item in value]
    return layer_object(value, written)


def _with_module(key: str, value: Any) -> Any:
    """A serialised initializer, regularizer, constraint or policy, with the module that Keras requires."""
    if key == "dtype" and value is not None:
        return _policy(value)
    if key == "quantization_config" and isinstance(value, Mapping):
        return _in_module("keras.quantizers", value)
    if key.endswith("activation") and value in IN_KERAS3:
        return IN_KERAS3[value]
    if not isinstance(value, Mapping) or "class_name" not in value:
        return value
    module = next((module for end, module in _MODULES.items() if key.endswith(end)), "keras")
    return {"module": module, "registered_name": None, **value}


def _policy(value: str | Mapping[str, Any]) -> Any:
    """A policy's name as an object; its own object if it quantises or is a map."""
    if isinstance(value, str):
        return {"module": "keras", "class_name": "DTypePolicy", "config": {"name": value}, "registered_name": None}
    parts = value["config"].get("policy_map")
    if parts is not None:
        inner = {path: _policy(part) for path, part in parts.items()}
        value = {**value, "config": {**value["config"], "policy_map": inner}}
    return {"module": "keras.dtype_policies", **value, "registered_name": None}


def _in_module(module: str, value: Any) -> Any:
    """An object, and the objects in its config, with the module that Keras requires."""
    if not isinstance(value, Mapping) or "class_name" not in value:
        return value
    config = {key: _in_module(module, item) for key, item in value["config"].items()}
    return {"module": module, "class_name": value["class_name"], "config": config, "registered_name": None}


def _holds_tensor(written: Any) -> bool:
    if isinstance(written, Mapping):
        return written.get("class_name") == "__keras_tensor__" or any(_holds_tensor(item) for item in written.values())
    return isinstance(written, list) and any(_holds_tensor(item) for item in written)


class _Calls:
    """The calls of one graph, with the indices that Keras will give them."""

    def __init__(self, model: Functional, written: WrittenModel) -> None:
        self._model = model
        self._written = written
        self._masks = written.graphs[model]
        self.graph = self._masks.graph

    def layer(self, layer: Layer) -> dict[str, Any]:
        """The serialised form of a layer, with its calls."""
        described = layer_object(layer, self._written)
        first = self._written.first_call(self._model, layer)
        if first:
            described[OWN_KEY] = {**described.get(OWN_KEY, {}), FIRST_CALL: first}
        nodes = [self._call(node) for node in self.graph.nodes_of(layer) if not node.is_input]
        return {**described, "name": layer.name, "inbound_nodes": nodes}

    def end(self, structure: Structure) -> Structure:
        """Inputs or outputs as [layer, node, tensor]. Only here, Keras counts a Functional's calls from 1."""
        if isinstance(structure, Tensor):
            layer, number, tensor_index = self._history(structure)
            functional = isinstance(layer, Functional) and layer.keras_class_name != "Sequential"
            return [layer.name, number + functional, tensor_index]
        if isinstance(structure, Mapping):
            return {key: self.end(item) for key, item in structure.items()}
        return [self.end(item) for item in structure]

    def _history(self, tensor: Tensor) -> tuple[Layer, int, int]:
        layer, node_index, tensor_index = tensor.history
        first = self._written.first_call(self._model, layer)
        return layer, first + self.graph.numbers[layer.inbound_nodes[node_index]], tensor_index

    def _call(self, node: Node) -> dict[str, Any]:
        kwargs = {name: self._argument(value) for name, value in self._masks.kwargs_of(node).items()}
        if node.training is not None:
            kwargs["training"] = node.training
        args = [self._argument(value) for value in self._masks.args_of(node)]
        if not node.layer.is_operation and node.layer.inner_model is None:
            # Keras only accepts tensors as positional arguments.
            plain = [i for i, arg in enumerate(args) if not _holds_tensor(arg)]
            named = args[plain[0] :] if plain else []
            args = args[: len(args) - len(named)]
            kwargs = {**dict(zip(node.layer.call_argument_names[len(args) :], named, strict=False)), **kwargs}
        return {"args": args, "kwargs": kwargs}

    def _argument(self, value: Any) -> Any:
        """A value of a call's arguments, with Keras's objects for values that JSON lacks."""
        if isinstance(value, Tensor):
            layer, number, index = self._history(value)
            config = {"shape": list(value.shape), "dtype": value.dtype, "keras_history": [layer.name, number, index]}
            return {"class_name": "__keras_tensor__", "config": config}
        if isinstance(value, (list, tuple)):
            # Keras treats lists and tuples the same here, and doesn't load tuples.
            return [self._argument(item) for item in value]
        if isinstance(value, Mapping):
            return {key: self._argument(item) for key, item in value.items()}
        if isinstance(value, slice):
            parts = {name: self._argument(getattr(value, name)) for name in ("start", "stop", "step")}
            return {"class_name": "__slice__", "config": parts}
        if value is Ellipsis:
            return {"class_name": "__ellipsis__", "config": {}}
        if isinstance(value, np.ndarray) and value.ndim:
            return {"class_name": "__numpy__", "config": {"value": value.tolist(), "dtype": value.dtype.name}}
        return value.item() if isinstance(value, (np.generic, np.ndarray)) else value
