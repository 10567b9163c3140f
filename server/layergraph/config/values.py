"""Converts values in configs to their canonical form."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from layergraph.config.diagnostics import Diagnostics, short_name
from layergraph.config.keras_versions import ACTIVATION, OWN_KEY, Generation
from layergraph.config.quantization import QUANTIZED_POLICIES
from layergraph.config.refused import REFUSED
from layergraph.config.spec import LayerSpec, TensorRef

#: Keys of layers within a layer's config.
LAYER_KEYS = frozenset(
    {"layer", "layers", "backward_layer", "forward_layer", "cell", "cells", "token_embedding", "backbone"}
)

#: Modules whose functions a config may name. Only our own tables are searched for the name.
_KERAS_MODULES = ("keras", "tf_keras", "tensorflow", "builtins")
#: Modules of Keras's own classes. Models of layergraph name it where Keras lacks a class.
_CLASS_MODULES = (*_KERAS_MODULES, "layergraph")
_FUNCTIONS = ("function", "builtin_function_or_method")
#: Prefix of the names of custom classes without a package.
CUSTOM = "Custom>"

_POLICIES = frozenset({"DTypePolicy", "FloatDTypePolicy", "Policy", "PolicyV1"})
#: Policies that a name doesn't describe completely.
_STRUCTURED_POLICIES = frozenset({*QUANTIZED_POLICIES, "DTypePolicyMap"})
#: Ends of the names of options that training alone needs: what is unknown in them doesn't hinder serving.
TRAINING_OPTIONS = ("_initializer", "_regularizer", "_constraint")
_MAX_CONSTANTS = 1_000_000


@dataclass(frozen=True, slots=True)
class ValueReader:
    """Converts JSON values of a config to their canonical form. Errors are added to `problems`.

    functions                   names of custom functions
    read_layer(config, owner)   reads a layer within a layer
    """

    generation: Generation
    problems: Diagnostics
    functions: Container[str]
    read_layer: Callable[[Any, str], LayerSpec | None]

    def option(self, owner: str, key: str, value: Any) -> Any:
        """Converts the value of option `key`. `owner` names the layer in problems."""
        if key in LAYER_KEYS:
            return self._layers(owner, value)
        if key == "dtype":
            return self._dtype(owner, value)
        if key.endswith("activation"):
            own = value.get(OWN_KEY) if isinstance(value, dict) else None
            # An activation of ours, composed of layers for Keras; the option's validator checks the name.
            if isinstance(own, dict) and isinstance(own.get(ACTIVATION), str):
                return own[ACTIVATION]
        if key.endswith(TRAINING_OPTIONS):
            return self._for_training(owner, value)
        canonical = self.value(owner, value)
        if not key.endswith("activation"):
            return canonical
        # An activation layer is read from the raw value, which a file of Keras 2 has to contain again.
        is_layer = isinstance(canonical, dict) and "class_name" in canonical
        return self._activation(owner, value if is_layer else canonical)

    def value(self, owner: str, value: Any) -> Any:
        """Converts any value: Keras's marked objects to Python's, serialised objects to {"class_name", "config"}."""
        if isinstance(value, list):
            return [self.value(owner, item) for item in value]
        if not isinstance(value, dict):
            return value
        if "class_name" not in value:
            return {key: self.value(owner, item) for key, item in value.items()}
        name = class_name(value)
        if name is None:
            self.problems.add(f"class_name is {short_name(value['class_name'])}, expected text", owner)
            return None
        if name in REFUSED:
            self.problems.add(f"{name} {REFUSED[name]}", owner)
            return None
        if name in _MARKED:
            return self._marked(owner, name, value)
        if name in _POLICIES or name in _STRUCTURED_POLICIES:
            return self._dtype(owner, value)
        if name in _FUNCTIONS:
            return self._function(owner, value)
        config = value.get("config")
        config = config if isinstance(config, dict) else {}
        return {"class_name": name, "config": {key: self.value(owner, item) for key, item in config.items()}}

    def _layers(self, owner: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self.read_layer(item, owner) for item in value]
        return None if value is None else self.read_layer(value, owner)

    def _for_training(self, owner: str, value: Any) -> Any:
        """Converts an initializer, regularizer or constraint; if it is custom, to its name alone."""
        unread = Diagnostics()
        canonical = replace(self, problems=unread).value(owner, value)
        if not unread or not isinstance(value, dict):
            return canonical
        name = class_name(value)
        name = value.get("config") if name == "function" else name
        return {"class_name": name if isinstance(name, str) else "function", "config": {}}

    def _dtype(self, owner: str, value: Any) -> Any:
        """Converts a dtype or policy to its name; quantized policies and policy maps to class and config."""
        if not isinstance(value, dict):
            return value
        config = value.get("config")
        if (kind := class_name(value)) in _STRUCTURED_POLICIES and isinstance(config, dict):
            return {"class_name": kind, "config": {key: self.value(owner, item) for key, item in config.items()}}
        name = config.get("name") if isinstance(config, dict) else None
        if class_name(value) in _POLICIES and isinstance(name, str):
            return name
        self.problems.add(f"dtype policy {short_name(value.get('class_name'))} is not supported", owner)
        return None

    def _activation(self, owner: str, value: Any) -> Any:
        """Converts an activation to its canonical name, or to a layer."""
        if isinstance(value, dict) and "class_name" in value:
            return self.read_layer(value, owner)
        return self.generation.activations.get(value, value) if isinstance(value, str) else value

    def _function(self, owner: str, value: Mapping[str, Any]) -> str | None:
        """Returns a function's name. Names are only looked up in our tables and those of plugins."""
        module, name, registered = value.get("module"), value.get("config"), value.get("registered_name")
        for key in (registered, name):
            if isinstance(key, str) and key in self.functions:
                return key
        known = module is None or (isinstance(module, str) and module.partition(".")[0] in _KERAS_MODULES)
        if known and isinstance(name, str):
            return name
        remedy = "a plugin can register an activation: layergraph.plugins.register_activation"
        self.problems.add(f"custom function {short_name(name)} of module {short_name(module)} ({remedy})", owner)
        return None

    def _marked(self, owner: str, name: str, value: Mapping[str, Any]) -> Any:
        try:
            return _MARKED[name](self, owner, value)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            self.problems.add(f"{name} is malformed", owner)
            return None


