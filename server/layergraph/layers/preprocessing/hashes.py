"""Hash functions of TensorFlow's string buckets: FarmHash's Fingerprint64 and SipHash-2-4."""

from __future__ import annotations

import struct

_MASK = 0xFFFFFFFFFFFFFFFF
_K0 = 0xC3A5C85C97CB3127
_K1 = 0xB492B66FBE98F273
_K2 = 0x9AE16A3B2F90404F
#: Factor of tsl::FingerprintCat64, and the key of tf.sparse.cross_hashed.
_CAT = 0xC6A4A7935BD1E995
CROSS_KEY = 0xDECAFCAFFE


def _rotated(value: int, shift: int) -> int:
    return (value >> shift | value << (64 - shift)) & _MASK


def _mixed(value: int) -> int:
    return value ^ (value >> 47)


def _word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 8], "little")


def _half(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _folded(u: int, v: int, factor: int) -> int:
    a = _mixed((u ^ v) * factor & _MASK)
    b = _mixed((v ^ a) * factor & _MASK)
    return b * factor & _MASK


def fingerprint64(data: bytes) -> int:
    """farmhash::Fingerprint64 of the bytes (farmhashna::Hash64), from 0 to 2**64 - 1."""
    size = len(data)
    if size <= 16:
        return _up_to_16(data, size)
    if size <= 32:
        return _up_to_32(data, size)
    return _up_to_64(data, size) if size <= 64 else _long(data, size)


def _up_to_16(data: bytes, size: int) -> int:
    factor = _K2 + size * 2
    if size >= 8:
        a = _word(data, 0) + _K2
        b = _word(data, size - 8)
        c = _rotated(b, 37) * factor + a
        d = (_rotated(a & _MASK, 25) + b) * factor
        return _folded(c & _MASK, d & _MASK, factor)
    if size >= 4:
        return _folded(size + (_half(data, 0) << 3), _half(data, size - 4), factor)
    if size:
        y = data[0] + (data[size >> 1] << 8)
        z = size + (data[-1] << 2)
        return _mixed((y * _K2 ^ z * _K0) & _MASK) * _K2 & _MASK
    return _K2


def _up_to_32(data: bytes, size: int) -> int:
    factor = _K2 + size * 2
    a = _word(data, 0) * _K1 & _MASK
    b = _word(data, 8)
    c = _word(data, size - 8) * factor & _MASK
    d = _word(data, size - 16) * _K2
    first = _rotated(a + b & _MASK, 43) + _rotated(c, 30) + d
    return _folded(first & _MASK, a + _rotated(b + _K2 & _MASK, 18) + c & _MASK, factor)


def _up_to_64(data: bytes, size: int) -> int:
    factor = _K2 + size * 2
    a = _word(data, 0) * _K2 & _MASK
    b = _word(data, 8)
    c = _word(data, size - 8) * factor & _MASK
    d = _word(data, size - 16) * _K2
    y = _rotated(a + b & _MASK, 43) + _rotated(c, 30) + d & _MASK
    z = _folded(y, a + _rotated(b + _K2 & _MASK, 18) + c & _MASK, factor)
    e = _word(data, 16) * factor & _MASK
    f = _word(data, 24)
    g = (y + _word(data, size - 32)) * factor & _MASK
    h = (z + _word(data, size - 24)) * factor
    first = _rotated(e + f & _MASK, 43) + _rotated(g, 30) + h
    return _folded(first & _MASK, e + _rotated(f + a & _MASK, 18) + g & _MASK, factor)


def _weak(data: bytes, at: int, a: int, b: int) -> tuple[int, int]:
    w, x, y, z = struct.unpack_from("<4Q", data, at)
    a += w
    b = _rotated(b + a + z & _MASK, 21)
    c = a
    a += x + y
    b += _rotated(a & _MASK, 44)
    return a + z & _MASK, b + c & _MASK


def _long(data: bytes, size: int) -> int:
    x, y = 81, 81 * _K1 + 113 & _MASK
    z = _mixed(y * _K2 + 113 & _MASK) * _K2 & _MASK
    v, w = (0, 0), (0, 0)
    x = x * _K2 + _word(data, 0) & _MASK
    end = (size - 1) // 64 * 64

    def block(at: int, factor: int, nine: int) -> None:
        nonlocal x, y, z, v, w
        x = _rotated(x + y + v[0] + _word(data, at + 8) & _MASK, 37) * factor & _MASK
        y = _rotated(y + v[1] + _word(data, at + 48) & _MASK, 42) * factor & _MASK
        x ^= w[1] * nine & _MASK
        y = y + v[0] * nine + _word(data, at + 40) & _MASK
        z = _rotated(z + w[0] & _MASK, 33) * factor & _MASK
        v = _weak(data, at, v[1] * factor & _MASK, x + w[0] & _MASK)
        w = _weak(data, at + 32, z + w[1] & _MASK, y + _word(data, at + 16) & _MASK)
        z, x = x, z

    for at in range(0, end, 64):
        block(at, _K1, 1)
    factor = _K1 + ((z & 0xFF) << 1)
    last = w[0] + ((size - 1) & 63) & _MASK
    v = (v[0] + last & _MASK, v[1])
    w = (last + v[0] & _MASK, w[1])
    block(size - 64, factor, 9)
    return _folded(
        _folded(v[0], w[0], factor) + _mixed(y) * _K0 + z & _MASK, _folded(v[1], w[1], factor) + x & _MASK, factor
    )


def joined(first: int, second: int) -> int:
    """Combines two fingerprints into one (tsl::FingerprintCat64)."""
    result = first ^ _CAT ^ _mixed(second * _CAT & _MASK) * _CAT & _MASK
    result = result * _CAT & _MASK
    return _mixed(_mixed(result) * _CAT & _MASK)


def siphash(data: bytes, key: tuple[int, int]) -> int:
    """SipHash-2-4 (Aumasson and Bernstein, 2012) of the bytes, from 0 to 2**64 - 1."""
    k0, k1 = (part & _MASK for part in key)
    a, b = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    c, d = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573

    def rounds(count: int) -> None:
        nonlocal a, b, c, d
        for _ in range(count):
            a = a + b & _MASK
            c = c + d & _MASK
            b, d = _rotated(b, 51) ^ a, _rotated(d, 48) ^ c
            a = _rotated(a, 32)
            c = c + b & _MASK
            a = a + d & _MASK
            b, d = _rotated(b, 47) ^ c, _rotated(d, 43) ^ a
            c = _rotated(c, 32)

    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for (word,) in struct.iter_unpack("<Q", padded):
        d ^= word
        rounds(2)
        a ^= word
    c ^= 0xFF
    rounds(4)
    return a ^ b ^ c ^ d
