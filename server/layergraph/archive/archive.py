"""Opens model files of all containers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from layergraph.archive.files import (
    PRESET_CONFIG,
    PRESET_WEIGHTS,
    TASK_CONFIG,
    TASK_WEIGHTS,
    FileWindow,
    find_config,
    find_model,
    find_weights,
    is_preset,
    open_regular,
)
from layergraph.archive.hdf5 import Hdf5File, LegacyWeights, StateTree, StoredArray, is_hdf5, reading
from layergraph.archive.json_text import json_object
from layergraph.archive.keras_zip import KerasZip
from layergraph.archive.limits import DEFAULT_LIMITS, MIB, LoadLimits
from layergraph.archive.shards import ShardedWeights
from layergraph.errors import CorruptFileError, UnsupportedModelError

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
_METADATA_BYTES = 1 * MIB
#: Names of floating-point dtype policies.
_FLOAT_POLICY = re.compile(r"(mixed_)?b?float\d+")


class ModelArchive:
    """An open model file: its config as parsed JSON, and its weights, not read yet.

    path              path of the file
    config            the model's {"class_name": ..., "config": {...}}, as in the file
    training_config   the arguments of `compile`, as in the file; None if the model wasn't compiled
    keras_version     version of the Keras that wrote the file, or None if unknown
    backend           backend of the Keras that wrote the file, as written by Keras 2; None if unknown
    weights           StateTree, LegacyWeights or ShardedWeights, by the file's layout
    task_weights      the weights of a task in a preset folder of KerasHub; `weights` are then those of its backbone
    stored_bytes      size of the file in bytes

    It takes ownership of `resources` and releases them in `close`.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: Mapping[str, Any],
        training_config: Mapping[str, Any] | None,
        keras_version: str | None,
        weights: StateTree | LegacyWeights | ShardedWeights,
        stored_bytes: int,
        limits: LoadLimits,
        resources: ExitStack,
        members: KerasZip | None = None,
        backend: str | None = None,
        task_weights: StateTree | None = None,
    ) -> None:
        self.path = path
        self.config = config
        self.training_config = training_config
        self.keras_version = keras_version
        self.backend = backend
        self.weights = weights
        self.task_weights = task_weights
        self.stored_bytes = stored_bytes
        self.limits = limits
        self._resources = resources.pop_all()
        self._members = members

    @property
    def suffix(self) -> str:
        """Suffix of the format: `.keras`, or `.h5` for all others."""
        return ".h5" if self._members is None else ".keras"

    @property
    def is_preset(self) -> bool:
        """Whether it is a preset folder of KerasHub."""
        return self.path.name == PRESET_CONFIG

    @property
    def optimizer_weights(self) -> list[StoredArray]:
        """The optimizer's state in its own order, not read yet; empty if the file has none."""
        return self.weights.optimizer_weights()

    def asset(self, path: str) -> bytes | None:
        """Returns the file at `path` below `assets/`, or None. Raises CorruptFileError if it is damaged."""
        name = f"assets/{path}"
        if self._members is None or name not in self._members:
            return None
        return self._members.read(name, 4 * self.limits.config_bytes)

    def close(self) -> None:
        """Closes the file; its arrays can't be read afterwards."""
        self._resources.close()

    def __enter__(self) -> ModelArchive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_archive(path: str | os.PathLike[str], limits: LoadLimits = DEFAULT_LIMITS) -> ModelArchive:
    """Opens the model file at `path`, or the one in the version folder `path`. The format is detected by signature.

    Raises CorruptFileError, UnsafeFileError or UnsupportedModelError.
    """
    file_path = find_model(Path(path))
    with ExitStack() as resources:
        file = open_regular(file_path)
        resources.callback(file.close)
        if file.read_at(0, 4) == b"PK\x03\x04":
            return _open_zip(file, file_path, limits, resources)
        if is_hdf5(file):
            return _open_hdf5(file, file_path, limits, resources)
        if file_path.name == PRESET_CONFIG and is_preset(file_path.parent):
            return _open_preset(file, file_path, limits, resources)
        if file_path.suffix == ".json":
            return _open_json(file, file_path, limits, resources)
        found = "is empty" if file.length == 0 else "is neither a Keras zip nor HDF5"
        raise CorruptFileError(file_path, f"{found}; expected a .keras or .h5 model file")


