"""Hostile and broken model files, each with the error that it must give."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from typing import Any

import h5py
import numpy as np
from layergraph.errors import CorruptFileError, ModelFileError, UnsafeFileError, UnsupportedModelError

MIB = 1024**2
Bytes = bytes | bytearray
LAYERS: list[dict[str, Any]] = [
    {"class_name": "InputLayer", "config": {"batch_shape": [None, 4], "dtype": "float32", "name": "x"}},
    {"class_name": "Dense", "config": {"name": "a", "trainable": True, "units": 3}},
    {"class_name": "Dense", "config": {"name": "b", "trainable": True, "units": 3}},
]
CONFIG = {"module": "keras", "class_name": "Sequential", "config": {"name": "s", "trainable": True, "layers": LAYERS}}
ARRAYS = {("a", "kernel"): (4, 3), ("a", "bias"): (3,), ("b", "kernel"): (3, 3), ("b", "bias"): (3,)}


def state(change: Callable[[h5py.File], object] = lambda file: None) -> bytes:
    """A valid `model.weights.h5`, modified."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for (layer, name), shape in ARRAYS.items():
            group = "dense" if layer == "a" else "dense_1"
            file[f"layers/{group}/vars/{int(name == 'bias')}"] = np.ones(shape, "f4")
        change(file)
    return buffer.getvalue()


def keras(config: str | bytes | None = None, weights: bytes | None = None, **options: Any) -> bytes:
    """A `.keras` file in memory; valid by default."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.8.0"}))
        archive.writestr("config.json", json.dumps(CONFIG) if config is None else config)
        archive.writestr("model.weights.h5", state() if weights is None else weights)
    return buffer.getvalue()


def h5(change: Callable[[h5py.File], object] = lambda file: None, config: Any = None) -> bytes:
    """A legacy `.h5` file in memory, modified."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = json.dumps(CONFIG) if config is None else config
        file.attrs["keras_version"] = "3.8.0"
        model = file.create_group("model_weights")
        model.attrs["layer_names"] = ["a", "b"]
        for layer in ("a", "b"):
            model.create_group(layer).attrs["weight_names"] = [f"{layer}/kernel", f"{layer}/bias"]
        for (layer, name), shape in ARRAYS.items():
            model[f"{layer}/{layer}/{name}"] = np.ones(shape, "f4")
        change(file)
    return buffer.getvalue()


def replaced(make: Callable[[h5py.Group, str], object]) -> Callable[[h5py.File], None]:
    """Replaces the first layer's kernel."""

    def change(file: h5py.File) -> None:
        group = file["layers/dense/vars"]
        del group["0"]
        make(group, "0")

    return change


def dataset(**options: Any) -> bytes:
    return keras(weights=state(replaced(lambda group, name: group.create_dataset(name, **options))))


@cache
def bomb_json(size: int = 128 * MIB) -> bytes:
    """A config of zeros, compressed to a thousandth."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("config.json", "model.weights.h5"):
            with archive.open(name, "w") as member:
                for _ in range(size // MIB):
                    member.write(b"\0" * MIB)
    return buffer.getvalue()


def patched(data: bytes, at: int, form: str, *values: int, last: bool = True) -> bytes:
    """Changes a field of the central directory's last (or first) header."""
    result = bytearray(data)
    start = data.rfind(b"PK\1\2") if last else data.find(b"PK\1\2")
    struct.pack_into(form, result, start + at, *values)
    return bytes(result)


def lying_bomb() -> bytes:
    """The zip bomb with headers that claim 100 bytes."""
    data = bytearray(bomb_json())
    struct.pack_into("<I", data, data.find(b"PK\1\2") + 24, 100)
    struct.pack_into("<I", data, data.find(b"PK\3\4") + 22, 100)
    return bytes(data)


def endless_heap() -> bytes:
    """Variable-length strings in a heap whose first object has size 0, which HDF5 would loop on forever."""
    data = bytearray(h5())
    struct.pack_into("<HH4xQ", data, data.find(b"GCOL") + 16, 0, 0, 0)
    return bytes(data)


def overlapping() -> bytes:
    """Two members over the same bytes."""
    data = keras()
    first = data.find(b"PK\1\2")
    second = data.find(b"PK\1\2", first + 4)
    return data[: second + 42] + data[first + 42 : first + 46] + data[second + 46 :]


