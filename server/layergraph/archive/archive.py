"""Opens model files of all containers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from layergraph.archive.files import FileWindow, open_regular
from layergraph.archive.finding import find_config, find_model, find_weights
from layergraph.archive.hdf5 import Hdf5File, LegacyWeights, StateTree, StoredArray, is_hdf5, reading
from layergraph.archive.json_text import json_object
from layergraph.archive.keras_zip import KerasZip
from layergraph.archive.limits import DEFAULT_LIMITS, MIB, LoadLimits
from layergraph.archive.other_formats import EXPECTED, described_file, described_zip
from layergraph.archive.saved_model.bundle import Bundle, BundleArray
from layergraph.archive.saved_model.constants import Constants
from layergraph.archive.saved_model.metadata import model_config, root_metadata
from layergraph.archive.saved_model.vocabularies import add_vocabularies
from layergraph.archive.saved_model.weights import TrackedWeights
from layergraph.archive.shards import ShardedWeights
from layergraph.errors import CorruptFileError, UnsafeFileError, UnsupportedModelError

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
#: Files of a SavedModel folder.
SAVED_MODEL = "saved_model.pb"
KERAS_METADATA = "keras_metadata.pb"
VARIABLES = Path("variables", "variables")
_METADATA_BYTES = 1 * MIB


class ModelArchive:
    """An open model file: its config as parsed JSON, and its weights, not read yet.

    path              path of the file; of a SavedModel folder that of its `saved_model.pb`
    files             paths of all files that the model was read from
    config            the model's {"class_name": ..., "config": {...}}, as in the file
    training_config   the arguments of `compile`, as in the file; None if the model wasn't compiled
    keras_version     version of the Keras that wrote the file, or None if unknown
    backend           backend of the Keras that wrote the file, as written by Keras 2; None if unknown
    weights           StateTree, LegacyWeights, ShardedWeights or TrackedWeights, by the file's layout
    stored_bytes      size of the files in bytes

    It takes ownership of `resources` and releases them in `close`.
    """

    def __init__(
        self,
        path: Path,
        *,
        config: Mapping[str, Any],
        training_config: Mapping[str, Any] | None,
        keras_version: str | None,
        weights: StateTree | LegacyWeights | ShardedWeights | TrackedWeights,
        stored_bytes: int,
        limits: LoadLimits,
        resources: ExitStack,
        members: KerasZip | None = None,
        backend: str | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        self.path = path
        self.files = tuple(files) or (path,)
        self.config = config
        self.training_config = training_config
        self.keras_version = keras_version
        self.backend = backend
        self.weights = weights
        self.stored_bytes = stored_bytes
        self.limits = limits
        self._resources = resources.pop_all()
        self._members = members

    @property
    def suffix(self) -> str:
        """Suffix of the format: `.keras`, or `.h5` for all others."""
        return ".h5" if self._members is None else ".keras"

    @property
    def optimizer_weights(self) -> Sequence[StoredArray | BundleArray]:
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
        if file_path.name == SAVED_MODEL:
            return _open_saved_model(file, file_path, limits, resources)
        if file.read_at(0, 4) == b"PK\x03\x04":
            return _open_zip(file, file_path, limits, resources)
        if is_hdf5(file):
            return _open_hdf5(file, file_path, limits, resources)
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
        if "class_name" in _json(config_file, config_path, limits):
            return _joined(config_file, config_path, content, limits, resources)
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
        if weights_path.suffix == ".index":
            return _joined_checkpoint(file, path, weights_path, limits, resources)
        weights_file = open_regular(weights_path)
        resources.callback(weights_file.close)
        content = Hdf5File(weights_file, weights_path, weights_file.length, limits)
        resources.callback(content.close)
        return _joined(file, path, content, limits, resources)
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


def _open_saved_model(file: FileWindow, path: Path, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    if (folder := path.with_name(VARIABLES.parts[0])).is_symlink():
        raise UnsafeFileError(folder, "is a link, expected a folder")
    described, described_path = file, path
    if (metadata_path := path.with_name(KERAS_METADATA)).exists():
        described, described_path = _opened(metadata_path, resources), metadata_path
    metadata = root_metadata(described, described_path, limits)
    config = model_config(metadata, described_path)
    bundle = Bundle(path.parent / VARIABLES, limits, resources)
    weights = TrackedWeights(bundle, config, limits)
    add_vocabularies(weights, config, lambda: Constants(file, path, limits), path.with_name("assets"), limits)
    training, version, backend = (metadata.get(key) for key in ("training_config", "keras_version", "backend"))
    return ModelArchive(
        path,
        config=config,
        training_config=training if isinstance(training, dict) else None,
        keras_version=version if isinstance(version, str) else None,
        backend=backend if isinstance(backend, str) else None,
        weights=weights,
        stored_bytes=described.length + bundle.stored_bytes,
        limits=limits,
        resources=resources,
        files=tuple(dict.fromkeys((path, described_path, *bundle.files))),
    )


def _opened(path: Path, resources: ExitStack) -> FileWindow:
    """Opens a file that belongs to a model. Raises UnsafeFileError for links."""
    if path.is_symlink():
        raise UnsafeFileError(path, "is a link, expected a regular file")
    file = open_regular(path)
    resources.callback(file.close)
    return file


def _json(file: FileWindow, path: Path, limits: LoadLimits) -> dict[str, Any]:
    if file.length > limits.config_bytes:
        raise CorruptFileError(path, f"has {file.length} bytes, expected at most {limits.config_bytes}")
    return json_object(file.read_at(0, file.length), path, path.name, limits)


def _joined(file: FileWindow, path: Path, content: Hdf5File, limits: LoadLimits, resources: ExitStack) -> ModelArchive:
    """Joins an architecture and weights in either layout, detected by the content of the weights' file."""
    config = _json(file, path, limits)
    model = content.root.group("model_weights") or content.root
    legacy = model.texts("layer_names") is not None
    version, backend = config.get("keras_version"), config.get("backend")
    return ModelArchive(
        path,
        config=config,
        training_config=None,
        keras_version=version if isinstance(version, str) else model.text("keras_version"),
        backend=backend if isinstance(backend, str) else model.text("backend"),
        weights=LegacyWeights(content, model, None) if legacy else StateTree(content.root),
        stored_bytes=file.length + content.stored_bytes,
        limits=limits,
        resources=resources,
    )


def _joined_checkpoint(
    file: FileWindow, path: Path, index: Path, limits: LoadLimits, resources: ExitStack
) -> ModelArchive:
    """Joins an architecture and a checkpoint of TensorFlow."""
    config = _json(file, path, limits)
    bundle = Bundle(index.with_suffix(""), limits, resources)
    weights = TrackedWeights(bundle, config, limits)
    add_vocabularies(weights, config, None, None, limits)
    version, backend = config.get("keras_version"), config.get("backend")
    return ModelArchive(
        path,
        config=config,
        training_config=None,
        keras_version=version if isinstance(version, str) else None,
        backend=backend if isinstance(backend, str) else None,
        weights=weights,
        stored_bytes=file.length + bundle.stored_bytes,
        limits=limits,
        resources=resources,
        files=(path, *bundle.files),
    )
