"""Reads TensorBundles: an index of tensors, and their values in data files.

The format is that of tensorflow/core/util/tensor_bundle and tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layergraph.archive import protobuf
from layergraph.archive.allocation import uninitialised
from layergraph.archive.files import open_own
from layergraph.archive.limits import LoadLimits
from layergraph.archive.saved_model.crc32c import crc32c, unmasked
from layergraph.archive.saved_model.table import read_table
from layergraph.archive.weights import Array
from layergraph.errors import CorruptFileError, UnsupportedModelError

_MAX_SHARDS = 10_000
_MAX_AXES = 32
_STRING = 7
#: TensorFlow's DataType -> Keras's name, and NumPy's dtype of the stored bytes.
_DTYPES: Mapping[int, tuple[str, str]] = {
    1: ("float32", "<f4"),
    2: ("float64", "<f8"),
    3: ("int32", "<i4"),
    4: ("uint8", "|u1"),
    5: ("int16", "<i2"),
    6: ("int8", "|i1"),
    9: ("int64", "<i8"),
    10: ("bool", "|b1"),
    14: ("bfloat16", "<u2"),
    17: ("uint16", "<u2"),
    19: ("float16", "<f2"),
    22: ("uint32", "<u4"),
    23: ("uint64", "<u8"),
}


@dataclass(frozen=True, slots=True)
class _Entry:
    """A BundleEntryProto: where the tensor's bytes are."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    partitioned: bool = False


@dataclass(frozen=True, slots=True)
class BundleArray:
    """An array of a bundle, not read yet. `name` is the name of its variable, `dtype` Keras's name of its dtype."""

    name: str
    key: str
    shape: tuple[int, ...]
    dtype: str
    _entry: _Entry
    _bundle: Bundle

    @property
    def nbytes(self) -> int:
        """Size of the values in memory, in bytes."""
        return self._entry.size

    def read(self) -> Array:
        """Reads the values; bfloat16 as float32, which represents it exactly. Raises CorruptFileError."""
        values = uninitialised((self._entry.size,), np.dtype(np.uint8))
        self._bundle.read_into(self.key, self._entry, memoryview(values.data))
        stored = values.view(_DTYPES[self._entry.dtype][1]).reshape(self.shape)
        if self.dtype == "bfloat16":
            return np.asarray(stored.astype(np.uint32) << 16).view(np.float32)
        return stored.astype(stored.dtype.newbyteorder("="), copy=False)


