"""JSON encoding of arguments of Keras's `compile`, of callbacks and of class weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.training.keras_objects import keras_callback, keras_name


def class_weight_json(class_weight: Mapping[int, float] | None) -> str:
    """Encodes weights: {0: 1.0, 1: 5.0} -> '{"0": 1.0, "1": 5.0}'. Raises InvalidArgument if they aren't finite."""
    if class_weight is None:
        return ""
    try:
        weights = {str(int(index)): float(weight) for index, weight in class_weight.items()}
    except (TypeError, ValueError, AttributeError):
        raise InvalidArgument(f"class_weight: got {class_weight!r}, expected a dict of class index to number") from None
    if not all(math.isfinite(weight) for weight in weights.values()):
        raise InvalidArgument(f"class_weight: got {class_weight!r}, expected finite weights")
    return json.dumps(weights)


def lora_json(lora: Any) -> str:
    """Encodes LoRA settings: a rank, or a dict of them. Raises InvalidArgument for other settings."""
    if lora is None:
        return ""
    rank = isinstance(lora, (int, np.integer)) and not isinstance(lora, bool)
    settings = {"rank": int(lora)} if rank else lora
    known = ("rank", "alpha", "layers", "keep")
    if not isinstance(settings, Mapping) or "rank" not in settings or any(name not in known for name in settings):
        raise InvalidArgument(f"lora: got {lora!r}, expected a rank, or a dict of {', '.join(known)}")
    layers = settings.get("layers")
    return json.dumps({**settings, **({"layers": [layers]} if isinstance(layers, str) else {})}, default=_number)


def _number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise InvalidArgument(f"lora: got {value!r}, expected numbers, a list of patterns and True or False")


def callbacks_json(callbacks: Any) -> str:
    """Encodes a callback or a list of them: names, serialized objects, Keras's, or objects with `get_config()`.

    Raises InvalidArgument for other objects.
    """
    if callbacks is None:
        return ""
    several = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    encoded = map(_callback, several)
    return json.dumps([callback for callback in encoded if callback is not None])


def _callback(callback: Any) -> Any:
    if not isinstance(callback, (str, Mapping)) and not callable(getattr(callback, "get_config", None)):
        callback = keras_callback(callback)
    return plain("callbacks", callback)


def plain(setting: str, value: Any) -> Any:
    """Converts a setting to JSON types: names, serialized objects, and lists and dicts of these.

    An object with `get_config()`, such as an optimizer, loss, metric or schedule of Keras or layergraph, becomes
    {"class_name", "config"}, and a function or class of Keras its name. Raises InvalidArgument for other objects.
    """
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(setting, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(setting, item) for item in value]
    if hasattr(value, "__array__") and not isinstance(value, type):
        # Also a tensor, as in the config of Keras's AUC: on a GPU torch's has no array, TensorFlow's has no `tolist`.
        return value.tolist() if hasattr(value, "tolist") else np.asarray(value).tolist()
    if callable(getattr(value, "get_config", None)) and not isinstance(value, type):
        return {"class_name": type(value).__name__, "config": plain(setting, value.get_config())}
    if (name := keras_name(value)) is not None:
        return name
    own = callable(value) and hasattr(value, "__name__")
    got = f"{value.__name__}, whose code isn't sent to the server" if own else repr(value)
    raise InvalidArgument(
        f"{setting}: got {got}, expected a name, a serialized object ({{'class_name', 'config'}}), an object with "
        "get_config(), a function of Keras, or a list or dict of these"
    )
