"""Damaged image files, and bombs: small files that take much memory or time."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


def hostile_images(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields files, each with its kind: all kinds in turn, but those of `SLOW` less often."""
    generator = random.Random(seed)
    number = -1
    while count:
        number += 1
        turn, at = divmod(number, len(KINDS))
        kind = list(KINDS)[at]
        if kind in SLOW and turn % 5:
            continue
        yield kind, KINDS[kind](generator)
        count -= 1


def _photo(generator: random.Random, form: str = "", **options: object) -> bytes:
    width, height = generator.randint(1, 200), generator.randint(1, 200)
    pixels = np.random.default_rng(generator.randint(0, 1 << 30)).integers(0, 256, (height, width, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, form or generator.choice(FORMATS), **options)
    return data.getvalue()


def _flipped(generator: random.Random) -> bytes:
    data = bytearray(_photo(generator))
    for _ in range(generator.randint(1, 40)):
        data[generator.randrange(len(data))] ^= 1 << generator.randrange(8)
    return bytes(data)


def _spliced(generator: random.Random) -> bytes:
    first, second = _photo(generator), _photo(generator)
    return first[: generator.randint(1, len(first))] + second[generator.randrange(len(second)) :]


def _png(width: int, height: int, *chunks: tuple[bytes, bytes], bits: int = 8, color: int = 2) -> bytes:
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, content in (head, *chunks, (b"IEND", b"")):
        parts += [struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(kind + content))]
    return b"".join(parts)


def _zeros(count: int) -> bytes:
    packer = zlib.compressobj(9)
    parts = [packer.compress(bytes(min(1 << 20, count - at))) for at in range(0, count, 1 << 20)]
    return b"".join([*parts, packer.flush()])


def _gif(width: int, height: int, frame: tuple[int, int]) -> bytes:
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
        + b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x4c\x01\x00;"
    )  # fmt: skip


def _bmp(width: int, height: int, bits: int = 24, compression: int = 0, content: bytes = b"") -> bytes:
    colors = bytes(1024) if bits == 8 else b""
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54 + len(colors)) + head + colors + content


def _webp(width: int, height: int) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (1, 1)).save(data, "WEBP", lossless=True)
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    parts = b"VP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + size + data.getvalue()[12:]
    return b"RIFF" + struct.pack("<I", 4 + len(parts)) + b"WEBP" + parts


def _markers(generator: random.Random) -> bytes:
    """A JPEG with megabytes of EXIF, or of a color profile."""
    data = _photo(generator, "JPEG")
    start = generator.choice((b"\xff\xe1", b"\xff\xe2"))
    name = b"Exif\0\0" if start == b"\xff\xe1" else b"ICC_PROFILE\0\1\xff"
    part = start + struct.pack(">H", 65535) + name + bytes(65533 - len(name))
    return data[:2] + part * 60 + data[2:]


def _scans(generator: random.Random) -> bytes:
    """A progressive JPEG of many pixels whose last scan comes again and again."""
    data = io.BytesIO()
    Image.new("RGB", (4000, 4000), (1, 2, 3)).save(data, "JPEG", progressive=True)
    content = data.getvalue()
    scan = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + scan * generator.randint(100, 400) + content[-2:]


KINDS: dict[str, Callable[[random.Random], bytes]] = {
    "cut": lambda generator: (data := _photo(generator))[: generator.randrange(len(data))],
    "with wrong bits": _flipped,
    "of two files": _spliced,
    "no image": lambda generator: generator.randbytes(generator.randint(0, 5000)),
    "a signature with noise": lambda generator: (
        generator.choice((b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"RIFF\0\0\1\0WEBPVP8 "))
        + generator.randbytes(3000)
    ),
    "PNG with a lying header": lambda generator: _png(generator.randint(1, 9000), 5000, (b"IDAT", _zeros(1000))),
    "PNG of 3.6 gigapixels": lambda _: _png(60000, 60000, (b"IDAT", _zeros(1 << 20))),
    "PNG of 49 megapixels in 150 kB": lambda _: _png(7000, 7000, (b"IDAT", _zeros(7000 * 21001))),
    "PNG of 16 bits": lambda _: _png(5000, 5000, (b"IDAT", _zeros(5000 * 40001)), bits=16, color=6),
    "PNG with a text bomb": lambda _: _png(2, 2, *[(b"zTXt", b"a\0\0" + _zeros(32 << 20))] * 3),
    "PNG with texts": lambda _: _png(2, 2, *[(b"tEXt", b"a\0" + bytes(1 << 16))] * 100),
    "PNG with many chunks": lambda _: _png(2, 2, *[(b"tEXt", b"a\0b")] * 100_000),
    "PNG with a profile bomb": lambda _: _png(2, 2, (b"iCCP", b"a\0\0" + _zeros(64 << 20))),
    "GIF of 4 gigapixels": lambda _: _gif(65535, 65535, (1, 1)),
    "GIF with a larger frame": lambda _: _gif(1, 1, (65535, 65535)),
    "BMP of 3.6 gigapixels": lambda _: _bmp(60000, 60000),
    "BMP of jumps": lambda _: _bmp(40000, 1200, 8, 1, b"\0\2\xff\xff" * 50_000),
    "BMP of single pixels": lambda _: _bmp(8000, 6000, 8, 1, b"\1\1" * 2_000_000),
    "WebP with a large canvas": lambda _: _webp(16383, 16383),
    "WebP with a canvas of 49 megapixels": lambda _: _webp(7000, 7000),
    "JPEG with long markers": _markers,
    "JPEG of many scans": _scans,
}
#: Kinds that take seconds of a processor.
SLOW = (
    "PNG of 49 megapixels in 150 kB",
    "PNG of 16 bits",
    "BMP of jumps",
    "BMP of single pixels",
    "JPEG of many scans",
)
