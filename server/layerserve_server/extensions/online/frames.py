"""Frames between the server and a session's process, and in the log of steps: a JSON header, and the data of arrays."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from layerserve.errors import InvalidTensor
from layerserve.values import tensors

from layerserve_server.errors import InvalidTensorError
from layerserve_server.training.request import Role

#: Length of the header and of the payload in bytes, and the CRC-32 of both.
PREFIX = struct.Struct("<IQI")
#: Maximum length of a header, and of a payload, in bytes.
MAX_HEADER = 4 << 20
MAX_PAYLOAD = 2**31 - 1


class BrokenFrameError(ValueError):
    """Bytes aren't a frame: it is incomplete, too long, or damaged."""


@dataclass(frozen=True, slots=True)
class FrameArray:
    """An array of a frame: role, name of the input or output, dtype, shape, and length of its data in bytes."""

    role: str
    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int

    @property
    def label(self) -> str:
        """Name of the array in error texts: "y 'main_output'"."""
        return f"{self.role} '{self.name}'" if self.name else self.role


@dataclass(frozen=True, slots=True)
class Frame:
    """A message: values for JSON, arrays, and the data of all arrays, joined."""

    header: Mapping[str, Any]
    arrays: Sequence[FrameArray] = ()
    payload: bytes = b""

    def encoded(self) -> tuple[bytes, bytes]:
        """Returns the bytes up to the payload, and the payload, which isn't copied."""
        arrays = [[one.role, one.name, one.dtype, one.shape, one.bytes] for one in self.arrays]
        header = json.dumps({**self.header, "arrays": arrays}, separators=(",", ":")).encode()
        check = zlib.crc32(self.payload, zlib.crc32(header))
        return PREFIX.pack(len(header), len(self.payload), check) + header, self.payload

    def digest(self) -> int:
        """Returns a checksum of the whole frame."""
        prefix, _ = self.encoded()
        check: int = PREFIX.unpack_from(prefix)[2]
        return check

    @classmethod
    def decoded(cls, header: bytes, payload: bytes, check: int) -> Frame:
        """Returns the frame of these bytes. Raises BrokenFrameError if they aren't those that were encoded."""
        if zlib.crc32(payload, zlib.crc32(header)) != check:
            raise BrokenFrameError("a checksum is wrong")
        try:
            values = json.loads(header)
            arrays = [
                FrameArray(role, name, dtype, tuple(shape), size)
                for role, name, dtype, shape, size in values.pop("arrays")
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BrokenFrameError("the header is none") from error
        return cls(values, arrays, payload)

    def values(self, role: Role) -> dict[str, np.ndarray[Any, Any]]:
        """Returns the arrays of a role by name. Raises InvalidTensorError if data and shape don't match."""
        found, at = {}, 0
        for one in self.arrays:
            if one.role == role.value:
                data = memoryview(self.payload)[at : at + one.bytes]
                found[one.name] = _decoded(one, data)
            at += one.bytes
        return found


def sizes(prefix: bytes) -> tuple[int, int, int]:
    """Returns the lengths of a frame's header and payload, and its checksum. Raises BrokenFrameError for a long one."""
    header, payload, check = PREFIX.unpack(prefix)
    if header > MAX_HEADER or payload > MAX_PAYLOAD:
        raise BrokenFrameError(
            f"got a frame of {header} and {payload} bytes, expected at most {MAX_HEADER} and {MAX_PAYLOAD}"
        )
    return header, payload, check


def _decoded(array: FrameArray, data: memoryview) -> np.ndarray[Any, Any]:
    # Text is decoded from bytes; numbers are views of the frame.
    held: Any = bytes(data) if array.dtype == "string" else data
    try:
        return tensors.decode_data(held, array.dtype, array.shape, array.label)
    except InvalidTensor as error:
        raise InvalidTensorError(f"{array.label}: {error}") from error
