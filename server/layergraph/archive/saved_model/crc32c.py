"""CRC-32C (Castagnoli), the checksum of LevelDB and TensorFlow, computed with NumPy on many parts of the data at once.

The parts' checksums are joined as zlib's crc32_combine does: appending n bytes is a linear map of the register's bits.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

_POLYNOMIAL = 0x82F63B78
_MASK_DELTA = 0xA282EAD8
_ALL = 0xFFFFFFFF
#: Below this size in bytes, NumPy takes longer than a loop over the bytes.
_SMALL = 16384
_MAX_LANES = 4096

Words = np.ndarray[Any, np.dtype[np.uint32]]


def crc32c(data: bytes | bytearray | memoryview, before: int = 0) -> int:
    """Checksum of `data`, continuing from the checksum of the data before it."""
    register = before ^ _ALL
    count = len(data) // 4
    if len(data) < _SMALL:
        return _bytewise(data, register) ^ _ALL
    lanes = min(_MAX_LANES, 1 << (count.bit_length() // 2))
    length = count // lanes
    whole = 4 * lanes * length
    words = np.frombuffer(data, "<u4", lanes * length).reshape(lanes, length)
    register = _shifted(register, whole) ^ _joined(_of_lanes(words), 4 * length)
    return _bytewise(memoryview(data)[whole:], register) ^ _ALL


def unmasked(stored: int) -> int:
    """The checksum of a stored one: LevelDB masks them, as data may contain checksums of itself."""
    rotated = (stored - _MASK_DELTA) & _ALL
    return ((rotated >> 17) | (rotated << 15)) & _ALL


def _bytewise(data: bytes | bytearray | memoryview, register: int) -> int:
    table = _byte_table()
    for byte in data:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


@functools.cache
def _byte_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return tuple(table)


@functools.cache
def _word_tables() -> tuple[Words, Words]:
    """What the lower and the upper 16 bits of a register become after four bytes."""
    values = np.arange(1 << 16, dtype=np.uint32)
    return _four_bytes(values), _four_bytes(values << np.uint32(16))


def _four_bytes(registers: Words) -> Words:
    table = np.array(_byte_table(), np.uint32)
    for _ in range(4):
        registers = table[registers & np.uint32(0xFF)] ^ (registers >> np.uint32(8))
    return registers


def _of_lanes(words: Words) -> Words:
    """Registers after each row of `words`, starting from 0."""
    low, high = _word_tables()
    registers = np.zeros(len(words), np.uint32)
    for column in range(words.shape[1]):
        registers ^= words[:, column]
        registers = low[registers & np.uint32(0xFFFF)] ^ high[registers >> np.uint32(16)]
    return registers


def _joined(registers: Words, length: int) -> int:
    """The register of parts of `length` bytes, of which there is a power of two."""
    while len(registers) > 1:
        columns = np.array(_columns(length), np.uint32)
        before, after = registers[::2], registers[1::2].copy()
        for bit in range(32):
            after ^= np.where(before >> np.uint32(bit) & np.uint32(1), columns[bit], np.uint32(0))
        registers, length = after, 2 * length
    return int(registers[0])


def _shifted(register: int, length: int) -> int:
    """The register after `length` zero bytes."""
    return _applied(_columns(length), register)


@functools.lru_cache(256)
def _columns(length: int) -> tuple[int, ...]:
    """The linear map of `length` zero bytes: what each bit of the register becomes."""
    result = tuple(1 << bit for bit in range(32))
    for power in range(length.bit_length()):
        if length >> power & 1:
            step = _power_columns(power)
            result = tuple(_applied(step, column) for column in result)
    return result


@functools.cache
def _power_columns(power: int) -> tuple[int, ...]:
    """The linear map of 2^power zero bytes."""
    if power == 0:
        return tuple(_bytewise(b"\0", 1 << bit) for bit in range(32))
    half = _power_columns(power - 1)
    return tuple(_applied(half, column) for column in half)


def _applied(columns: tuple[int, ...], register: int) -> int:
    result = 0
    for column in columns:
        if register & 1:
            result ^= column
        register >>= 1
    return result
