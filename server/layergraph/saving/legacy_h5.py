"""Saving models as `.h5` files, the whole-model format of Keras 2 and 3.

For Keras 2, a model is written for the release that it came from, or else for 2.15, with the optimizer's state.

Stock Keras 3 loads no optimizer state from an `.h5`: with one in the file, even one that it wrote itself, training
fails until the model is compiled again. So for Keras 3 the state is in a group that only layergraph reads; use `.keras`
files to pass it to Keras.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layergraph.archive.hdf5 import OWN_OPTIMIZER_GROUP
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.weight import Weight
from layergraph.saving.arrays import stored_values
from layergraph.saving.compile_object import compile_object
from layergraph.saving.config_json import config_json
from layergraph.saving.graph_config import model_object
from layergraph.saving.keras2.compile import Keras2Compile, keras2_state
from layergraph.saving.keras2.config import KERAS2_VERSION, checked_config, file_orders
from layergraph.saving.keras2.releases import Release
from layergraph.saving.keras3_checks import check_for_keras3
from layergraph.saving.layouts import FileOrder, left_out_of_keras3_h5, legacy_order
from layergraph.saving.optimizer_kinds import check_keras3_optimizer
from layergraph.saving.sharing import WrittenModel
from layergraph.training.optimizers.state import Variable
from layergraph.training.trainer import Trainer

#: Maximum size in bytes of an HDF5 attribute.
_ATTRIBUTE_BYTES = 64512


@dataclass(frozen=True, slots=True)
class _Form:
    """The parts of a file: configs of one generation, the order of the layers, and the arguments of `compile`.

    The weights in `left_out` aren't written.
    """

    keras_version: str
    config: Mapping[str, Any]
    order: FileOrder
    training: Mapping[str, Any] | None
    left_out: frozenset[Weight] = frozenset()


def write_h5(model: Trainer, file: Any, keras3_version: str, generation: int) -> None:
    """Writes the model into an open HDF5 file, for Keras of a `generation` (2 or 3).

    Raises ConfigError if an `.h5` of that generation can't store the model.
    """
    compiled, keras2 = model.saved_compilation, generation == 2
    form = _form(model, keras3_version, generation)
    texts = {
        "keras_version": form.keras_version,
        "backend": "tensorflow" if keras2 else "torch",
        "model_config": config_json(form.config),
    }
    if compiled is not None:
        texts["training_config"] = json.dumps(form.training, allow_nan=False)
    for name, text in texts.items():
        _write_text(file, name, text)
    _write_weights(model, form, file.create_group("model_weights"))
    if compiled is not None:
        optimizer = compiled.optimizer
        optimizer.build(model.trainable_weights)
        if keras2:
            state = keras2_state(optimizer, Release.of(form.keras_version))
            # Legacy optimizers create their state in the first step, and some fail to load one without any step.
            if state[0].name == "iteration" or optimizer.iterations:
                _write_variables(file.create_group("optimizer_weights"), state)
        else:
            _write_variables(file.create_group(OWN_OPTIMIZER_GROUP), optimizer.variables)


def check_h5(model: Trainer, keras3_version: str, generation: int) -> None:
    """Raises ConfigError if an `.h5` of that generation can't store the model."""
    _form(model, keras3_version, generation)


def _form(model: Trainer, keras3_version: str, generation: int) -> _Form:
    return _keras2_form(model) if generation == 2 else _keras3_form(model, keras3_version)


def _keras3_form(model: Trainer, keras_version: str) -> _Form:
    check_for_keras3(model)
    if model.class_form is not None:
        raise ConfigError(
            f"save: KerasHub doesn't open an .h5 of a whole {model.keras_class_name}, whose name is there without its "
            "package; use .keras"
        )
    written = WrittenModel(model)
    if written.shared:
        name = next(iter(written.shared)).name
        raise ConfigError(
            f"save: layer '{name}' is in several models or wrappers, which an .h5 file can't store; use .keras"
        )
    order = {one: written.layers(one) for one in model.walk_layers() if isinstance(one, Functional)}
    if (compiled := model.saved_compilation) is not None:
        check_keras3_optimizer(compiled.optimizer, model)
    training = None if compiled is None else _keras3_training(model)
    left_out = frozenset(left_out_of_keras3_h5(model))
    return _Form(keras_version, model_object(model, written), order, training, left_out)


