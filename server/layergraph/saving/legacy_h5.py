"""Models -> whole-model `.h5` files, the format that Keras 2 and 3 share.

A model that came from Keras 2 is written for the release that it came from. Another is written as tf.keras 2.15 does
where it means the same in both generations, and both open it, 2.15 with the state of the optimizer; otherwise it is
written as Keras 3 does.

Stock Keras 3 reads no optimizer's state from an `.h5`: with one in the file, its own files too, training fails there
until the model is compiled again. Its state goes through `.keras`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layergraph.archive.hdf5 import OWN_OPTIMIZER_GROUP
from layergraph.errors import ConfigError
from layergraph.functional.model import Model
from layergraph.functional.weight import Weight
from layergraph.saving.arrays import stored_values
from layergraph.saving.graph_config import model_object
from layergraph.saving.keras2_config import file_order, keras2_model
from layergraph.saving.keras2_options import LATER_OPTIMIZER_OPTIONS, LOSSES, OPTIMIZERS, REDUCTIONS
from layergraph.saving.layouts import FileOrder, legacy_order
from layergraph.saving.sharing import WrittenModel
from layergraph.training import losses
from layergraph.training.optimizer import Optimizer, Variable

KERAS2_VERSION = "2.15.0"
#: Largest attribute that HDF5 keeps beside a group.
_ATTRIBUTE_BYTES = 64512


@dataclass(frozen=True, slots=True)
class _Form:
    """What is written: configs of one generation, and the order of the layers."""

    major: int
    keras_version: str
    config: Mapping[str, Any]
    order: FileOrder


def write_h5(model: Model, file: Any, keras3_version: str, generation: int | None = None) -> None:
    """Writes the model into an open HDF5 file, for Keras of a `generation` (2 or 3), or for whichever reads it.

    Raises ConfigError for what no `.h5` of the generation can say.
    """
    training = None if model.compile_config is None else _training_config(model)
    form = _form(model, training, keras3_version, generation)
    keras2 = form.major == 2
    if keras2 and training is not None:
        training["optimizer_config"] = _keras2_optimizer(**training["optimizer_config"])
    file.attrs["keras_version"] = form.keras_version
    file.attrs["backend"] = "tensorflow" if keras2 else "torch"
    file.attrs["model_config"] = json.dumps(form.config, allow_nan=False)
    if training is not None:
        file.attrs["training_config"] = json.dumps(training, allow_nan=False)
    _write_weights(model, form, file.create_group("model_weights"))
    optimizer = model.optimizer
    if optimizer is not None:
        optimizer.build(model.trainable_weights)
        if keras2 and isinstance(optimizer, Optimizer):
            _write_variables(file.create_group("optimizer_weights"), _keras2_variables(optimizer))
        else:
            _write_variables(file.create_group(OWN_OPTIMIZER_GROUP), optimizer.variables)


def _form(model: Model, training: Mapping[str, Any] | None, keras3_version: str, generation: int | None) -> _Form:
    if generation == 2:
        return _keras2_form(model, training)
    written = WrittenModel(model)
    if written.shared:
        name = next(iter(written.shared)).name
        raise ConfigError(
            f"save: layer '{name}' lies in several models or wrappers, which an .h5 file can't say; use .keras"
        )
    said = keras2_model(model)
    of_both = not (said.unsayable or said.keras2_only or said.keras3_only)
    if generation is None and of_both and (training is None or _is_of_keras2(training)):
        return _Form(2, KERAS2_VERSION, said.config, {})
    order = {one: written.layers(one) for one in model.walk_layers() if isinstance(one, Model)}
    return _Form(3, keras3_version, model_object(model, written), order)


def _keras2_form(model: Model, training: Mapping[str, Any] | None) -> _Form:
    said = keras2_model(model, as_stored=True)
    problems = [*said.unsayable, *(f"{what} computes as in Keras 3" for what in said.keras3_only)]
    if training is not None and not _is_of_keras2(training):
        problems.append("Keras 2 lacks the optimizer or a loss that the model is compiled with")
    if problems:
        raise ConfigError(f"save: no .h5 of Keras 2 can hold the model: {'; '.join(problems[:5])}; save it for Keras 3")
    models = [one for one in model.walk_layers() if isinstance(one, Model)]
    order = {one: [layer for layer in file_order(one) if layer in one.layers] for one in models}
    return _Form(2, keras2_version(model), said.config, order)


def keras2_version(model: Model) -> str:
    """The release of Keras 2 that the model is written for: its own, or the last."""
    own = model.keras_version or ""
    return own if own.startswith("2.") and model.stored_form is not None else KERAS2_VERSION


# --- weights ----------------------------------------------------------------------------------------------------------


def _write_weights(model: Model, form: _Form, group: Any) -> None:
    layers = form.order.get(model, model.layers)
    inputs = (
        [] if model.keras_class_name == "Functional" or not model.built else [t.history.layer for t in model.inputs]
    )
    _write_names(group, "layer_names", [layer.name for layer in [*inputs, *layers]])
    group.attrs["backend"] = "tensorflow"
    group.attrs["keras_version"] = form.keras_version
    # Sorted, so that the group `a` is there before its name turns up in `a/b`.
    for layer in sorted([*inputs, *layers], key=lambda layer: layer.name):
        _write_arrays(group.require_group(layer.name), legacy_order(layer, form.order))
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


def _write_names(group: Any, attribute: str, names: Sequence[str]) -> None:
    """A list of texts, in parts where HDF5 takes no larger attribute, as Keras writes it."""
    array = np.array([name.encode("utf-8") for name in names])
    parts = 1
    while any(part.nbytes > _ATTRIBUTE_BYTES for part in np.array_split(array, parts)):
        parts += 1
    if parts == 1:
        group.attrs[attribute] = array if names else np.empty(0)
        return
    for index, part in enumerate(np.array_split(array, parts)):
        group.attrs[f"{attribute}{index}"] = part


# --- training ---------------------------------------------------------------------------------------------------------


def _training_config(model: Model) -> dict[str, Any]:
    """The arguments of `compile` as both generations read them: losses as objects, one for each of several outputs."""
    given = model.compile_config or {}
    names = model.output_names
    kind = given["optimizer"]["class_name"]
    config = {k: v for k, v in given["optimizer"]["config"].items() if k not in LATER_OPTIMIZER_OPTIONS or v}
    loss = _by_output(given.get("loss"), names)
    written = [_loss(item) for item in loss] if isinstance(loss, list) else _loss(loss)
    result = {
        "loss": written,
        "loss_weights": _by_output(given.get("loss_weights"), names),
        "optimizer_config": {"class_name": kind, "config": config},
    }
    for key in ("metrics", "weighted_metrics"):
        value = given.get(key)
        result[key] = _plain(_by_output(value, names) if isinstance(value, Mapping) else value)
    return result


def _keras2_optimizer(class_name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """As 2.15 writes it: the plain class name would mean one of its legacy optimizers.

    Keras 3 takes the optimizer that is called like this one, with its defaults: the name must be a class's.
    """
    return {"class_name": f"Custom>{class_name}", "config": {**config, "name": class_name.lower()}}


def _by_output(value: Any, names: Sequence[str]) -> Any:
    """A dict by output as a list; one loss for several outputs as a list of it."""
    if isinstance(value, Mapping) and "class_name" not in value:
        return [value.get(name) for name in names]
    if value is None or isinstance(value, (list, tuple)) or len(names) == 1:
        return list(value) if isinstance(value, tuple) else value
    return [value] * len(names)


def _loss(value: Any) -> Any:
    """A loss as an object: Keras 3 can't read the names of some."""
    if value is None or value in losses.BY_SHAPES:
        return value
    return _plain(losses.keras_form(losses.loss(value)))


