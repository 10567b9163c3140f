"""Reads members of a `.keras` zip by exact name, with size limits. Nothing is extracted to disk."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from layergraph.archive.files import FileWindow, OversizedReadError
from layergraph.archive.limits import LoadLimits
from layergraph.errors import CorruptFileError, UnsafeFileError, UnsupportedModelError

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_SIZES_FOLLOW = 0x8
_UNKNOWN_SIZE = 0xFFFFFFFF
_BLOCK = 1 << 20


class KerasZip:
    """A zip's central directory, checked: unique names, no overlaps, stored or deflated members, no encryption."""

    def __init__(self, file: FileWindow, path: Path, limits: LoadLimits) -> None:
        self._file = file
        self._path = path
        self._limits = limits
        file.seek(0)
        # zipfile reads the whole central directory at once, of the length that the file claims.
        file.largest_read = limits.directory_bytes
        try:
            with zipfile.ZipFile(file) as contents:
                members = contents.infolist()
                end = contents.start_dir
        except OversizedReadError:
            most = limits.directory_bytes
            raise CorruptFileError(path, f"its central directory has more than {most} bytes") from None
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, struct.error) as wrong:
            raise CorruptFileError(path, f"is a damaged or incomplete zip: {str(wrong)[:200]}") from None
        finally:
            file.largest_read = None
        self._members = {member.filename: member for member in members}
        self._check(members, end)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    @property
    def names(self) -> list[str]:
        """Names of all members."""
        return list(self._members)

    def read(self, name: str, largest: int) -> bytes:
        """Returns the content of member `name`; the size in its header isn't trusted.

        Raises CorruptFileError if the member is missing, damaged, or longer than `largest` bytes.
        """
        member = self._member(name)
        data = bytearray()
        checksum = 0
        for block in self._blocks(member):
            checksum = zlib.crc32(block, checksum)
            data += block
            if len(data) > largest:
                raise CorruptFileError(self._path, f"member '{name}' has more than {largest} bytes")
        self._compare(member, len(data), checksum)
        return bytes(data)

    def open(self, name: str) -> io.RawIOBase | io.BytesIO:
        """Opens member `name` as a file: a view of the zip if it is stored, its content in memory if deflated.

        Raises CorruptFileError like `read`.
        """
        member = self._member(name)
        if member.compress_type != zipfile.ZIP_STORED:
            return io.BytesIO(self.read(name, self._limits.inflated_bytes(member.compress_size)))
        content = self._file.window(self._data_start(member), member.compress_size)
        length = checksum = 0
        # One buffer for all blocks stays in the CPU cache.
        block = memoryview(bytearray(_BLOCK))
        while got := content.readinto(block):
            checksum = zlib.crc32(block[:got], checksum)
            length += got
        self._compare(member, length, checksum)
        content.seek(0)
        return content

    def _check(self, members: list[zipfile.ZipInfo], end: int) -> None:
        if len(self._members) != len(members):
            raise UnsafeFileError(self._path, "has two members of the same name")
        free_from = 0
        for member in sorted(members, key=lambda member: member.header_offset):
            label = f"member '{member.filename[:80]}'"
            if member.orig_filename != member.filename:
                raise UnsafeFileError(self._path, f"{label} has a NUL in its name")
            if member.flag_bits & _ENCRYPTED:
                raise UnsupportedModelError(self._path, f"{label} is encrypted")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                method = member.compress_type
                raise UnsupportedModelError(self._path, f"{label} has compression method {method}, expected 0 or 8")
            if member.header_offset < free_from:
                raise UnsafeFileError(self._path, f"{label} overlaps another")
            free_from = member.header_offset + _LOCAL_HEADER.size + member.compress_size
        if free_from > end:
            raise CorruptFileError(self._path, "a member overlaps the central directory")

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise CorruptFileError(self._path, f"has no member '{name}'")
        return self._members[name]

    def _data_start(self, member: zipfile.ZipInfo) -> int:
        """Returns the offset of the member's data. Its local header must agree with the central directory."""
        header = self._file.read_at(member.header_offset, _LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size:
            raise CorruptFileError(self._path, f"member '{member.filename}' is truncated")
        magic, _, flags, method, _, _, _, stored, plain, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        name = self._file.read(name_length)
        sizes = [(stored, member.compress_size), (plain, member.file_size)]
        agrees = (
            magic == b"PK\x03\x04"
            and method == member.compress_type
            and not flags & _ENCRYPTED
            and name == member.orig_filename.encode("utf-8" if flags & 0x800 else "cp437", "replace")
            and (flags & _SIZES_FOLLOW or all(size in (real, _UNKNOWN_SIZE) for size, real in sizes))
        )
        if not agrees:
            raise UnsafeFileError(self._path, f"member '{member.filename}' has two headers that differ")
        return int(member.header_offset + _LOCAL_HEADER.size + name_length + extra_length)

    def _blocks(self, member: zipfile.ZipInfo) -> Iterator[bytes]:
        """Yields the content in blocks of bounded size."""
        start = self._data_start(member)
        inflate = zlib.decompressobj(-zlib.MAX_WBITS) if member.compress_type == zipfile.ZIP_DEFLATED else None
        done = 0
        while done < member.compress_size:
            stored = self._file.read_at(start + done, min(_BLOCK, member.compress_size - done))
            if not stored:
                raise CorruptFileError(self._path, f"member '{member.filename}' is truncated")
            done += len(stored)
            if inflate is None:
                yield stored
                continue
            while not inflate.eof:
                try:
                    plain = inflate.decompress(stored, _BLOCK)
                except zlib.error:
                    raise CorruptFileError(self._path, f"member '{member.filename}' is damaged") from None
                yield plain
                stored = inflate.unconsumed_tail
                # After a full block the decompressor may hold more output although all input is consumed.
                if not stored and len(plain) < _BLOCK:
                    break

    def _compare(self, member: zipfile.ZipInfo, length: int, checksum: int) -> None:
        if length != member.file_size or checksum != member.CRC:
            raise CorruptFileError(self._path, f"member '{member.filename}' is damaged: its size or checksum is wrong")