def many_members() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for index in range(60_000):
            archive.writestr(f"m{index}", b"")
    return buffer.getvalue()


def duplicate() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("config.json", "config.jsom"):
            archive.writestr(name, json.dumps(CONFIG))
        archive.writestr("model.weights.h5", state())
    return buffer.getvalue().replace(b"config.jsom", b"config.json")


def filtered(group: h5py.Group, name: str) -> None:
    """A chunk that only a plugin could decode."""
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((4, 3))
    plan.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple((4, 3))
    made = h5py.h5d.create(group.id, name.encode(), h5py.h5t.IEEE_F32LE, space, dcpl=plan)
    made.write_direct_chunk((0, 0), b"x" * 48)


def inflating_chunk(size: int) -> Callable[[h5py.Group, str], None]:
    """A chunk of the right shape that inflates to `size` bytes."""

    def make(group: h5py.Group, name: str) -> None:
        made = group.create_dataset(name, (4, 3), "f4", chunks=(4, 3), compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(b"\0" * size))

    return make


def damaged_chunk(group: h5py.Group, name: str) -> None:
    made = group.create_dataset(name, (4, 3), "f4", chunks=(4, 3), compression="gzip")
    made.id.write_direct_chunk((0, 0), b"x" * 48)


def truncated_chunk(group: h5py.Group, name: str) -> None:
    made = group.create_dataset(name, (4, 3), "f4", chunks=(4, 3), compression="gzip")
    made.id.write_direct_chunk((0, 0), zlib.compress(b"\0" * 48)[:-2])


def damaged_member() -> bytes:
    """A deflated config whose first bytes aren't valid deflate data."""
    data = bytearray(keras(compression=zipfile.ZIP_DEFLATED))
    at = data.find(b"config.json") + len(b"config.json")
    data[at : at + 8] = b"\xff" * 8
    return bytes(data)


def virtual(group: h5py.Group, name: str) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource("/etc/hostname", "x", (4, 3))
    group.create_virtual_dataset(name, layout)


def self_linked(file: h5py.File) -> None:
    file["layers/dense/vars"]["loop"] = file["/"]


def shared_by_thousands(file: h5py.File) -> None:
    for index in range(5000):
        file[f"layers/dense/vars/{index + 2}"] = file["layers/dense/vars/0"]


def config_with(**changes: Any) -> str:
    return json.dumps({**CONFIG, **changes})


def deep(levels: int) -> str:
    return '{"class_name": "Sequential", "config": ' + '{"a": ' * levels + "1" + "}" * (levels + 1)