def _plain(value: Any) -> Any:
    """Without the modules, by which Keras 3 tells its own form."""
    if isinstance(value, Mapping) and "class_name" in value:
        config = value.get("config")
        function = config.get("fn") if isinstance(config, Mapping) else None
        if value["class_name"] == "MeanMetricWrapper" and config == {"name": function, "fn": function}:
            # Keras's own form of a function in these files.
            return function
        config = {k: v for k, v in config.items() if k != "dtype" or v} if isinstance(config, Mapping) else config
        return {"class_name": value["class_name"], "config": config}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _is_of_keras2(training: Mapping[str, Any]) -> bool:
    """Whether tf.keras 2.15 has the optimizer and the losses."""
    optimizer = training["optimizer_config"]
    known = optimizer["class_name"] in OPTIMIZERS and not set(LATER_OPTIMIZER_OPTIONS) & set(optimizer["config"])
    several = training["loss"] if isinstance(training["loss"], list) else [training["loss"]]
    return known and all(
        loss is None
        or (isinstance(loss, dict) and loss["class_name"] in LOSSES and loss["config"].get("reduction") in REDUCTIONS)
        for loss in several
    )


def _keras2_variables(optimizer: Optimizer) -> list[Variable]:
    """The state as 2.15's optimizers have it, and not its legacy ones, whose config isn't written."""
    legacy, optimizer.legacy = optimizer.legacy, False
    try:
        _, *slots = optimizer.keras2_variables()
    finally:
        optimizer.legacy = legacy
    return [Variable("iteration", np.array(optimizer.iterations, np.int64)), *slots]
