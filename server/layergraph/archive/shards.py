"""Weights of TensorFlow.js: raw numbers in files next to `model.json`, concatenated."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from layergraph.archive.files import FileWindow, open_regular
from layergraph.archive.limits import LoadLimits
from layergraph.archive.weights import Array, ArrayList
from layergraph.errors import CorruptFileError, UnsafeFileError, UnsupportedModelError

#: Name of a file next to `model.json`: no folder, no URL, no hidden file.
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
_MAX_SHARDS = 10_000
_DTYPES = {"float32": "<f4", "int32": "<i4", "bool": "|b1", "uint8": "|u1", "uint16": "<u2", "float16": "<f2"}


@dataclass(frozen=True, slots=True)
class ShardArray:
    """An array of the manifest, not read yet: `start` is its byte offset in the concatenated files of its group."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    stored_dtype: str
    scale: float | None
    minimum: float
    start: int
    _files: tuple[FileWindow, ...]
    _path: Path

    @property
    def nbytes(self) -> int:
        """Size of the values in memory, in bytes."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.dtype]).itemsize

    @property
    def stored_bytes(self) -> int:
        """Size of the values in the files, in bytes."""
        return math.prod(self.shape) * np.dtype(_DTYPES[self.stored_dtype]).itemsize

    def read(self) -> Array:
        """Reads the values; quantized ones are dequantized. Raises CorruptFileError."""
        data = bytearray()
        at, wanted = self.start, self.stored_bytes
        for file in self._files:
            if at < file.length and wanted:
                part = file.read_at(at, min(wanted, file.length - at))
                data += part
                wanted -= len(part)
                at = 0
            else:
                at -= file.length if wanted and at >= file.length else 0
        if wanted:
            raise CorruptFileError(self._path, f"array '{self.name[:80]}' is truncated")
        values = np.frombuffer(bytes(data), _DTYPES[self.stored_dtype]).reshape(self.shape)
        if self.scale is not None:
            # As in TensorFlow.js: computed in double precision, with integers rounded.
            real = values * self.scale + self.minimum
            return (np.rint(real) if self.dtype == "int32" else real).astype(_DTYPES[self.dtype])
        return values.astype(_DTYPES[self.dtype])


class ShardedWeights(ArrayList):
    """All arrays of a `model.json`, in file order."""

    def __init__(self, manifest: Any, path: Path, limits: LoadLimits, resources: ExitStack) -> None:
        super().__init__()
        self._path = path
        self._seen: set[str] = set()
        self.stored_bytes = 0
        if not isinstance(manifest, list) or len(manifest) > _MAX_SHARDS:
            raise CorruptFileError(path, "weightsManifest isn't a list of groups")
        for group in manifest:
            self._add(group, limits, resources)

    @property
    def files(self) -> list[Path]:
        """Paths of all files of weights."""
        return [self._path.parent / name for name in sorted(self._seen)]

    def _add(self, group: Any, limits: LoadLimits, resources: ExitStack) -> None:
        if not isinstance(group, Mapping) or not all(isinstance(group.get(key), list) for key in ("paths", "weights")):
            raise CorruptFileError(self._path, "weightsManifest has a group without paths and weights")
        files = tuple(self._open(name, resources) for name in group["paths"])
        start, held = 0, sum(file.length for file in files)
        self.stored_bytes += held
        if len(self.arrays) + len(group["weights"]) > limits.names:
            raise CorruptFileError(self._path, f"has more than {limits.names} weights")
        for item in group["weights"]:
            array = self._array(item, start, files)
            self.arrays.append(array)
            start += array.stored_bytes
        if start != held:
            raise CorruptFileError(self._path, f"a group of weights has {start} bytes, but its files have {held}")

    def _open(self, name: Any, resources: ExitStack) -> FileWindow:
        if not isinstance(name, str) or not _PLAIN_NAME.fullmatch(name):
            raise UnsafeFileError(self._path, f"refers to weights in {str(name)[:80]!r}, expected a file next to it")
        if name in self._seen or len(self._seen) >= _MAX_SHARDS:
            raise CorruptFileError(self._path, f"refers to weight file {name!r} twice, or to too many files")
        self._seen.add(name)
        shard = self._path.parent / name
        if shard.is_symlink():
            raise UnsafeFileError(self._path, f"weight file {name!r} is a link, expected a regular file")
        file = open_regular(shard)
        resources.callback(file.close)
        return file

    def _array(self, item: Any, start: int, files: tuple[FileWindow, ...]) -> ShardArray:
        name = item.get("name") if isinstance(item, Mapping) else None
        shape = item.get("shape") if isinstance(item, Mapping) else None
        sound = isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**31 for n in shape) and len(shape) <= 8
        if not isinstance(name, str) or not sound or not isinstance(shape, list):
            raise CorruptFileError(self._path, "weightsManifest has a weight without name and shape")
        dtype = item.get("dtype")
        if dtype not in ("float32", "int32", "bool"):
            raise UnsupportedModelError(self._path, f"weight '{name[:80]}' has type {str(dtype)[:40]!r}")
        quantization = item.get("quantization")
        stored, scale, minimum = dtype, None, 0.0
        if isinstance(quantization, Mapping):
            stored = quantization.get("dtype")
            if stored not in ("uint8", "uint16", "float16"):
                raise UnsupportedModelError(self._path, f"weight '{name[:80]}' is quantized as {str(stored)[:40]!r}")
            if stored != "float16":
                scale, minimum = _number(quantization.get("scale", 1.0)), _number(quantization.get("min", 0.0)) or 0.0
        return ShardArray(name, tuple(shape), dtype, stored, scale, minimum, start, files, self._path)


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
