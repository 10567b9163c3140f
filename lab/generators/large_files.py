"""Model files with any number of layers, calls, inputs or outputs, written without Keras.

Each form is a function of the count. A file of Keras 2 is an `.h5`, one of Keras 3 a `.keras`, both as Keras writes
them: with all options of a layer, its initializers, and a group for each layer.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

#: A tensor: the name of a layer, and the index of its call, counted from 0.
Ref = tuple[str, int]
#: Largest size of an HDF5 attribute in bytes; Keras splits longer lists of names.
_ATTRIBUTE_BYTES = 64_512
_KERNEL = np.eye(2, dtype="float32")


@dataclass(frozen=True)
class LayerOfFile:
    """A layer, the tensors that each of its calls takes, and its layers if it is a model."""

    class_name: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    calls: tuple[tuple[Ref, ...], ...] = ()
    inner: ModelOfFile | None = None


@dataclass(frozen=True)
class ModelOfFile:
    """A model: its layers, inputs and outputs."""

    layers: list[LayerOfFile]
    inputs: list[str]
    outputs: list[Ref]
    class_name: str = "Functional"


# Forms.


def _relu(name: str, *calls: tuple[Ref, ...]) -> LayerOfFile:
    return LayerOfFile("Activation", name, {"activation": "relu"}, calls)


def _dense(name: str, *calls: tuple[Ref, ...]) -> LayerOfFile:
    return LayerOfFile("Dense", name, {"units": 2, "use_bias": False}, calls)


def _inputs(count: int) -> tuple[list[LayerOfFile], list[str]]:
    names = [f"x{i}" for i in range(count)]
    return [LayerOfFile("InputLayer", name) for name in names], names


def _chain(count: int, make: Callable[..., LayerOfFile]) -> ModelOfFile:
    layers, inputs = _inputs(1)
    names = [*inputs, *(f"a{i}" for i in range(count))]
    layers += [make(name, ((before, 0),)) for before, name in pairwise(names)]
    return ModelOfFile(layers, inputs, [(names[-1], 0)])


def activations(count: int) -> ModelOfFile:
    """A chain of activations."""
    return _chain(count, _relu)


def dense(count: int) -> ModelOfFile:
    """A chain of Dense layers."""
    return _chain(count, _dense)


def _merged(count: int, class_name: str, options: dict[str, Any]) -> ModelOfFile:
    layers, inputs = _inputs(count)
    merge = LayerOfFile(class_name, "merge", options, (tuple((name, 0) for name in inputs),))
    return ModelOfFile([*layers, merge], inputs, [("merge", 0)])


def added(count: int) -> ModelOfFile:
    """Add on many inputs."""
    return _merged(count, "Add", {})


def concatenated(count: int) -> ModelOfFile:
    """Concatenate on many inputs."""
    return _merged(count, "Concatenate", {"axis": -1})


def fan(count: int) -> ModelOfFile:
    """Activations of one input, concatenated."""
    layers, inputs = _inputs(1)
    names = [f"a{i}" for i in range(count)]
    layers += [_relu(name, ((inputs[0], 0),)) for name in names]
    merge = LayerOfFile("Concatenate", "merge", {"axis": -1}, (tuple((name, 0) for name in names),))
    return ModelOfFile([*layers, merge], inputs, [("merge", 0)])


def outputs(count: int) -> ModelOfFile:
    """Many outputs of one input."""
    layers, inputs = _inputs(1)
    names = [f"a{i}" for i in range(count)]
    return ModelOfFile([*layers, *(_relu(name, ((inputs[0], 0),)) for name in names)], inputs, [(n, 0) for n in names])


def unused(count: int) -> ModelOfFile:
    """Many inputs, of which one is used."""
    layers, inputs = _inputs(count)
    return ModelOfFile([*layers, _relu("a", ((inputs[0], 0),))], inputs, [("a", 0)])


def shared_chain(count: int) -> ModelOfFile:
    """A chain of calls of one Dense layer."""
    layers, inputs = _inputs(1)
    calls = [((inputs[0], 0),), *((("a", i),) for i in range(count - 1))]
    return ModelOfFile([*layers, _dense("a", *calls)], inputs, [("a", count - 1)])


def shared_fan(count: int) -> ModelOfFile:
    """Calls of one Dense layer on many inputs, added."""
    layers, inputs = _inputs(count)
    merge = LayerOfFile("Add", "merge", {}, (tuple(("a", i) for i in range(count)),))
    return ModelOfFile([*layers, _dense("a", *(((name, 0),) for name in inputs)), merge], inputs, [("merge", 0)])


def _model(name: str, inner: ModelOfFile, *calls: tuple[Ref, ...]) -> LayerOfFile:
    return LayerOfFile(inner.class_name, name, {}, calls, inner)


def nested(count: int) -> ModelOfFile:
    """A chain of models of one Dense layer each."""

    def make(name: str, *calls: tuple[Ref, ...]) -> LayerOfFile:
        layers = [LayerOfFile("InputLayer", f"{name}_x"), _dense(f"{name}_d", ((f"{name}_x", 0),))]
        return _model(name, ModelOfFile(layers, [f"{name}_x"], [(f"{name}_d", 0)]), *calls)

    return _chain(count, make)


def one_group(count: int) -> ModelOfFile:
    """A chain of Dense layers in one nested model, whose group in an `.h5` has all their weights."""
    layers, inputs = _inputs(1)
    inner = _chain(count, _dense)
    return ModelOfFile([*layers, _model("model", inner, ((inputs[0], 0),))], inputs, [("model", 0)])


def sequential(count: int) -> ModelOfFile:
    """A Sequential of Dense layers."""
    layers, inputs = _inputs(1)
    return ModelOfFile([*layers, *(_dense(f"a{i}") for i in range(count))], inputs, [], "Sequential")


FORMS: dict[str, Callable[[int], ModelOfFile]] = {
    form.__name__: form
    for form in (
        activations,
        dense,
        sequential,
        nested,
        one_group,
        shared_chain,
        shared_fan,
        added,
        concatenated,
        fan,
        outputs,
        unused,
    )
}


# Files of Keras 2.


def write_h5(path: Path, model: ModelOfFile) -> Path:
    """Writes an `.h5` as Keras 2.11 does."""
    with h5py.File(path, "w") as file:
        text = json.dumps({"class_name": model.class_name, "config": _keras2_config(model, "model")})
        file.attrs["model_config"] = text if len(text) >= _ATTRIBUTE_BYTES else np.bytes_(text)
        file.attrs["keras_version"], file.attrs["backend"] = "2.11.0", "tensorflow"
        group = file.create_group("model_weights")
        _save_names(group, "layer_names", [layer.name for layer in model.layers])
        for layer in model.layers:
            own = group.create_group(layer.name)
            names = [f"{name}/kernel:0" for name in _dense_names(layer)]
            _save_names(own, "weight_names", names)
            for name in names:
                own[name] = _KERNEL
    return path


def _dense_names(layer: LayerOfFile) -> Iterator[str]:
    if layer.class_name == "Dense":
        yield layer.name
    for inner in layer.inner.layers if layer.inner else ():
        yield from _dense_names(inner)


def _save_names(group: Any, attribute: str, names: list[str]) -> None:
    encoded = np.array([name.encode() for name in names]) if names else np.array([], "S1")
    parts = np.array_split(encoded, -(-encoded.nbytes // _ATTRIBUTE_BYTES)) if names else [encoded]
    for index, part in enumerate(parts):
        group.attrs[attribute if len(parts) == 1 else f"{attribute}{index}"] = part


def _keras2_config(model: ModelOfFile, name: str) -> dict[str, Any]:
    # Keras 2 counts the building of a nested model as its call 0.
    first = {layer.name: 1 for layer in model.layers if layer.inner}
    layers = [_keras2_layer(layer, first) for layer in model.layers]
    if model.class_name == "Sequential":
        return {"name": name, "layers": [{key: layer[key] for key in ("class_name", "config")} for layer in layers]}
    return {
        "name": name,
        "trainable": True,
        "layers": layers,
        "input_layers": [[known, 0, 0] for known in model.inputs],
        "output_layers": [[known, call + first.get(known, 0), 0] for known, call in model.outputs],
    }


def _keras2_layer(layer: LayerOfFile, first: dict[str, int]) -> dict[str, Any]:
    config: dict[str, Any] = {"name": layer.name, "trainable": True, "dtype": "float32", **layer.options}
    if layer.inner:
        config = _keras2_config(layer.inner, layer.name)
    elif layer.class_name == "InputLayer":
        config = {"batch_input_shape": [None, 2], "dtype": "float32", "sparse": False, "ragged": False}
        config["name"] = layer.name
    elif layer.class_name == "Dense":
        config |= _dense_options(_initializer)
    nodes = [[[known, call + first.get(known, 0), 0, {}] for known, call in refs] for refs in layer.calls]
    return {"class_name": layer.class_name, "name": layer.name, "config": config, "inbound_nodes": nodes}


def _initializer(class_name: str, **config: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": config}


def _dense_options(initializer: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    absent = ("kernel_regularizer", "bias_regularizer", "activity_regularizer", "kernel_constraint", "bias_constraint")
    return {
        "activation": "linear",
        "kernel_initializer": initializer("GlorotUniform", seed=None),
        "bias_initializer": initializer("Zeros"),
        **dict.fromkeys(absent),
    }


# Files of Keras 3.


def write_keras(path: Path, model: ModelOfFile) -> Path:
    """Writes a `.keras` as Keras 3.9 does."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        _save_variables(file, model)
    described = _keras3_object(model.class_name, _keras3_config(model, "model"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.9.0", "date_saved": "2025-03-01@00:00:00"}))
        archive.writestr("config.json", json.dumps(described))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path


def _save_variables(group: Any, model: ModelOfFile) -> None:
    used: Counter[str] = Counter()
    layers = group.create_group("layers")
    for layer in model.layers:
        if model.class_name == "Sequential" and layer.class_name == "InputLayer":
            continue
        base = {"InputLayer": "input_layer"}.get(layer.class_name, layer.class_name.lower())
        name = f"{base}_{used[base]}" if used[base] else base
        used[base] += 1
        if layer.class_name == "Dense":
            layers[f"{name}/vars/0"] = _KERNEL
        elif layer.inner:
            _save_variables(layers.create_group(name), layer.inner)


def _keras3_config(model: ModelOfFile, name: str) -> dict[str, Any]:
    layers = [_keras3_layer(layer) for layer in model.layers]
    config = {"name": name, "trainable": True, "layers": layers}
    if model.class_name == "Sequential":
        for layer in layers:
            del layer["name"], layer["inbound_nodes"]
        return {**config, "build_input_shape": [None, 2]}
    # In a model's outputs only, Keras 3 counts the calls of a nested model from 1.
    first = {layer.name: 1 for layer in model.layers if layer.inner}
    inputs = [[known, 0, 0] for known in model.inputs]
    outputs = [[known, call + first.get(known, 0), 0] for known, call in model.outputs]
    return {
        **config,
        "input_layers": inputs[0] if len(inputs) == 1 else inputs,
        "output_layers": outputs[0] if len(outputs) == 1 else outputs,
    }


def _keras3_layer(layer: LayerOfFile) -> dict[str, Any]:
    policy = _keras3_object("DTypePolicy", {"name": "float32"})
    config: dict[str, Any] = {"name": layer.name, "trainable": True, "dtype": policy, **layer.options}
    if layer.inner:
        config = _keras3_config(layer.inner, layer.name)
    elif layer.class_name == "InputLayer":
        config = {"batch_shape": [None, 2], "dtype": "float32", "sparse": False, "ragged": False, "name": layer.name}
    elif layer.class_name == "Dense":
        config |= _dense_options(lambda name, **options: _keras3_object(name, options))
    nodes = [{"args": _tensors(refs), "kwargs": {}} for refs in layer.calls]
    built = {"build_config": {"input_shape": [None, 2]}} if layer.class_name == "Dense" else {}
    return {**_keras3_object(layer.class_name, config), **built, "name": layer.name, "inbound_nodes": nodes}


def _keras3_object(class_name: str, config: dict[str, Any]) -> dict[str, Any]:
    return {"module": "keras", "class_name": class_name, "config": config, "registered_name": None}


def _tensors(refs: tuple[Ref, ...]) -> list[Any]:
    described = [
        {
            "class_name": "__keras_tensor__",
            "config": {"shape": [None, 2], "dtype": "float32", "keras_history": [name, call, 0]},
        }
        for name, call in refs
    ]
    return described if len(refs) == 1 else [described]


WRITERS = {".h5": write_h5, ".keras": write_keras}