def _open_zip(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    members = KerasZip(file, path, limits)
    if missing := [name for name in (CONFIG, WEIGHTS) if name not in members]:
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
        config = _json(config_file, config_path, limits)
        if "class_name" in config:
            return _joined(config, config_file.length, config_path, content, limits, resources)
    if config_text is None:
        raise CorruptFileError(path, "holds no model: it has no attribute 'model_config' (only weights)")
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
    whole = _json(file, path, limits)
    if "modelTopology" not in whole:
        weights_path = find_weights(path)
        weights_file = open_regular(weights_path)
        resources.callback(weights_file.close)
        content = Hdf5File(weights_file, weights_path, weights_file.length, limits)
        resources.callback(content.close)
        return _joined(whole, file.length, path, content, limits, resources)
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
    )


def _open_preset(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    """Opens a preset folder of KerasHub: of a backbone, or of a task and its backbone."""

    def beside(name: str) -> FileWindow | None:
        if not path.with_name(name).exists():
            return None
        opened = open_regular(path.with_name(name))
        resources.callback(opened.close)
        return opened

    def weights(name: str) -> Hdf5File | None:
        opened = beside(name)
        if opened is None:
            return None
        content = Hdf5File(opened, path.with_name(name), opened.length, limits)
        resources.callback(content.close)
        return content

    metadata_file, task_file = beside(METADATA), beside(TASK_CONFIG)
    version = None
    if metadata_file is not None:
        version = _json(metadata_file, path.with_name(METADATA), limits).get("keras_version")
    content, task_weights = weights(PRESET_WEIGHTS), None
    if content is None:
        raise UnsupportedModelError(path, f"its weights are in several files; expected one, {PRESET_WEIGHTS}")
    config = _json(file, path, limits)
    if task_file is not None:
        config = _json(task_file, path.with_name(TASK_CONFIG), limits)
        task_weights = weights(TASK_WEIGHTS)
    inner = config.get("config")
    backbone = inner.get("backbone") if isinstance(inner, dict) else None
    _widen(backbone if isinstance(backbone, dict) else config)
    return _joined(config, file.length, path, content, limits, resources, version, task_weights)


def _widen(model: Mapping[str, Any]) -> None:
    """Drops the floating-point dtype policy of a backbone: from a preset, KerasHub loads it in float32."""
    inner = model.get("config")
    policy = inner.get("dtype") if isinstance(inner, dict) else None
    named = policy.get("config") if isinstance(policy, dict) else None
    name = named.get("name") if isinstance(named, dict) else None
    if isinstance(inner, dict) and isinstance(name, str) and _FLOAT_POLICY.fullmatch(name):
        del inner["dtype"]


def _json(file: FileWindow, path: Path, limits: LoadLimits) -> dict[str, Any]:
    if file.length > limits.config_bytes:
        raise CorruptFileError(path, f"has {file.length} bytes, expected at most {limits.config_bytes}")
    return json_object(file.read_at(0, file.length), path, path.name, limits)


def _joined(
    config: Mapping[str, Any],
    config_bytes: int,
    path: Path,
    content: Hdf5File,
    limits: LoadLimits,
    resources: ExitStack,
    version: object = None,
    task: Hdf5File | None = None,
) -> ModelArchive:
    """Joins an architecture and weights in either layout, detected by the content of the weights' file."""
    model = content.root.group("model_weights") or content.root
    legacy = model.texts("layer_names") is not None
    version, backend = config.get("keras_version", version), config.get("backend")
    return ModelArchive(
        path,
        config=config,
        training_config=None,
        keras_version=version if isinstance(version, str) else model.text("keras_version"),
        backend=backend if isinstance(backend, str) else model.text("backend"),
        weights=LegacyWeights(content, model, None) if legacy else StateTree(content.root),
        stored_bytes=config_bytes + content.stored_bytes + (0 if task is None else task.stored_bytes),
        limits=limits,
        resources=resources,
        task_weights=None if task is None else StateTree(task.root),
    )
