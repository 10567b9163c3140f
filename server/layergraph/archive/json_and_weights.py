"""Joins an architecture, as `model.json`, and the weights next to it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from layergraph.archive.files import FileWindow, open_own, open_regular
from layergraph.archive.finding import CHECKPOINT, INDEX_SUFFIX, names_beside
from layergraph.archive.hdf5 import Hdf5File, LegacyWeights
from layergraph.archive.json_text import json_object
from layergraph.archive.limits import LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.saved_model.bundle import Bundle
from layergraph.archive.saved_model.vocabularies import add_vocabularies
from layergraph.archive.saved_model.weights import TrackedWeights
from layergraph.archive.state_shards import MergedGroup, shard_names
from layergraph.archive.weights import StateTree, StoredWeights
from layergraph.errors import CorruptFileError


def json_file(file: FileWindow, path: Path, limits: LoadLimits) -> dict[str, Any]:
    """The object in a JSON file. Raises CorruptFileError."""
    if file.length > limits.config_bytes:
        raise CorruptFileError(path, f"has {file.length} bytes, expected at most {limits.config_bytes}")
    return json_object(file.read_at(0, file.length), path, path.name, limits)


def open_json_and_weights(
    config: dict[str, Any], file: FileWindow, path: Path, weights: Path, limits: LoadLimits, resources: ExitStack
) -> ModelArchive:
    """Joins the architecture in `file`, parsed as `config`, and weights in any format, by the name of their file.

    Raises CorruptFileError, UnsafeFileError or UnsupportedModelError.
    """
    version, backend = config.get("keras_version"), config.get("backend")
    found: StoredWeights
    if weights.name.endswith(INDEX_SUFFIX):
        shards = _shards(weights, limits, resources)
        found = StateTree(MergedGroup([shard.root for shard in shards]))
        stored, files = sum(shard.stored_bytes for shard in shards), [weights, *(shard.path for shard in shards)]
    elif weights.suffix == ".index":
        bundle = Bundle(weights.with_suffix(""), limits, resources)
        found = TrackedWeights(bundle, config, limits)
        add_vocabularies(found, config, None, None, limits)
        stored, files = bundle.stored_bytes, list(bundle.files)
        # It names the latest one.
        files += [latest] if (latest := path.with_name(CHECKPOINT)).is_file() else []
    else:
        opened = open_regular(weights)
        resources.callback(opened.close)
        content = Hdf5File(opened, weights, opened.length, limits)
        resources.callback(content.close)
        model = content.root.group("model_weights") or content.root
        legacy = model.texts("layer_names") is not None
        version = version if isinstance(version, str) else model.text("keras_version")
        backend = backend if isinstance(backend, str) else model.text("backend")
        found = LegacyWeights(content, model, None) if legacy else StateTree(content.root)
        stored, files = content.stored_bytes, [weights]
    # An unpacked `.keras` has them, and `to_json` of a compiled model of Keras 3.
    compile_config = config.get("compile_config")
    return ModelArchive(
        path,
        config=config,
        training_config=compile_config if isinstance(compile_config, dict) else None,
        keras_version=version if isinstance(version, str) else None,
        backend=backend if isinstance(backend, str) else None,
        weights=found,
        stored_bytes=file.length + stored,
        limits=limits,
        resources=resources,
        files=(path, *files),
    )


def _shards(index: Path, limits: LoadLimits, resources: ExitStack) -> list[Hdf5File]:
    """Opens the files that an index of Keras 3 lists."""
    names = shard_names(json_file(open_own(index, resources), index, limits))
    if not names:
        raise CorruptFileError(index, "has no 'weight_map' of files")
    # Names are only compared with those of the folder.
    beside = set(names_beside(index, (".h5",)))
    if missing := [name for name in names if name not in beside]:
        listed = ", ".join(repr(name[:80]) for name in missing[:5])
        raise CorruptFileError(index, f"lacks {len(missing)} of its {len(names)} files next to it: {listed}")
    shards = []
    for name in names:
        file = open_own(index.parent / name, resources)
        shard = Hdf5File(file, index.parent / name, file.length, limits)
        resources.callback(shard.close)
        shards.append(shard)
    return shards