def _keras2_form(model: Trainer) -> _Form:
    training, problems = None, []
    if model.saved_compilation is not None:
        writer = Keras2Compile(model, Release.of(keras2_version(model)))
        training = writer.training_config()
        problems = writer.unsupported
    config = checked_config(model, ".h5", problems)
    return _Form(keras2_version(model), config, file_orders(model), training)


def keras2_version(model: Trainer) -> str:
    """The release of Keras 2 that the model is written for: its own, or the last."""
    own = model.keras_version or ""
    return own if own.startswith("2.") and model.stored_form is not None else KERAS2_VERSION


# Weights.


def _write_weights(model: Trainer, form: _Form, group: Any) -> None:
    layers = form.order.get(model, model.layers)
    inputs = (
        [] if model.keras_class_name != "Sequential" or not model.built else [t.history.layer for t in model.inputs]
    )
    _write_names(group, "layer_names", [layer.name for layer in [*inputs, *layers]])
    _write_text(group, "backend", "tensorflow")
    _write_text(group, "keras_version", form.keras_version)
    # Sorted, so that group `a` exists before its name is used in `a/b`.
    for layer in sorted([*inputs, *layers], key=lambda layer: layer.name):
        weights = [weight for weight in legacy_order(layer, form.order) if weight not in form.left_out]
        _write_arrays(group.require_group(layer.name), weights)
    _write_names(group.create_group("top_level_model_weights"), "weight_names", [])


def _write_arrays(group: Any, weights: Sequence[Weight]) -> None:
    names = _distinct([f"{weight.path}:0" for weight in weights])
    _write_names(group, "weight_names", names)
    for name, weight in zip(names, weights, strict=True):
        group.create_dataset(name, data=stored_values(weight))


def _write_variables(group: Any, variables: Sequence[Variable]) -> None:
    names = _distinct([f"{variable.name}:0" for variable in variables])
    _write_names(group, "weight_names", names)
    for name, variable in zip(names, variables, strict=True):
        group.create_dataset(name, data=variable.numpy())


def _distinct(names: Sequence[str]) -> list[str]:
    return [name if names.index(name) == i else f"{name.removesuffix(':0')}_{i}:0" for i, name in enumerate(names)]


def _write_text(group: Any, attribute: str, text: str) -> None:
    # As bytes: Keras up to 2.3 with h5py 2 would read str for other texts, and decodes all of them.
    group.attrs[attribute] = text.encode("utf-8")


def _write_names(group: Any, attribute: str, names: Sequence[str]) -> None:
    """Writes a list of names, split into several attributes if it is too large for one, as Keras does."""
    array = np.array([name.encode("utf-8") for name in names])
    parts = 1
    while any(part.nbytes > _ATTRIBUTE_BYTES for part in np.array_split(array, parts)):
        parts += 1
    if parts == 1:
        group.attrs[attribute] = array if names else np.empty(0)
        return
    for index, part in enumerate(np.array_split(array, parts)):
        group.attrs[f"{attribute}{index}"] = part


# Training.


def _keras3_training(model: Trainer) -> dict[str, Any]:
    """`training_config` in Keras 3's format: losses and metrics without the modules that a `.keras` has."""
    config = compile_object(model, names=False)
    optimizer = config.pop("optimizer")
    config = {key: _without_modules(value) for key, value in config.items()}
    return {**config, "optimizer_config": {"class_name": optimizer["class_name"], "config": optimizer["config"]}}


def _without_modules(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_modules(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "class_name" not in value:
        return {key: _without_modules(item) for key, item in value.items()}
    function = value["config"].get("fn")
    if value["class_name"] == "MeanMetricWrapper" and isinstance(function, Mapping):
        # In an .h5, the mean of a function is written as the function's name.
        return function["config"]
    return {"class_name": value["class_name"], "config": value["config"]}
