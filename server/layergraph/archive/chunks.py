"""Decodes chunked HDF5 arrays: HDF5's own filters inflate without a limit and may load plugins."""

from __future__ import annotations

import itertools
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from layergraph.archive.allocation import uninitialised
from layergraph.archive.weights import Array
from layergraph.errors import CorruptFileError

#: HDF5's codes of filters.
_DEFLATE, _SHUFFLE, _FLETCHER32 = 1, 2, 3
FILTERS = frozenset({_DEFLATE, _SHUFFLE, _FLETCHER32})
_FLETCHER_BYTES = 4
#: Allowed excess of a chunk's size over twice its array's: HDF5 allows any for arrays that can grow.
_SPARE_BYTES = 1 << 20


def read(dataset: Any, name: str, path: Path) -> Array:
    """Reads all values of `dataset`, whose filters are in FILTERS. Raises CorruptFileError for a bad chunk."""
    plan = dataset.id.get_create_plist()
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    shape, chunk_shape, dtype = dataset.shape, dataset.chunks, dataset.dtype
    chunk_bytes = math.prod(chunk_shape) * dtype.itemsize
    array_bytes = math.prod(shape) * dtype.itemsize
    if chunk_bytes > 2 * array_bytes + _SPARE_BYTES:
        raise CorruptFileError(path, f"array '{name}' of {array_bytes} bytes has chunks of {chunk_bytes}")
    grid = [range(0, length, step) for length, step in zip(shape, chunk_shape, strict=True)]
    count = math.prod(len(axis) for axis in grid)
    if dataset.id.get_num_chunks() != count:
        raise CorruptFileError(path, f"array '{name}' has {dataset.id.get_num_chunks()} chunks, expected {count}")
    values = uninitialised(shape, dtype)
    for corner in itertools.product(*grid):
        chunk = _chunk(dataset, corner, filters, chunk_bytes, name, path)
        whole = np.frombuffer(chunk, dtype).reshape(chunk_shape)
        place = tuple(slice(at, min(at + step, end)) for at, step, end in zip(corner, chunk_shape, shape, strict=True))
        # Chunks at the edge are stored in full size.
        values[place] = whole[tuple(slice(0, part.stop - part.start) for part in place)]
    return values


def _chunk(
    dataset: Any, corner: tuple[int, ...], filters: list[int], chunk_bytes: int, name: str, path: Path
) -> bytes | bytearray:
    info = dataset.id.get_chunk_info_by_coord(corner)
    # Deflate and checksums increase the size by far less than this.
    if info.byte_offset is None or info.size > chunk_bytes + chunk_bytes // 8 + 1024:
        raise CorruptFileError(path, f"array '{name}' has a chunk of {info.size} bytes, expected {chunk_bytes} or less")
    skipped, data = dataset.id.read_direct_chunk(corner)
    for index in reversed(range(len(filters))):
        if skipped & (1 << index):
            continue
        if filters[index] == _FLETCHER32:
            data = data[:-_FLETCHER_BYTES]
        elif filters[index] == _SHUFFLE:
            data = _unshuffled(data, dataset.dtype.itemsize)
        else:
            data = _inflated(data, chunk_bytes + _FLETCHER_BYTES, name, path)
    if len(data) != chunk_bytes:
        raise CorruptFileError(path, f"array '{name}' has a chunk of {len(data)} bytes, expected {chunk_bytes}")
    return bytes(data)


def _inflated(data: bytes, largest: int, name: str, path: Path) -> bytes:
    inflate = zlib.decompressobj()
    try:
        plain = inflate.decompress(data, largest + 1)
    except zlib.error:
        raise CorruptFileError(path, f"array '{name}' has a damaged chunk") from None
    if len(plain) <= largest and not inflate.eof:
        raise CorruptFileError(path, f"array '{name}' has a truncated chunk")
    if len(plain) > largest:
        raise CorruptFileError(path, f"array '{name}' has a chunk that inflates to more than {largest} bytes")
    return plain


def _unshuffled(data: bytes, width: int) -> bytes:
    """Reverses HDF5's shuffle filter: all first bytes of the elements, then all second bytes, ..."""
    if width <= 1 or len(data) % width:
        return data
    by_byte: Array = np.frombuffer(data, np.uint8).reshape(width, -1)
    return bytes(by_byte.T.tobytes())
