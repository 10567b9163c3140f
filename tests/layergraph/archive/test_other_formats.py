"""Files and folders that aren't Keras models are named for what they are."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bundle_files import field
from layergraph.errors import CorruptFileError
from layergraph.models.loading import load_model


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    return buffer.getvalue()


def saved_array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones(3))
    return buffer.getvalue()


GRAPH = field(1, field(1, "x") + field(2, "Placeholder"))
FILES = {
    "model.tflite": (b"\x1c\0\0\0TFL3" + bytes(40), "a TensorFlow Lite model"),
    "model.gguf": (b"GGUF" + bytes(40), "a GGUF model"),
    "model.npy": (saved_array(), "a NumPy array"),
    "model.npz": (zipped("a.npy", "b.npy"), "NumPy arrays (.npz)"),
    "saved.zip": (zipped("saved/saved_model.pb", "saved/variables/variables.index"), "a zip of a SavedModel folder"),
    "converted_keras.zip": (zipped("keras_model.h5", "labels.txt"), "a zip of Teachable Machine (unpack its keras_"),
    "model.pt": (zipped("model/data.pkl", "model/data/0"), "weights of PyTorch (torch.save)"),
    "traced.pt": (zipped("m/data.pkl", "m/constants.pkl"), "a TorchScript model of PyTorch"),
    "model.pkl": (pickle.dumps([1]), "a Python pickle"),
    "weights.safetensors": ((2).to_bytes(8, "little") + b"{}" + bytes(8), "weights as safetensors"),
    "model.onnx": (field(1, 8) + field(2, "pytorch") + field(7, b"") + field(8, field(2, 17)), "an ONNX model"),
    "frozen.pb": (GRAPH + GRAPH, "a frozen graph of TensorFlow operations"),
    "other.pb": (field(1, 1) + field(2, field(1, b"") + field(2, GRAPH)), "a saved_model.pb of TensorFlow"),
    "model.bin": (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS"),
    "model.tar.gz": (b"\x1f\x8b\x08" + bytes(20), "compressed with gzip"),
    "model.tar": (b"x".ljust(257, b"\0") + b"ustar", "a tar archive"),
    "page": (b"<!DOCTYPE html><html>", "a web page"),
    "model.xml": (b'<?xml version="1.0"?><net>', "an XML file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_alone_and_in_a_folder(name: str, tmp_path: Path) -> None:
    data, said = FILES[name]
    (tmp_path / name).write_bytes(data)
    for path in (tmp_path / name, tmp_path):
        with pytest.raises(CorruptFileError) as caught:
            load_model(path)
        assert said in str(caught.value)
        assert "expected a .keras or .h5 model file" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["saved_model.cpb", "variables/x"], "a SavedModel in several parts"),
        (["_METADATA", "manifest.ocdbt"], "a checkpoint of JAX (Orbax)"),
        (["model-1.index", "model-1.data-00000-of-00001", "checkpoint"], "without the model's architecture"),
        (["model.index", "model.meta"], "of TensorFlow 1"),
        (["variables/variables.index"], "without its saved_model.pb"),
        (["1/saved_model.pb"], "the folder '1' in it has one"),
        (["1/model.keras"], "the folder '1' in it has one"),
        (["a.txt", "b.txt"], "no model file, but 'a.txt', 'b.txt'"),
        ([], "is empty"),
        (["pytorch_model.bin"], "a model of Hugging Face for PyTorch"),
    ],
)
def test_folders(names: list[str], said: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"?")
    with pytest.raises(CorruptFileError) as caught:
        load_model(tmp_path)
    assert said in str(caught.value)


def test_unknown_content_is_named_as_before(tmp_path: Path) -> None:
    (tmp_path / "x.keras").write_bytes(b"\x00" * 100)
    with pytest.raises(CorruptFileError, match="is neither a Keras zip nor HDF5"):
        load_model(tmp_path / "x.keras")
