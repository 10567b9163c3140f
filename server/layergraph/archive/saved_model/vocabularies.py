"""Vocabularies of lookup layers, which their configs lack: they are tables of a checkpoint, constants, or assets.

They are added to the config, where a vocabulary given to the layer in Python is.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layergraph.archive.files import open_regular
from layergraph.archive.limits import LoadLimits
from layergraph.archive.saved_model.constants import Constants
from layergraph.archive.saved_model.weights import TrackedWeights
from layergraph.errors import CorruptFileError

_LOOKUPS = frozenset({"StringLookup", "IntegerLookup", "TextVectorization"})
_TABLES = ("lookup_table", "_table")
_INSIDE = ("_lookup_layer", "_index_lookup_layer")


def add_vocabularies(
    weights: TrackedWeights,
    config: Mapping[str, Any],
    constants: Callable[[], Constants] | None,
    assets: Path | None,
    limits: LoadLimits,
) -> None:
    """Adds to the configs of lookup layers without a vocabulary their terms. Layers whose terms aren't found stay as
    they are.

    `constants` parses those of the `saved_model.pb`, `assets` is its folder of assets. Raises CorruptFileError.
    """
    constants = None if constants is None else functools.cache(constants)
    for layer, node in _lookups(weights, config):
        options = layer["config"]
        given = options.get("vocabulary")
        if isinstance(given, str):
            terms = _of_asset(assets, given, limits)
        elif given:
            continue
        else:
            terms = _of_table(weights, node, layer, constants)
        if terms:
            options["vocabulary"] = terms
            _add_idf_weights(weights, node, layer, len(terms))


def _add_idf_weights(weights: TrackedWeights, node: int, layer: Any, count: int) -> None:
    """Adds the weights of the terms in mode `tf_idf`. Those of the reserved indices, before them, are their mean."""
    options = layer["config"]
    known = weights.variable(_inside(weights, node), "idf_weights") if options.get("idf_weights") is None else []
    if known:
        reserved = _reserved(layer)
        options["idf_weights"] = known[reserved : reserved + count]


def _lookups(weights: TrackedWeights, config: Mapping[str, Any]) -> Iterator[tuple[Any, int]]:
    """The configs of all lookup layers, with their nodes."""
    waiting: list[tuple[int, Any]] = [(weights.root, config)]
    while waiting:
        node, layer = waiting.pop()
        options = layer.get("config") if isinstance(layer, Mapping) else None
        if not isinstance(options, dict):
            continue
        if layer.get("class_name") in _LOOKUPS:
            yield layer, node
        elif isinstance(options.get("layers"), list):
            named = weights.named(node, layer)
            inner = [one for one in options["layers"] if isinstance(one, Mapping)]
            waiting += [(named[name], one) for one in inner if (name := weights.name_of(one)) in named]
        elif isinstance(options.get("layer"), Mapping) and (below := weights.child(node, "layer")) is not None:
            waiting.append((below, options["layer"]))


def _of_table(weights: TrackedWeights, node: int, layer: Any, constants: Callable[[], Constants] | None) -> list[Any]:
    """The terms of a layer's table, by their indices, without the reserved ones."""
    inside = _inside(weights, node)
    table = next((below for name in _TABLES if (below := weights.child(inside, name)) is not None), None)
    if table is None:
        return []
    found = weights.table(table)
    if found is None and constants is not None:
        found = constants().table(table)
    if found is None:
        return []
    keys, indices = found
    if layer["config"].get("invert"):
        keys, indices = indices, keys
    if len(keys) != len(indices) or not all(isinstance(index, int) for index in indices):
        raise CorruptFileError(weights.path, f"the table of layer '{weights.name_of(layer)[:80]}' has no indices")
    reserved = _reserved(layer)
    terms = sorted((index, key) for key, index in zip(keys, indices, strict=True) if index >= reserved)
    if [index for index, _ in terms] != list(range(reserved, reserved + len(terms))):
        raise CorruptFileError(weights.path, f"the table of layer '{weights.name_of(layer)[:80]}' has gaps")
    return [_term(key) for _, key in terms]


def _inside(weights: TrackedWeights, node: int) -> int:
    """The lookup layer in a TextVectorization; any other layer itself."""
    return next((below for name in _INSIDE if (below := weights.child(node, name)) is not None), node)


def _reserved(layer: Any) -> int:
    """Number of indices before those of the vocabulary: for the mask and for unknown terms."""
    options: Mapping[str, Any] = layer["config"]
    masked = options.get("output_mode", "int") == "int"
    if layer["class_name"] == "TextVectorization":
        return 2 if masked else 1
    unknown = options.get("num_oov_indices", 1)
    # TensorFlow 2.3 calls an IntegerLookup's mask a value.
    has_mask = masked and options.get("mask_token", options.get("mask_value")) is not None
    return (unknown if isinstance(unknown, int) else 1) + (1 if has_mask else 0)


def _term(key: Any) -> Any:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else key


def _of_asset(assets: Path | None, given: str, limits: LoadLimits) -> list[Any]:
    """The lines of the asset that was copied from the file `given`, whose name is compared with those of the folder."""
    wanted = given.replace("\\", "/").rpartition("/")[2]
    if assets is None or assets.is_symlink() or not assets.is_dir() or wanted not in os.listdir(assets):
        return []
    path = assets / wanted
    if path.is_symlink():
        return []
    file = open_regular(path)
    try:
        if file.length > limits.config_bytes:
            raise CorruptFileError(path, f"has {file.length} bytes, expected at most {limits.config_bytes}")
        text = file.read_at(0, file.length).decode("utf-8", "replace")
    finally:
        file.close()
    # A file of Windows ends lines by two characters, which TensorFlow reads as one.
    return text.replace("\r\n", "\n").removesuffix("\n").split("\n")