CASES: dict[str, tuple[Callable[[], Bytes], type[ModelFileError], str]] = {
    # Neither zip nor HDF5.
    "empty": (lambda: b"", CorruptFileError, "is empty"),
    "random": (lambda: np.random.default_rng(0).bytes(5000), CorruptFileError, "neither"),
    "half a zip": (lambda: keras()[: len(keras()) // 2], CorruptFileError, "damaged or incomplete zip"),
    "half an h5": (lambda: h5()[: len(h5()) // 2], CorruptFileError, "can't be read"),
    "zip without config": (lambda: keras().replace(b"config.json", b"konfig.json"), CorruptFileError, "config.json"),
    "h5 with weights alone": (lambda: state(), CorruptFileError, "model_config"),
    # Zip.
    "duplicate members": (duplicate, UnsafeFileError, "two members"),
    "bomb": (bomb_json, CorruptFileError, "more than"),
    "bomb with a lying header": (lying_bomb, CorruptFileError, "config.json"),
    "size near 4 GiB": (lambda: patched(keras(), 24, "<I", 0xFFFFFFFE), ModelFileError, "model.weights.h5"),
    "encrypted": (lambda: patched(keras(), 8, "<H", 1), UnsupportedModelError, "encrypted"),
    "method 99": (lambda: patched(keras(), 10, "<H", 99), UnsupportedModelError, "method 99"),
    "lzma": (lambda: keras(compression=zipfile.ZIP_LZMA), UnsupportedModelError, "method 14"),
    "bzip2": (lambda: keras(compression=zipfile.ZIP_BZIP2), UnsupportedModelError, "method 12"),
    "wrong checksum": (lambda: patched(keras(), 16, "<I", 1), CorruptFileError, "checksum"),
    "headers that disagree": (lambda: patched(keras(), 10, "<H", 8), UnsafeFileError, "headers that differ"),
    "damaged deflation": (damaged_member, CorruptFileError, "member 'config.json' is damaged"),
    "into the table of contents": (
        lambda: patched(keras(), 20, "<II", len(state()) + 500, len(state()) + 500),
        CorruptFileError,
        "a member overlaps the central directory",
    ),
    "overlap": (overlapping, UnsafeFileError, "overlaps"),
    "60000 members": (many_members, CorruptFileError, "central directory"),
    "name with NUL": (
        lambda: keras().replace(b"metadata.json", b"metadata\0json"),
        UnsafeFileError,
        "NUL",
    ),
    "weights that are no HDF5": (lambda: keras(weights=b"x" * 5000), CorruptFileError, "HDF5"),
    "truncated weights": (lambda: keras(weights=state()[:3000]), CorruptFileError, "can't be read"),
    # JSON.
    "not JSON": (lambda: keras("class_name: Sequential"), CorruptFileError, "isn't valid JSON"),
    "a list": (lambda: keras("[1]"), CorruptFileError, "expected an object"),
    "UTF-16": (lambda: keras(json.dumps(CONFIG).encode("utf-16")), CorruptFileError, "UTF-8"),
    "BOM": (lambda: keras(b"\xef\xbb\xbf{}"), CorruptFileError, "isn't valid JSON"),
    "deep": (lambda: keras(deep(500)), CorruptFileError, "deep"),
    "very deep": (lambda: keras(deep(100_000)), CorruptFileError, "deep"),
    "unclosed": (lambda: keras("[" * 100_000), CorruptFileError, "deep"),
    "NaN": (lambda: keras(json.dumps(CONFIG).replace("3}", "NaN}")), CorruptFileError, "NaN"),
    "1e999": (lambda: keras(json.dumps(CONFIG).replace("3}", "1e999}")), CorruptFileError, "1e999"),
    "5000 digits": (
        lambda: keras(json.dumps(CONFIG).replace("3}", "9" * 5000 + "}")),
        CorruptFileError,
        "of 5000 digits",
    ),
    "repeated keys": (lambda: keras('{"class_name": "a", "class_name": "b"}'), CorruptFileError, "twice"),
    "millions of values": (lambda: keras('{"a": [' + "[]," * 1_500_000 + "1]}"), CorruptFileError, "values"),
    # Attributes of HDF5.
    "config is empty": (lambda: h5(config=h5py.Empty("S1")), CorruptFileError, "model_config"),
    "config is a number": (lambda: h5(config=3.5), CorruptFileError, "isn't text"),
    "layer_names are floats": (
        lambda: h5(lambda f: f["model_weights"].attrs.create("layer_names", np.ones(3))),
        CorruptFileError,
        "isn't text",
    ),
    "no layer_names": (
        lambda: h5(lambda f: f["model_weights"].attrs.__delitem__("layer_names")),
        CorruptFileError,
        "layer_names",
    ),
    "repeated layer_names": (
        lambda: h5(lambda f: f["model_weights"].attrs.__setitem__("layer_names", np.array([b"a"] * 6000, "S1"))),
        CorruptFileError,
        "repeats a name",
    ),
    "layer_names with a way out": (
        lambda: h5(lambda f: f["model_weights"].attrs.__setitem__("layer_names", [b"../../a", b"b"])),
        CorruptFileError,
        "no weights of layer",
    ),
    "weight_names lead nowhere": (
        lambda: h5(lambda f: f["model_weights/a"].attrs.__setitem__("weight_names", [b"a/kernel", b"x"])),
        CorruptFileError,
        "no array 'x'",
    ),
    # Links and storage of HDF5.
    "external link": (
        lambda: h5(lambda f: (f.pop("model_weights"), f.__setitem__("model_weights", h5py.ExternalLink("/a", "/")))),
        UnsafeFileError,
        "is a link",
    ),
    "soft link loop": (
        lambda: keras(weights=state(replaced(lambda g, n: g.__setitem__(n, h5py.SoftLink("/layers/dense/vars/0"))))),
        UnsafeFileError,
        "is a link",
    ),
    "5000 links to one array": (
        lambda: keras(weights=state(shared_by_thousands)),
        CorruptFileError,
        "5002 weights in the file",
    ),
    "external storage": (
        lambda: dataset(shape=(4, 3), dtype="f4", external=[("/etc/hostname", 0, 48)]),
        UnsafeFileError,
        "other files",
    ),
    "virtual": (lambda: keras(weights=state(replaced(virtual))), UnsafeFileError, "other files"),
    # Arrays of HDF5.
    "huge, unwritten": (lambda: dataset(shape=(10**6, 10**6), dtype="f4"), CorruptFileError, r"expected \(4, 3\)"),
    "unwritten": (lambda: dataset(shape=(4, 3), dtype="f4"), CorruptFileError, "0 bytes"),
    "unwritten chunks": (
        lambda: dataset(shape=(4, 3), dtype="f4", chunks=(2, 3), compression="gzip"),
        CorruptFileError,
        "0 chunks, expected 2",
    ),
    "huge chunks": (
        lambda: dataset(shape=(4, 3), dtype="f4", chunks=(16384, 16384), maxshape=(None, None)),
        CorruptFileError,
        "chunks of",
    ),
    "a chunk that inflates": (
        lambda: keras(weights=state(replaced(inflating_chunk(40_000)))),
        CorruptFileError,
        "inflates",
    ),
    "a large chunk that inflates": (
        lambda: keras(weights=state(replaced(inflating_chunk(128 * MIB)))),
        CorruptFileError,
        "has a chunk of",
    ),
    "a chunk that inflates to less": (
        lambda: keras(weights=state(replaced(inflating_chunk(47)))),
        CorruptFileError,
        "has a chunk of 47 bytes, expected 48",
    ),
    "a truncated chunk": (
        lambda: keras(weights=state(replaced(truncated_chunk))),
        CorruptFileError,
        "has a truncated chunk",
    ),
    "a damaged chunk": (
        lambda: keras(weights=state(replaced(damaged_chunk))),
        CorruptFileError,
        "has a damaged chunk",
    ),
    "foreign filter": (lambda: keras(weights=state(replaced(filtered))), UnsupportedModelError, "filter 32001"),
    "lzf": (
        lambda: dataset(data=np.ones((4, 3), "f4"), chunks=(4, 3), compression="lzf"),
        UnsupportedModelError,
        "filter 32000",
    ),
    "endless heap": (endless_heap, CorruptFileError, "heap of variable-length strings"),
    "text": (lambda: dataset(data=["x"] * 12), UnsupportedModelError, "expected numbers"),
    "records": (lambda: dataset(data=np.ones((4, 3), "f4,f4")), UnsupportedModelError, "expected numbers"),
    "array type": (
        lambda: dataset(shape=(4,), dtype=np.dtype(("f4", (3,)))),
        UnsupportedModelError,
        "expected numbers",
    ),
    "complex": (lambda: dataset(data=np.ones((4, 3), "c8")), UnsupportedModelError, "expected numbers"),
    "integers for floats": (lambda: dataset(data=np.ones((4, 3), "i4")), CorruptFileError, "type int32"),
    "transposed": (lambda: dataset(data=np.ones((3, 4), "f4")), CorruptFileError, r"shape \(3, 4\)"),
    "scalar": (lambda: dataset(data=np.float32(1)), CorruptFileError, r"shape \(\)"),
    "nothing": (lambda: dataset(data=h5py.Empty("f4")), CorruptFileError, "is empty"),
    "a group for an array": (
        lambda: keras(weights=state(replaced(lambda g, n: g.create_group(n)))),
        CorruptFileError,
        "isn't an array",
    ),
    "an array for a group": (
        lambda: keras(weights=state(lambda f: (f.pop("layers/dense"), f.__setitem__("layers/dense", 1)))),
        CorruptFileError,
        "",
    ),
    "missing array": (
        lambda: keras(weights=state(replaced(lambda g, n: None))),
        CorruptFileError,
        "layer 'a'.* has no weights in the file",
    ),
    "missing layer": (
        lambda: keras(weights=state(lambda f: f.pop("layers/dense"))),
        CorruptFileError,
        "layer 'a'.* has no weights in the file",
    ),
}