class Bundle:
    """An open bundle. `prefix` is the path of its files without `.index` and `.data-00000-of-00001`.

    stored_bytes  size of all its files
    files         paths of all its files
    problems      a text if data files are missing; arrays in them can be described, but not read
    """

    def __init__(self, prefix: Path, limits: LoadLimits, resources: ExitStack) -> None:
        self.path = prefix.with_name(f"{prefix.name}.index")
        index = open_own(self.path, resources)
        table = read_table(index, self.path, limits)
        count = self._shard_count(table.pop(b"", None))
        self._entries = table
        # Names come from the number of shards alone.
        names = [f"{prefix.name}.data-{shard:05d}-of-{count:05d}" for shard in range(count)]
        self._shard_paths = [prefix.with_name(name) for name in names]
        missing = [one.name for one in self._shard_paths if not one.exists()]
        lacks = f"lacks {len(missing)} of its {count} data files: {', '.join(missing[:5])}"
        self.problems = [lacks] if missing else []
        self._shards = [open_own(one, resources) if one.exists() else None for one in self._shard_paths]
        held = [(path, shard) for path, shard in zip(self._shard_paths, self._shards, strict=True) if shard is not None]
        self.files = (self.path, *(path for path, _ in held))
        self.stored_bytes = index.length + sum(shard.length for _, shard in held)

    def keys(self) -> Sequence[str]:
        """All keys, sorted."""
        return [key.decode("utf-8", "replace") for key in self._entries]

    def __contains__(self, key: str) -> bool:
        return key.encode("utf-8", "surrogatepass") in self._entries

    def array(self, key: str, name: str) -> BundleArray:
        """Describes the array with a key; `name` is its variable's. Raises CorruptFileError, UnsupportedModelError."""
        entry = self._entry(key)
        known = _DTYPES.get(entry.dtype)
        if known is None:
            raise UnsupportedModelError(
                self.path, f"'{key[:200]}' has TensorFlow's type {entry.dtype}, expected numbers"
            )
        expected = math.prod(entry.shape) * np.dtype(known[1]).itemsize
        if expected != entry.size:
            raise CorruptFileError(
                self.path, f"'{key[:200]}' has {entry.size} bytes, expected {expected} for {entry.shape} {known[0]}"
            )
        return BundleArray(name, key, entry.shape, known[0], entry, self)

    def texts(self, key: str, largest: int) -> list[bytes]:
        """Reads a tensor of at most `largest` bytes of texts. Raises CorruptFileError."""
        entry = self._entry(key)
        label = f"'{key[:200]}'"
        if entry.dtype != _STRING:
            raise CorruptFileError(
                self.path, f"{label} has TensorFlow's type {entry.dtype}, expected {_STRING} (texts)"
            )
        count = math.prod(entry.shape)
        if entry.size > largest or count > entry.size:
            raise CorruptFileError(
                self.path, f"{label} has {count} texts in {entry.size} bytes, at most {largest} are read"
            )
        data = bytearray(entry.size)
        self.read_into(key, entry, memoryview(data), checked=False)
        whole, lengths, at = bytes(data), [], 0
        try:
            for _ in range(count):
                length, at = protobuf.varint(whole, at)
                lengths.append(length)
        except protobuf.WireError as wrong:
            raise CorruptFileError(self.path, f"{label} {wrong}") from None
        if at + 4 + sum(lengths) != entry.size:
            raise CorruptFileError(self.path, f"{label} has texts of {sum(lengths)} bytes in {entry.size} bytes")
        # The first checksum is that of the lengths as integers, the second covers them, itself, and the texts.
        width = np.dtype("<u4") if all(length < 1 << 32 for length in lengths) else np.dtype("<u8")
        first = crc32c(np.array(lengths, width).tobytes())
        if first != unmasked(int.from_bytes(whole[at : at + 4], "little")):
            raise CorruptFileError(self.path, f"{label} is damaged: the checksum of its lengths is wrong")
        if crc32c(memoryview(whole)[at:], first) != unmasked(entry.checksum):
            raise CorruptFileError(self.path, f"{label} is damaged: its checksum is wrong")
        texts, at = [], at + 4
        for length in lengths:
            texts.append(whole[at : at + length])
            at += length
        return texts

    def elements(self, key: str, largest: int) -> list[Any]:
        """Reads a tensor of texts or numbers, of at most `largest` bytes. Raises CorruptFileError."""
        if self._entry(key).dtype == _STRING:
            return list(self.texts(key, largest))
        array = self.array(key, key)
        if array.nbytes > largest:
            raise CorruptFileError(self.path, f"'{key[:200]}' has {array.nbytes} bytes, at most {largest} are read")
        return list(array.read().reshape(-1).tolist())

    def read_into(self, key: str, entry: _Entry, values: memoryview, *, checked: bool = True) -> None:
        """Reads the bytes of a tensor. Raises CorruptFileError if they are missing, or their checksum is wrong."""
        shard, path = self._shards[entry.shard], self._shard_paths[entry.shard]
        if shard is None:
            raise CorruptFileError(self.path, self.problems)
        shard.seek(entry.offset)
        if (got := shard.readinto(values)) != entry.size:
            raise CorruptFileError(path, f"'{key[:200]}' has {entry.size} bytes, of which {got} could be read")
        if checked and crc32c(values) != unmasked(entry.checksum):
            raise CorruptFileError(path, f"'{key[:200]}' is damaged: the checksum of its values is wrong")

    def _shard_count(self, header: bytes | None) -> int:
        if header is None:
            raise CorruptFileError(self.path, "isn't a TensorFlow index: it has no header")
        try:
            found = {field: protobuf.number(value) for field, value in protobuf.fields(header) if field in (1, 2)}
        except protobuf.WireError as wrong:
            raise CorruptFileError(self.path, f"its header {wrong}") from None
        if found.get(2, 0):
            raise UnsupportedModelError(self.path, "is big-endian, expected a little-endian checkpoint")
        count = found.get(1, 0)
        if not 1 <= count <= _MAX_SHARDS:
            raise CorruptFileError(self.path, f"has {count} data files, expected 1 to {_MAX_SHARDS}")
        return count

    def _entry(self, key: str) -> _Entry:
        stored = self._entries.get(key.encode("utf-8", "surrogatepass"))
        if stored is None:
            raise CorruptFileError(self.path, f"has no tensor '{key[:200]}', which its object graph lists")
        try:
            entry = _entry(stored)
        except protobuf.WireError as wrong:
            raise CorruptFileError(self.path, f"the entry of '{key[:200]}' {wrong}") from None
        if entry.partitioned:
            raise UnsupportedModelError(
                self.path,
                f"'{key[:200]}' is partitioned, as by a parameter server; save the model without partitioning",
            )
        if entry.shard >= len(self._shards):
            text = f"'{key[:200]}' is in data file {entry.shard}, of which there are {len(self._shards)}"
            raise CorruptFileError(self.path, text)
        shard = self._shards[entry.shard]
        if shard is not None and entry.offset + entry.size > shard.length:
            text = f"'{key[:200]}' is at bytes {entry.offset} to {entry.offset + entry.size} of {shard.length}"
            raise CorruptFileError(self._shard_paths[entry.shard], text)
        return entry


def _entry(stored: bytes) -> _Entry:
    """Parses a BundleEntryProto. Raises WireError."""
    values = {1: 0, 3: 0, 4: 0, 5: 0, 6: 0}
    shape: tuple[int, ...] = ()
    partitioned = False
    for field, value in protobuf.fields(stored):
        if field in values:
            values[field] = protobuf.number(value)
        elif field == 2:
            shape = _shape(protobuf.message(value))
        elif field == 7:
            partitioned = True
    return _Entry(values[1], shape, values[3], values[4], values[5], values[6], partitioned)


def _shape(stored: bytes) -> tuple[int, ...]:
    lengths = []
    for field, axis in protobuf.fields(stored):
        if field == 3:
            raise protobuf.WireError("has a shape of unknown rank")
        if field == 2:
            sizes = [protobuf.signed(protobuf.number(v)) for f, v in protobuf.fields(protobuf.message(axis)) if f == 1]
            lengths.append(sizes[-1] if sizes else 0)
    if len(lengths) > _MAX_AXES or any(not 0 <= length < 1 << 48 for length in lengths):
        raise protobuf.WireError(f"has the shape {str(lengths)[:100]}")
    return tuple(lengths)
