"""Writes safetensors files, array by array: the library's function needs all of them in memory.

Arrays begin at multiples of 64 bytes, for vector instructions. The format allows no gaps, so arrays of padding are
between them. See https://github.com/huggingface/safetensors for the format.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from layergraph.archive.weights import Array

_ALIGNMENT: Final = 64
_LENGTH_BYTES: Final = 8
_DTYPES: Final = {
    "bool": "BOOL",
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"U{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class Entry:
    """An array to be written, of this shape and dtype; `read` returns it."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    read: Callable[[], Array]


def write_safetensors(path: Path, entries: Sequence[Entry], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file. Each array is read when it is written. Raises OSError, and what `read` raises."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for entry in entries:
        end = at + math.prod(entry.shape) * entry.dtype.itemsize
        header[entry.name] = {
            "dtype": _DTYPES[entry.dtype.name],
            "shape": entry.shape,
            "data_offsets": [at, end],
        }
        at = _aligned(end)
        if at > end:
            header[f"padding {entry.name}"] = {"dtype": "U8", "shape": [at - end], "data_offsets": [end, at]}
    text = json.dumps(header).encode("ascii")
    text += b" " * (_aligned(_LENGTH_BYTES + len(text)) - _LENGTH_BYTES - len(text))
    with path.open("wb") as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little") + text)
        for entry in entries:
            values = np.ascontiguousarray(entry.read(), entry.dtype).reshape(-1).view(np.uint8)
            file.write(values.data)
            file.write(bytes(_aligned(values.size) - values.size))


def _aligned(count: int) -> int:
    return -(-count // _ALIGNMENT) * _ALIGNMENT
