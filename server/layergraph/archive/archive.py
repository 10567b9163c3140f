"""Opens model files of all containers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from layergraph.archive.files import FileWindow, open_regular
from layergraph.archive.finding import METADATA, PRESET_CONFIG, find_config, find_model, find_weights, is_preset
from layergraph.archive.hdf5 import Hdf5File, LegacyWeights, is_hdf5, reading
from layergraph.archive.json_and_weights import json_file, open_json_and_weights
from layergraph.archive.json_text import json_object
from layergraph.archive.keras_zip import KerasZip
from layergraph.archive.limits import DEFAULT_LIMITS, MIB, LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.other_formats import EXPECTED, described_file, described_zip
from layergraph.archive.preset import open_preset
from layergraph.archive.saved_model.opening import SAVED_MODEL, open_saved_model
from layergraph.archive.shards import ShardedWeights
from layergraph.archive.weights import StateTree
from layergraph.errors import CorruptFileError, UnsupportedModelError

CONFIG = "config.json"
WEIGHTS = "model.weights.h5"
_METADATA_BYTES = 1 * MIB


def open_archive(path: str | os.PathLike[str], limits: LoadLimits = DEFAULT_LIMITS) -> ModelArchive:
    """Opens the model file at `path`, or the one in the version folder `path`. The format is detected by signature.

    Raises CorruptFileError, UnsafeFileError or UnsupportedModelError.
    """
    file_path = find_model(Path(path))
    with ExitStack() as resources:
        file = open_regular(file_path)
        resources.callback(file.close)
        limits = limits.of_file(file.length)
        if file_path.name == SAVED_MODEL:
            return open_saved_model(file, file_path, limits, resources)
        if file.read_at(0, 4) == b"PK\x03\x04":
            return _open_zip(file, file_path, limits, resources)
        if is_hdf5(file):
            return _open_hdf5(file, file_path, limits, resources)
        if file_path.name == PRESET_CONFIG and is_preset(file_path.parent):
            return open_preset(file, file_path, limits, resources)
        if file_path.suffix == ".json":
            return _open_json(file, file_path, limits, resources)
        what = described_file(file)
        found = "is empty" if file.length == 0 else "is neither a Keras zip nor HDF5" if what is None else f"is {what}"
        raise CorruptFileError(file_path, f"{found}; expected {EXPECTED}")


def _open_zip(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    members = KerasZip(file, path, limits)
    if missing := [name for name in (CONFIG, WEIGHTS) if name not in members]:
        if (what := described_zip(file)) is not None:
            raise CorruptFileError(path, f"is {what}; expected {EXPECTED}")
        raise CorruptFileError(path, f"is a zip without '{missing[0]}'; expected a .keras model file")
    config = json_object(members.read(CONFIG, limits.config_bytes), path, CONFIG, limits)
    metadata: Mapping[str, Any] = {}
    if METADATA in members:
        metadata = json_object(members.read(METADATA, _METADATA_BYTES), path, METADATA, limits)
    weights = Hdf5File(members.open(WEIGHTS), path, file.length, limits)
    resources.callback(weights.close)
    version = metadata.get("keras_version")
    compile_config = config.get("compile_config")
    return ModelArchive(
        path,
        config=config,
        training_config=compile_config if isinstance(compile_config, dict) else None,
        keras_version=version if isinstance(version, str) else None,
        weights=StateTree(weights.root),
        stored_bytes=file.length,
        limits=limits,
        resources=resources,
        members=members,
    )


def _open_hdf5(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    content = Hdf5File(file, path, file.length, limits)
    resources.callback(content.close)
    root = content.root
    config_text = root.text("model_config")
    if config_text is None and (config_path := find_config(path)) is not None:
        config_file = open_regular(config_path)
        resources.callback(config_file.close)
        # Other JSON files may be next to weights, such as a vocabulary.
        config = json_file(config_file, config_path, limits)
        if "class_name" in config:
            return open_json_and_weights(config, config_file, config_path, path, limits, resources)
    if config_text is None:
        raise CorruptFileError(
            path,
            "holds weights alone: it has no attribute 'model_config'; expected a file that model.save writes, or a "
            "model.json beside the weights with what model.to_json() returns",
        )
    training_text = root.text("training_config")
    # Weights of a whole model are in a separate group, weights saved alone at the root.
    model = root.group("model_weights")
    model = root if model is None else model
    with reading(path, "the HDF5 file"):
        # Keras 1 and early Keras 2 wrote the versions with the weights rather than with the config.
        version = root.text("keras_version") or model.text("keras_version")
        backend = root.text("backend") or model.text("backend")
    training = json_object(training_text, path, "attribute 'training_config'", limits) if training_text else None
    return ModelArchive(
        path,
        config=json_object(config_text, path, "attribute 'model_config'", limits),
        training_config=training,
        keras_version=version,
        backend=backend,
        weights=LegacyWeights(content, model, root.group("optimizer_weights")),
        stored_bytes=file.length,
        limits=limits,
        resources=resources,
    )


def _open_json(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    """Opens a `model.json`: of TensorFlow.js with its shards, or an architecture with weights next to it."""
    whole = json_file(file, path, limits)
    if "modelTopology" not in whole:
        return open_json_and_weights(whole, file, path, find_weights(path), limits, resources)
    topology = whole["modelTopology"]
    topology = topology if isinstance(topology, dict) else {}
    if whole.get("format") == "graph-model" or "node" in topology:
        raise UnsupportedModelError(path, "is a TensorFlow graph (graph-model), expected a layers-model")
    config = topology.get("model_config", topology)
    if not isinstance(config, dict):
        raise CorruptFileError(path, "modelTopology has no config of layers")
    weights = ShardedWeights(whole.get("weightsManifest"), path, limits, resources)
    version, training = topology.get("keras_version"), topology.get("training_config")
    return ModelArchive(
        path,
        config=config,
        training_config=training if isinstance(training, dict) else None,
        keras_version=version if isinstance(version, str) else None,
        weights=weights,
        stored_bytes=file.length + weights.stored_bytes,
        limits=limits,
        resources=resources,
        files=(path, *weights.files),
    )
