"""Hostile and broken checkpoints of TensorFlow: each raises its own error, with little time and memory."""

from __future__ import annotations

import itertools
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_files import (
    HEADER,
    MAGIC,
    block,
    entry,
    field,
    graph,
    masked,
    node,
    stored,
    table,
    text_content,
    varint,
    write_bundle,
)
from layergraph.archive import LoadLimits, open_archive
from layergraph.archive.protobuf import WireError
from layergraph.archive.saved_model import bundle as bundles
from layergraph.archive.saved_model import crc32c as checksums
from layergraph.archive.saved_model.crc32c import crc32c
from layergraph.archive.saved_model.object_graph import ObjectGraph
from layergraph.archive.saved_model.snappy import decompressed
from layergraph.errors import CorruptFileError, ModelFileError, UnsafeFileError, UnsupportedModelError
from layergraph.models.loading import load_model

FIXTURES = Path(__file__).parents[2] / "fixtures" / "saved_models"
LAYERS: list[dict[str, Any]] = [
    {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 2], "dtype": "float32", "name": "x"}},
    {"class_name": "Dense", "config": {"name": "a", "trainable": True, "units": 3}},
    {"class_name": "Dense", "config": {"name": "b", "trainable": True, "units": 3}},
]
CONFIG = {"class_name": "Sequential", "config": {"name": "s", "layers": LAYERS}, "keras_version": "2.15.0"}
ARRAYS = {
    "one": np.arange(6, dtype="f4").reshape(2, 3),
    "two": np.ones(3, "f4"),
    "three": np.eye(3, dtype="f4"),
    "four": np.zeros(3, "f4"),
}
NODES = (
    node({"layer-0": 1, "layer-1": 2}),
    node({"kernel": 3, "bias": 4}),
    node({"kernel": 5, "bias": 6}),
    *(node(key=key) for key in ARRAYS),
)


def write(folder: Path, objects: bytes = graph(*NODES), **changes: Any) -> Path:
    """A folder with `model.json` and a checkpoint."""
    (folder / "model.json").write_text(json.dumps(CONFIG))
    write_bundle(folder / "model", ARRAYS, objects, **changes)
    return folder


def test_a_written_checkpoint_is_read(tmp_path: Path) -> None:
    model = load_model(write(tmp_path))
    np.testing.assert_array_equal(model.predict(np.array([[1.0, 2.0]]), verbose=0), [[7, 10, 13]])


def test_arrays_may_be_in_several_files(tmp_path: Path) -> None:
    content, checksum = text_content(graph(*NODES))
    kernel = ARRAYS["one"].tobytes()
    entries = {key: entry(1, array.shape, 0, array.tobytes(), shard=1) for key, array in ARRAYS.items()}
    entries["one"] = entry(1, (2, 3), 7, kernel, shard=1)
    entries["_CHECKPOINTABLE_OBJECT_GRAPH"] = entry(7, (), 0, content, checksum=checksum)
    write(tmp_path, header=field(1, 2), entries=entries)
    (tmp_path / "model.data-00000-of-00002").write_bytes(content)
    rest = b"".join(array.tobytes() for key, array in ARRAYS.items() if key != "one")
    (tmp_path / "model.data-00001-of-00002").write_bytes(bytes(7) + kernel + rest)
    with open_archive(tmp_path) as archive:
        weights: Any = archive.weights
        np.testing.assert_array_equal(weights.layers()["a"][0].read(), ARRAYS["one"])
    (tmp_path / "model.data-00001-of-00002").unlink()
    with pytest.raises(CorruptFileError, match=r"lacks 1 of its 2 data files: model\.data-00001-of-00002"):
        load_model(tmp_path)


# Checksums and compression.


@pytest.mark.parametrize("size", [0, 1, 9, 999, 1000, 1001, 10_003])
def test_checksums_are_those_of_the_bytewise_formula(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checksums, "_PIECE", 1000)
    data = random.Random(size).randbytes(size)
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    assert crc32c(data) == register ^ 0xFFFFFFFF
    assert crc32c(data[7:], crc32c(data[:7])) == crc32c(data)


