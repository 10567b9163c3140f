"""Names files and folders that aren't Keras models for what they are, by their content where that identifies them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from layergraph.archive import protobuf
from layergraph.archive.files import FileWindow, open_regular
from layergraph.errors import LayerGraphError

_HEAD_BYTES = 4096
#: Number of entries of a folder that are looked at.
_MOST_ENTRIES = 10_000
#: Bytes at the start of a file, or at a position -> what it is.
_SIGNATURES: Sequence[tuple[int, bytes, str]] = (
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"GGUF", "a GGUF model (llama.cpp)"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS, without the file's content (run `git lfs pull`)"),
    (0, b"\x1f\x8b", "compressed with gzip, as a .tar.gz (unpack it)"),
    (257, b"ustar", "a tar archive (unpack it)"),
    (0, b"<!DOCTYPE html", "a web page, as a failed download"),
    (0, b"<html", "a web page, as a failed download"),
    (0, b"<?xml", "an XML file, as of OpenVINO or PMML"),
    (0, b"tree\nversion=", "a LightGBM model"),
)
#: Names in a zip -> what it is.
_MEMBERS: Sequence[tuple[bytes, str]] = (
    (b"/constants.pkl", "a TorchScript model of PyTorch"),
    (b"data.pkl", "weights of PyTorch (torch.save)"),
    (b".npy", "NumPy arrays (.npz)"),
    (b"saved_model.pb", "a zip of a SavedModel folder (unpack it)"),
    (b"keras_model.h5", "a zip of Teachable Machine (unpack its keras_model.h5)"),
)
#: Entries of a folder -> what it is.
_ENTRIES: Sequence[tuple[str, str]] = (
    ("saved_model.cpb", "a SavedModel in several parts (saved_model.cpb), as TensorFlow writes above 2 GB"),
    ("_CHECKPOINT_METADATA", "a checkpoint of JAX (Orbax)"),
    ("_METADATA", "a checkpoint of JAX (Orbax)"),
    ("manifest.ocdbt", "a checkpoint of JAX (Orbax)"),
    ("pytorch_model.bin", "a model of Hugging Face for PyTorch"),
    ("model.safetensors", "a model of Hugging Face"),
    ("tf_model.h5", "a model of Hugging Face for TensorFlow"),
    ("saved_model.pbtxt", "a SavedModel as text (saved_model.pbtxt)"),
)
#: What can be read instead, for errors.
EXPECTED = "a .keras or .h5 model file, a SavedModel folder of Keras 2, or a model.json with weights beside it"


def described_file(file: FileWindow) -> str | None:
    """What an open file is, as "a TensorFlow Lite model"; None if it isn't known."""
    head = file.read_at(0, _HEAD_BYTES)
    for at, signature, what in _SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return what
    if head.startswith(b"PK\x03\x04"):
        return described_zip(file)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return "a Python pickle, as of PyTorch or scikit-learn"
    length = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 1 < length <= file.length - 8:
        return "weights as safetensors"
    for recognise, what in _MESSAGES:
        try:
            if recognise(file):
                return what
        except protobuf.WireError:
            continue
    return None


def described_folder(folder: Path) -> str:
    """What a folder without a model file has, as "has a checkpoint of JAX (Orbax)". Raises OSError."""
    with os.scandir(folder) as entries:
        found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in itertools.islice(entries, _MOST_ENTRIES)}
    if not found:
        return "is empty"
    for name, what in _ENTRIES:
        if name in found:
            return f"has {what}"
    if any(name.endswith(".index") for name in found):
        kind = "of TensorFlow 1" if any(name.endswith(".meta") for name in found) else "of TensorFlow"
        return f"has a checkpoint {kind} without the model's architecture: put model.to_json() as model.json beside it"
    if found.get("variables"):
        return "has variables of a SavedModel without its saved_model.pb"
    inside = sorted(name for name, is_folder in found.items() if is_folder and _holds_model(folder / name))
    if inside:
        return f"has no model file itself, but the folder {inside[0][:80]!r} in it has one"
    for name in sorted(name for name, is_folder in found.items() if not is_folder):
        if (known := _described(folder / name)) is not None:
            return f"has {known} ({name[:80]!r})"
    shown = ", ".join(repr(name[:80]) for name in sorted(found)[:5])
    return f"has no model file, but {shown}" + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _holds_model(folder: Path) -> bool:
    paths = (folder / name for name in ("saved_model.pb", "model.keras", "model.h5"))
    return any(path.is_file() and not path.is_symlink() for path in paths)


def _described(path: Path) -> str | None:
    if path.is_symlink():
        return None
    try:
        file = open_regular(path)
    except LayerGraphError:
        return None
    try:
        return described_file(file)
    finally:
        file.close()


def described_zip(file: FileWindow) -> str | None:
    """What a zip that isn't a `.keras` is; None if it isn't known."""
    # Names of members are in the directory at the end.
    size = 64 * 1024
    names = file.read_at(0, _HEAD_BYTES) + file.read_at(max(0, file.length - size), size)
    return next((what for name, what in _MEMBERS if name in names), None)


def _is_onnx(file: FileWindow) -> bool:
    """Whether it is an ONNX ModelProto: with a version of the format, a graph, and sets of operations."""
    numbers = dict(itertools.islice(protobuf.file_fields(file), 64))
    return isinstance(numbers.get(1), int) and all(isinstance(numbers.get(n), FileWindow) for n in (7, 8))


def _is_saved_model(file: FileWindow) -> bool:
    """Whether it is a SavedModel: a version, and a graph with information about it."""
    numbers = dict(itertools.islice(protobuf.file_fields(file), 8))
    graph = numbers.get(2)
    if numbers.get(1) != 1 or not isinstance(graph, FileWindow):
        return False
    return next(protobuf.file_fields(graph), (0, 0))[0] == 1


def _is_graph(file: FileWindow) -> bool:
    """Whether it is a GraphDef: the first node has a name and an operation, or a MetaGraphDef has a graph."""
    for number, node in protobuf.file_fields(file):
        if number != 1 or not isinstance(node, FileWindow) or node.length > 1 << 24:
            return False
        texts = [value for field, value in protobuf.fields(node.read_at(0, node.length)) if field in (1, 2)]
        return len(texts) >= 2 and all(isinstance(text, bytes) and text.isascii() for text in texts[:2])
    return False


_MESSAGES: Sequence[tuple[Callable[[FileWindow], bool], str]] = (
    (_is_onnx, "an ONNX model"),
    (_is_saved_model, "a saved_model.pb of TensorFlow, whose folder and name it needs"),
    (_is_graph, "a frozen graph of TensorFlow operations"),
)
