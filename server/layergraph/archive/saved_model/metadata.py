"""The config that Keras writes into a SavedModel: that of the model in an `.h5`, as JSON in protobuf messages.

From TensorFlow 2.5 it is in `keras_metadata.pb`, before in the object graph of `saved_model.pb`. Formats:
keras/protobuf/saved_metadata.proto, tensorflow/core/protobuf/saved_model.proto and saved_object_graph.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layergraph.archive import protobuf
from layergraph.archive.files import FileWindow
from layergraph.archive.json_text import json_object
from layergraph.archive.limits import LoadLimits
from layergraph.errors import CorruptFileError, UnsupportedModelError

_META_GRAPHS, _OBJECT_GRAPH, _META_INFO = 2, 7, 1
_CHILDREN, _USER_OBJECT = 1, 4
_MOST_CHILDREN = 1000
#: Objects that stand for tuples and shapes.
_LISTS = frozenset({"__tuple__", "TensorShape"})


@dataclass(frozen=True, slots=True)
class _Root:
    """The root object: its metadata as JSON, empty if Keras wrote none, and names of its attributes."""

    metadata: bytes = b""
    children: frozenset[str] = frozenset()


def root_metadata(file: FileWindow, path: Path, limits: LoadLimits) -> dict[str, Any]:
    """The metadata of the model in `keras_metadata.pb` or `saved_model.pb`; `path` is its path.

    Raises CorruptFileError, and UnsupportedModelError for a folder that Keras 2 didn't write.
    """
    try:
        root = _root(file, path, limits)
    except protobuf.WireError as wrong:
        raise CorruptFileError(path, f"isn't a protobuf message of a SavedModel: it {wrong}") from None
    if not root.metadata:
        raise UnsupportedModelError(path, _without_layers(file, path, root))
    parsed = json_object(root.metadata, path, "the model's metadata", limits)
    return {key: _with_lists(value) for key, value in parsed.items()}


def _without_layers(file: FileWindow, path: Path, root: _Root) -> str:
    # Endpoints are those of keras.export.ExportArchive, which later releases don't list.
    exported = {"_endpoint_names", "_all_variables"} & root.children
    writer = "model.export" if exported else "tf.saved_model.save"
    version = tensorflow_version(file) if path.name == "saved_model.pb" else None
    by = f"{writer} of TensorFlow {version}" if version else writer
    return (
        f"is a SavedModel of {by}: operations of TensorFlow without Keras's layers, which only TensorFlow runs; "
        "expected the model as model.save writes it, a .keras or .h5 file"
    )


def model_config(metadata: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The model's {"class_name", "config"}. Raises UnsupportedModelError for a subclassed model."""
    known = metadata.get("model_config")
    found = known if isinstance(known, dict) and isinstance(known.get("config"), dict) else metadata
    config, kind = found.get("config"), found.get("class_name")
    if not isinstance(config, dict) or not isinstance(config.get("layers"), list):
        raise UnsupportedModelError(
            path,
            f"its model is of the class {str(kind)[:80]!r}, which isn't a graph of layers but code in Python; "
            "expected a Functional or Sequential model: build it with the functional API, and save it again",
        )
    _add_vocabulary_files(config, metadata.get("config"))
    return {"class_name": kind, "config": config}


def _add_vocabulary_files(config: Any, other: Any) -> None:
    """Adds the names of files of vocabularies, which TensorFlow 2.15 leaves out of `model_config` only."""
    if isinstance(config, list) and isinstance(other, list):
        for one, beside in zip(config, other, strict=False):
            _add_vocabulary_files(one, beside)
    elif isinstance(config, dict) and isinstance(other, dict):
        if config.get("vocabulary", "") is None and isinstance(other.get("vocabulary"), str):
            config["vocabulary"] = other["vocabulary"]
        for key in config.keys() & other.keys():
            _add_vocabulary_files(config[key], other[key])


def tensorflow_version(file: FileWindow) -> str | None:
    """The TensorFlow that wrote a `saved_model.pb`; None if it isn't known."""
    try:
        for number, graph in protobuf.file_fields(file):
            if number == _META_GRAPHS and isinstance(graph, FileWindow):
                for inner, info in protobuf.file_fields(graph):
                    if inner == _META_INFO and isinstance(info, FileWindow) and info.length < 1 << 24:
                        values = dict(protobuf.fields(info.read_at(0, info.length)))
                        return protobuf.text(values[5])[:40] if 5 in values else None
    except protobuf.WireError:
        pass
    return None


def _root(file: FileWindow, path: Path, limits: LoadLimits) -> _Root:
    if path.name == "saved_model.pb":
        return _in_saved_model(file, path, limits)
    for number, node in protobuf.file_fields(file):
        if number != 1 or not isinstance(node, FileWindow):
            continue
        # Other nodes have the configs of layers, which the root's config contains.
        values = dict(protobuf.file_fields(node))
        if _small_text(values.get(3)) == "root":
            return _Root(_content(values.get(5), path, limits))
    return _Root()


def _in_saved_model(file: FileWindow, path: Path, limits: LoadLimits) -> _Root:
    for number, graph in protobuf.file_fields(file):
        if number != _META_GRAPHS or not isinstance(graph, FileWindow):
            continue
        # The graph of operations, of tens of megabytes, is skipped.
        for inner, objects in protobuf.file_fields(graph):
            if inner == _OBJECT_GRAPH and isinstance(objects, FileWindow):
                first = next((node for number, node in protobuf.file_fields(objects) if number == 1), None)
                return _of_object(first, path, limits) if isinstance(first, FileWindow) else _Root()
    return _Root()


def _of_object(node: FileWindow, path: Path, limits: LoadLimits) -> _Root:
    """Reads a SavedObject."""
    metadata, children = b"", set[str]()
    for number, value in protobuf.file_fields(node):
        if not isinstance(value, FileWindow):
            continue
        if number == _CHILDREN and len(children) < _MOST_CHILDREN:
            children.add(_small_text(dict(protobuf.file_fields(value)).get(2)))
        elif number == _USER_OBJECT:
            metadata = _content(dict(protobuf.file_fields(value)).get(3), path, limits)
    return _Root(metadata, frozenset(children))


def _small_text(value: int | FileWindow | None) -> str:
    if not isinstance(value, FileWindow) or value.length > 200:
        return ""
    return value.read_at(0, value.length).decode("utf-8", "replace")


def _content(value: int | FileWindow | None, path: Path, limits: LoadLimits) -> bytes:
    if not isinstance(value, FileWindow):
        return b""
    if value.length > limits.config_bytes:
        raise CorruptFileError(path, f"its metadata has {value.length} bytes, expected at most {limits.config_bytes}")
    return value.read_at(0, value.length)


def _with_lists(value: Any) -> Any:
    """Replaces the objects that stand for tuples and shapes by lists, as in an `.h5`."""
    # The depth was limited when the JSON was parsed.
    if isinstance(value, list):
        return [_with_lists(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in _LISTS and isinstance(value.get("items"), list):
        return [_with_lists(item) for item in value["items"]]
    return {key: _with_lists(item) for key, item in value.items()}