def test_checksum_of_the_standard() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_snappy_literals_and_overlapping_copies() -> None:
    literal = bytes([(4 - 1) << 2]) + b"abcd"
    near = bytes([(7 - 4) << 2 | 1, 2])
    far = bytes([(20 - 1) << 2 | 2]) + (11).to_bytes(2, "little")
    plain = decompressed(varint(31) + literal + near + far, 100)
    assert plain == (b"abcdcdcdcdc" * 3)[:31]
    long = bytes([60 << 2, 99]) + bytes(100)
    assert decompressed(varint(100) + long, 100) == bytes(100)


@pytest.mark.parametrize(
    "data",
    [
        varint(1 << 40) + b"\0a",
        varint(4) + bytes([3 << 2]) + b"ab",
        varint(4) + bytes([1, 9]),
        varint(4) + bytes([0]) + b"a" + bytes([1, 0]),
        varint(2) + bytes([0]) + b"a",
        varint(1) + bytes([0]) + b"a" + b"\0b",
        varint(64) + bytes([0]) + b"a" + bytes([63 << 2 | 3, 1, 0]),
        b"",
    ],
)
def test_damaged_snappy_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        decompressed(data, 1000)


def test_a_compressed_index_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "model.index"
    data = path.read_bytes()
    at = data.index(stored(b"")[:0] + data[: data.rindex(b"0000")])
    content = data[at : data.rindex(b"0000") - 3 - 5]
    compressed = varint(len(content)) + bytes([61 << 2]) + (len(content) - 1).to_bytes(2, "little") + content
    path.write_bytes(table(compressed, kind=1))
    assert load_model(tmp_path).count_params() == 21


# The index.


def footer(offset: int, size: int) -> bytes:
    return (varint(0) + varint(0) + varint(offset) + varint(size)).ljust(40, b"\0") + MAGIC


GOOD = block([(b"", HEADER)])
INDEXES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "its last 8 bytes are none"),
    "short": (MAGIC, "isn't a TensorFlow index"),
    "magic": (bytes(48), "isn't a TensorFlow index"),
    "handle beyond the file": (footer(1 << 40, 5), "but the file ends"),
    "huge handle": (footer(0x7FFFFFFFFFFFFFF0, 1 << 63), "but the file ends"),
    "long varint": (b"\xff" * 40 + MAGIC, "damaged number"),
    "checksum": (table(GOOD)[:2] + b"?" + table(GOOD)[3:], "its checksum is wrong"),
    "compression": (table(GOOD, kind=7), "compression type 7"),
    "snappy bomb": (table(varint(1 << 50) + b"\0a", kind=1), "decompresses to"),
    "restarts": (table(b"\xff" * 8), "too few for its"),
    "no restarts": (table(b"\0"), "too few"),
    "shared": (table(varint(9) + varint(0) + varint(0) + bytes(4) + b"\1\0\0\0"), "exceeds it"),
    "value": (table(varint(0) + varint(1) + varint(1 << 60) + b"a" + bytes(4) + b"\1\0\0\0"), "exceeds it"),
    "order": (table(block([(b"b", b""), (b"a", b"")])), "out of order"),
    "repeated": (table(block([(b"a", b"")]), block([(b"a", b"")])), "out of order"),
    "no header": (table(block([(b"a", b"")])), "no header"),
    "header": (table(block([(b"", b"\xff")])), "its header has a damaged number"),
    "big-endian": (table(block([(b"", field(1, 1) + field(2, 1))])), "big-endian"),
    "no shards": (table(block([(b"", field(1, 0))])), "has 0 data files"),
    "shards": (table(block([(b"", field(1, 1 << 40))])), "data files, expected 1 to 10000"),
    "missing shards": (table(block([(b"", field(1, 3))])), "lacks 3 of its 3 data files"),
}


@pytest.mark.parametrize("name", INDEXES)
def test_hostile_indexes(name: str, tmp_path: Path) -> None:
    write(tmp_path)
    data, said = INDEXES[name]
    (tmp_path / "model.index").write_bytes(data)
    with pytest.raises((CorruptFileError, UnsupportedModelError), match=r"^model\.index: ") as caught:
        load_model(tmp_path)
    assert said in str(caught.value)