def class_name(value: Mapping[str, Any]) -> str | None:
    """Returns the class name of a serialised object; `package>Name` for custom classes. None if it isn't text.

    Keras's own classes have no registered name, or an equal one and a module of Keras's. A class of another module may
    have the name of one of Keras's and compute something else, so it is looked up among custom classes only.
    """
    name, registered = value.get("class_name"), value.get("registered_name")
    if not isinstance(name, str):
        return None
    if not isinstance(registered, str) or name in _FUNCTIONS:
        return name
    if ">" in registered:
        return registered
    module = value.get("module")
    known = isinstance(module, str) and module.partition(".")[0] in _CLASS_MODULES
    return name if known else f"{CUSTOM}{name}"


def _keras_tensor(reader: ValueReader, owner: str, value: Mapping[str, Any]) -> TensorRef:
    layer, node, tensor = value["config"]["keras_history"]
    if not (isinstance(layer, str) and type(node) is int and type(tensor) is int):
        raise TypeError("keras_history isn't [layer, node, tensor]")
    return TensorRef(layer, node, tensor)


def _array(reader: ValueReader, owner: str, value: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    config = value["config"]
    dtype = np.dtype(config["dtype"])
    array = np.array(config["value"], dtype)
    if dtype.kind not in "biuf" or array.size > _MAX_CONSTANTS:
        raise ValueError("not an array of numbers")
    return array


def _slice(reader: ValueReader, owner: str, value: Mapping[str, Any]) -> slice:
    config = value["config"]
    return slice(*(reader.value(owner, config[key]) for key in ("start", "stop", "step")))


#: Objects that Keras marks with special class names.
_MARKED: Mapping[str, Callable[[ValueReader, str, Mapping[str, Any]], Any]] = {
    "__keras_tensor__": _keras_tensor,
    "__tuple__": lambda reader, owner, value: tuple(reader.value(owner, item) for item in value["items"]),
    "__slice__": _slice,
    "__ellipsis__": lambda reader, owner, value: Ellipsis,
    "__numpy__": _array,
    "__tensor__": _array,
    "__bytes__": lambda reader, owner, value: value["config"]["value"].encode("utf-8"),
}
