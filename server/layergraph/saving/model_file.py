"""Saving models as `.keras` and `.h5` files, atomically."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from layergraph.archive import lazy_h5py as h5py
from layergraph.archive.replacing import replacing
from layergraph.errors import ConfigError
from layergraph.functional.functional import Functional
from layergraph.functional.layer import Layer
from layergraph.saving.arrays import placed_values, stored_values
from layergraph.saving.compile_object import compile_object
from layergraph.saving.config_json import config_json
from layergraph.saving.graph_config import KERAS_VERSION, model_object
from layergraph.saving.keras2.archive import archive_config, archive_groups, archive_version
from layergraph.saving.keras2.compile import keras2_state
from layergraph.saving.keras3_checks import check_for_keras3
from layergraph.saving.layouts import placed_variables, state_groups, variables_path
from layergraph.saving.legacy_h5 import check_h5, write_h5
from layergraph.saving.lora import check_lora
from layergraph.saving.optimizer_kinds import check_keras3_optimizer
from layergraph.saving.quantized_forms import check_quantized
from layergraph.saving.sharing import WrittenModel
from layergraph.training.optimizers.state import Variable
from layergraph.training.trainer import Trainer


def save_model(model: Trainer, path: Path, generation: int | None = None) -> None:
    """Saves the model, with its compile arguments and optimizer state, such that stock Keras loads it.

    Compile arguments of its own file that can't be used, such as a custom loss, are left out.

    `generation` is the generation of Keras to save for, 2 or 3; None for `default_generation`.

    The file is created or replaced atomically, once its content is complete and on disk. Raises ConfigError if the path
    doesn't end in `.keras` or `.h5`, or if such a file can't store the model; OSError if it can't be written.
    """
    writers: dict[str, Callable[[Trainer, Path, int], None]] = {".keras": _write_keras, ".h5": _write_h5}
    write = writers.get(path.suffix)
    if write is None:
        raise ConfigError(f"save: got path '{path.name}', expected one that ends in {' or '.join(writers)}")
    if generation not in (None, 2, 3):
        raise ConfigError(f"save: got generation {generation!r}, expected 2 or 3")
    generation = generation or default_generation(model, path.suffix)
    check_quantized(model, path.suffix)
    check_lora(model, path.suffix, generation)
    with replacing(path) as unfinished, model.layer_dtypes():
        write(model, unfinished, generation)


def check_model(model: Trainer, suffix: str, generation: int) -> None:
    """Raises ConfigError if a file of this suffix and generation can't store the model; reads no weights."""
    check_quantized(model, suffix)
    check_lora(model, suffix, generation)
    if suffix == ".h5":
        check_h5(model, KERAS_VERSION, generation)
    elif generation == 2:
        archive_config(model)
    else:
        keras_config(model, WrittenModel(model))


def default_generation(model: Trainer, suffix: str) -> int:
    """The generation of Keras that a model is saved for by default, in a file with this suffix.

    A model from Keras 2 is saved for Keras 2 as an `.h5`, and as a `.keras` if it came in one: few releases have these.
    """
    from_keras2 = (model.keras_version or "").startswith(("1.", "2."))
    return 2 if from_keras2 and suffix in (".h5", model.file_suffix) else 3


def save_weights(model: Trainer, path: Path) -> None:
    """Saves the weights as a `.weights.h5` file of Keras 3, atomically. Raises OSError if it can't be written."""
    with replacing(path) as unfinished, h5py.File(unfinished, "w") as file:
        _write_state(model, WrittenModel(model), file)


def _write_keras(model: Trainer, path: Path, generation: int) -> None:
    if generation == 2:
        _write_zip(path, archive_version(model), archive_config(model), lambda file: _write_keras2_state(model, file))
        return
    written = WrittenModel(model)
    _write_zip(path, KERAS_VERSION, keras_config(model, written), lambda file: _write_state(model, written, file))


def _write_zip(path: Path, version: str, config: Mapping[str, Any], write_weights: Callable[[Any], None]) -> None:
    saved = datetime.now(timezone.utc).strftime("%Y-%m-%d@%H:%M:%S")
    weights = path.with_name(f"{path.name}.weights")
    try:
        with h5py.File(weights, "w") as file:
            write_weights(file)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("metadata.json", json.dumps({"keras_version": version, "date_saved": saved}))
            archive.writestr("config.json", config_json(config))
            with weights.open("rb") as source, archive.open("model.weights.h5", "w", force_zip64=True) as target:
                shutil.copyfileobj(source, target, 1 << 20)
    finally:
        weights.unlink(missing_ok=True)


def keras_config(model: Trainer, written: WrittenModel) -> dict[str, Any]:
    """The content of a `config.json` of Keras 3. Raises ConfigError if it can't store the model."""
    check_for_keras3(model)
    config = model_object(model, written)
    if (compiled := model.saved_compilation) is not None:
        check_keras3_optimizer(compiled.optimizer, model)
        config["compile_config"] = compile_object(model)
    return config


def _write_h5(model: Trainer, path: Path, generation: int) -> None:
    with h5py.File(path, "w") as file:
        write_h5(model, file, KERAS_VERSION, generation)


def _write_state(model: Trainer, written: WrittenModel, file: Any) -> None:
    """Writes the layout of `.weights.h5`. As Keras expects, a shared layer is written in each of its places."""
    order = {one: written.layers(one) for one in model.walk_layers() if isinstance(one, Functional)}
    _write_groups(file, ((variables_path(path, layer), layer) for path, layer in state_groups(model, order)))
    if (compiled := model.saved_compilation) is not None:
        optimizer = compiled.optimizer
        # Keras ignores an incomplete state, with a warning, so slots must exist.
        optimizer.build(model.trainable_weights)
        _write_variables(file, "optimizer/vars", optimizer.variables)
        for path, variables in optimizer.inner_states.items():
            # Keras saves the state of inner optimizers twice, and loads both.
            _write_variables(file, f"optimizer/{path}/vars", variables)


def _write_keras2_state(model: Trainer, file: Any) -> None:
    _write_groups(file, archive_groups(model))
    if (compiled := model.saved_compilation) is not None:
        compiled.optimizer.build(model.trainable_weights)
        _write_variables(file, "optimizer/vars", keras2_state(compiled.optimizer))


def _write_groups(file: Any, groups: Iterable[tuple[str, Layer]]) -> None:
    for name, layer in groups:
        group = file.require_group(name)
        group.attrs["name"] = layer.name
        for position, weight in enumerate(placed_variables(layer)):
            _write_array(group, weight.name if layer.storage.named else str(position), placed_values(layer, weight))
        if layer.lora is not None:
            # Keras merges the kernel, too, but ignores these, and starts with zeros.
            for weight in (layer.lora.a, layer.lora.b):
                _write_array(group, weight.name, stored_values(weight))


def _write_variables(file: Any, name: str, variables: Sequence[Variable]) -> None:
    group = file.require_group(name)
    for position, variable in enumerate(variables):
        _write_array(group, str(position), variable.numpy())


def _write_array(group: Any, name: str, values: np.ndarray[Any, Any]) -> None:
    dataset = group.create_dataset(name, data=values)
    if values.dtype.kind == "V":
        dataset.attrs["dtype"] = "bfloat16"
