"""Layers in the configs of custom layers: their serialised form, and layers of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from layergraph.config.options import serialized, short_repr
from layergraph.errors import ConfigError
from layergraph.functional.layer import Layer
from layergraph.layers.table import LAYERS
from layergraph.plugins import custom_layers, custom_object_scope
from layergraph.saving.layouts import registered_name


def serialize_keras_object(obj: Any) -> Any:
    """Returns the serialised form of a layer, or of nested layers and other values
    (keras.saving.serialize_keras_object).
    """
    if isinstance(obj, (list, tuple)):
        return [serialize_keras_object(item) for item in obj]
    if isinstance(obj, Mapping):
        return {key: serialize_keras_object(item) for key, item in obj.items()}
    if not isinstance(obj, Layer):
        return serialized(obj)
    registered = registered_name(obj) or (obj.keras_class_name if obj.computes_by_call else None)
    return {
        "module": None if registered else obj.keras_module,
        "class_name": obj.keras_class_name,
        "config": serialized(obj.get_config()),
        "registered_name": registered,
    }


def deserialize_keras_object(config: Any, custom_objects: Mapping[str, Any] | None = None) -> Any:
    """Creates the layer of a serialised form, or nested layers (keras.saving.deserialize_keras_object).

    Layers that a model file has under Keras's keys, such as `layer`, are created before, and returned as they are.
    Raises ConfigError for any class but Keras's layers, registered classes and those of `custom_objects`.
    """
    if isinstance(config, (list, tuple)):
        return [deserialize_keras_object(item, custom_objects) for item in config]
    if not isinstance(config, Mapping):
        return config
    if "class_name" not in config:
        return {key: deserialize_keras_object(item, custom_objects) for key, item in config.items()}
    with custom_object_scope(custom_objects or {}):
        known = custom_layers()
        name = config.get("registered_name") or config["class_name"]
        kind = known.get(name) or known.get(config["class_name"]) or LAYERS.get(config["class_name"])
        if kind is None or not isinstance(config.get("config"), Mapping):
            raise ConfigError(f"got {short_repr(dict(config))} to deserialize, expected the config of a layer")
        # A class of the user's declares no options, and gets all. An option of Keras's layer that ours lacks has no
        # effect if it is None.
        takes_all = kind._options.keys() == Layer._options.keys()
        return kind.from_config(
            {k: v for k, v in config["config"].items() if takes_all or v is not None or k in kind._options}
        )