ENTRIES: dict[str, tuple[bytes, str]] = {
    "offset": (entry(1, (2, 3), 0x7FFFFFFFFFFFFFF0, bytes(24)), "is at bytes"),
    "beyond": (entry(1, (2, 3), 10_000, bytes(24)), "is at bytes"),
    "shard": (entry(1, (2, 3), 0, bytes(24), shard=1), "in data file 1, of which there are 1"),
    "dtype": (entry(77, (2, 3), 0, bytes(24)), "TensorFlow's type 77"),
    "texts": (entry(7, (2, 3), 0, bytes(24)), "TensorFlow's type 7"),
    "complex": (entry(8, (3,), 0, bytes(24)), "TensorFlow's type 8"),
    "size": (entry(1, (2, 4), 0, bytes(24)), "has 24 bytes, expected 32"),
    "overflow": (entry(1, (1 << 40, 1 << 40), 0, bytes(24)), "has 24 bytes, expected"),
    "negative": (entry(1, (-1,), 0, bytes(24)), "has the shape"),
    "axes": (entry(1, (1,) * 40, 0, bytes(4)), "has the shape"),
    "rank": (field(1, 1) + field(2, field(3, 1)), "unknown rank"),
    "partitioned": (entry(1, (2, 3), 0, bytes(24)) + field(7, b""), "is partitioned"),
    "checksum": (entry(1, (2, 3), 0, bytes(24)), "the checksum of its values is wrong"),
    "shape": (entry(1, (3, 2), 0, ARRAYS["one"].tobytes()), "layer a (Dense): weight 'kernel' has shape (3, 2)"),
    "wire": (b"\x0f", "wire type 7"),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_hostile_entries(name: str, tmp_path: Path) -> None:
    data, said = ENTRIES[name]
    with pytest.raises(ModelFileError) as caught:
        load_model(write(tmp_path, entries={"one": data}))
    assert said in str(caught.value).replace("'a'", "a")


def test_texts_are_checked(tmp_path: Path) -> None:
    objects, (content, checksum) = graph(*NODES), text_content(graph(*NODES))
    offset = sum(array.nbytes for array in ARRAYS.values())
    wrong = {
        "the checksum of its lengths": entry(7, (), offset - 1, content, checksum=checksum),
        "its checksum is wrong": entry(7, (), offset, content, checksum=checksum ^ 1),
        "texts in": entry(7, (1 << 40,), offset, content, checksum=checksum),
        "expected 7 (texts)": entry(1, (), offset, content[:4], checksum=checksum),
    }
    for said, changed in wrong.items():
        write(tmp_path, objects, entries={bundles_key: changed})
        with pytest.raises(CorruptFileError) as caught:
            load_model(tmp_path)
        assert said in str(caught.value) or "has texts of" in str(caught.value), said


bundles_key = "_CHECKPOINTABLE_OBJECT_GRAPH"


# The object graph.


GRAPHS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "has no objects"),
    "damaged": (b"\x0a\xff", "its object graph"),
    "child": (graph(node({"layer-0": 9})), "refers from object 0 to object 9 of 1"),
    "slot": (graph(node(slots=[(0, "m", 1 << 40)])), "refers from object 0"),
    "no model": (graph(node({"net": 1}), node({"kernel": 0})), "its root has net"),
    "two models": (graph(node({"f": 1, "g": 1}), node({"layer-0": 2}), node()), "has 2 models (f, g)"),
    "another model": (
        graph(node({"layer-0": 1}), *NODES[1:]),
        "weights of 1 layers, expected 2; without counterpart: 'a'",
    ),
    "absent key": (graph(*NODES[:3], node(key="five"), *NODES[4:]), "has no tensor 'five'"),
    "no bias": (graph(NODES[0], node({"kernel": 3}), *NODES[2:]), "has 1 weights in the file, expected 2"),
    "text": (graph(node({"a": 0}) + field(1, field(2, b"\xff"))), "isn't UTF-8"),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_hostile_object_graphs(name: str, tmp_path: Path) -> None:
    objects, said = GRAPHS[name]
    with pytest.raises(ModelFileError) as caught:
        load_model(write(tmp_path, objects))
    assert said in str(caught.value)


def test_cycles_end(tmp_path: Path) -> None:
    cyclic = (node({"layer-0": 1, "layer-1": 2}), node({"kernel": 3, "bias": 4, "self": 1, "root": 0}), *NODES[2:])
    with pytest.raises(CorruptFileError, match="has 4 weights in the file, expected 2"):
        load_model(write(tmp_path, graph(*cyclic)))


def test_shared_chains_have_a_limit(tmp_path: Path) -> None:
    """Every layer contains all later ones, which takes a square of steps."""
    count = 600
    nodes = [node({f"layer-{index}": index + 1 for index in range(count)})]
    nodes += [node({"next": index + 2}) for index in range(count - 1)] + [node()]
    with pytest.raises(CorruptFileError, match="too many paths"):
        load_model(write(tmp_path, graph(*nodes)), limits=LoadLimits(config_values=100_000))


def test_the_number_of_objects_has_a_limit() -> None:
    with pytest.raises(WireError, match="too many objects"):
        ObjectGraph(graph(*[node()] * 11), 10)
    assert len(ObjectGraph(graph(*[node()] * 10), 10).nodes) == 10


def test_limits_of_sizes(tmp_path: Path) -> None:
    write(tmp_path, entries={"more": bytes(2000)})
    for limits, said in (
        (LoadLimits(config_bytes=1000), "model.index: has"),
        (LoadLimits(names=3), "more than 3"),
        (LoadLimits(weight_bytes=10), "its weights take 84 bytes"),
    ):
        with pytest.raises(CorruptFileError, match=said):
            load_model(tmp_path, limits=limits)


# Files.


def test_links_are_refused(tmp_path: Path) -> None:
    for name in ("model.index", "model.data-00000-of-00001"):
        folder = tmp_path / name
        folder.mkdir()
        write(folder)
        (folder / name).rename(tmp_path / f"{name}.real")
        (folder / name).symlink_to(tmp_path / f"{name}.real")
        with pytest.raises(ModelFileError):
            load_model(folder)
    shutil.copytree(FIXTURES / "tf215" / "model", tmp_path / "model")
    (tmp_path / "model" / "variables").rename(tmp_path / "variables")
    (tmp_path / "model" / "variables").symlink_to(tmp_path / "variables")
    with pytest.raises(UnsafeFileError, match="is a link"):
        load_model(tmp_path / "model")


def test_the_checkpoint_file_names_only_files_beside_it(tmp_path: Path) -> None:
    write(tmp_path)
    for suffix in (".index", ".data-00000-of-00001"):
        (tmp_path / f"model{suffix}").rename(tmp_path / f"ckpt-2{suffix}")
    shutil.copy(tmp_path / "ckpt-2.index", tmp_path / "ckpt-1.index")
    with pytest.raises(CorruptFileError, match="has no weights"):
        load_model(tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/etc/ckpt-2"\nall_model_checkpoint_paths: "x"\n')
    assert load_model(tmp_path).count_params() == 21
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "../../etc/passwd"\n')
    with pytest.raises(CorruptFileError, match="has no weights"):
        load_model(tmp_path)


def _without_checksums(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(bundles, "crc32c", lambda *data: 0)
    patch.setattr(bundles, "unmasked", lambda checksum: 0)


@pytest.mark.parametrize(("name", "checked"), [("tf215/model", False), ("tf23/text", True), ("tf20/checkpoint", False)])
def test_mutated_folders(name: str, checked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random changes of any file end in a typed error, or in none."""
    if not checked:
        _without_checksums(monkeypatch)
    generator = random.Random(f"{name}{checked}")
    shutil.copytree(FIXTURES / name, tmp_path / "model")
    files = {path: path.read_bytes() for path in sorted((tmp_path / "model").rglob("*")) if path.is_file()}
    refused = 0
    for _ in range(40):
        path = generator.choice(list(files))
        path.write_bytes(_changed(files[path], generator))
        try:
            with open_archive(tmp_path / "model") as archive:
                weights: Any = archive.weights
                for array in [*itertools.chain(*weights.layers().values()), *archive.optimizer_weights]:
                    array.read()
        except ModelFileError:
            refused += 1
        path.write_bytes(files[path])
    assert refused > 5


def _changed(data: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(data) or 1)
    changes: list[Callable[[], bytes]] = [
        lambda: data[:at],
        lambda: data[:at] + generator.randbytes(1) + data[at + 1 :],
        lambda: data[:at] + b"\xff" * 9 + data[at + 9 :],
        lambda: data[:at] + data[at + generator.randrange(1, 20) :],
        lambda: data[:at] + generator.randbytes(5) + data[at:],
    ]
    return generator.choice(changes)()


def test_masked_is_the_inverse_of_unmasked() -> None:
    assert bundles.unmasked(masked(b"abc")) == crc32c(b"abc")
