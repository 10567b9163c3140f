"""Heaps of variable-length strings are checked wherever HDF5 may read one, and nowhere else."""

from __future__ import annotations

import io
import struct

import pytest
from layergraph.archive.heap_check import DamagedHeapError, HeapChecked

#: Longer than the cached blocks.
LONG = 1 << 17


def heap(*lengths: int, size: int | None = None) -> bytes:
    """A global heap with objects of these lengths, the last of which is the free space."""
    objects = b"".join(
        struct.pack("<HH4xQ", index, 1, length) + b"\0" * ((length + 7) // 8 * 8)
        for index, length in enumerate(lengths, 1)
    )
    whole = 16 + len(objects) + 16
    return (
        b"GCOL\1\0\0\0" + struct.pack("<Q", whole if size is None else size) + objects + struct.pack("<HH4xQ", 0, 0, 16)
    )


def endless() -> bytes:
    """A heap whose only object has size 0."""
    return b"GCOL\1\0\0\0" + struct.pack("<Q", 4096) + b"\0" * 4080


def checked(data: bytes) -> HeapChecked:
    return HeapChecked(io.BytesIO(data))


def read(file: HeapChecked, start: int, size: int) -> bytes:
    file.seek(start)
    return file.read(size)


@pytest.mark.parametrize("start", [0, 1, LONG - 5, 3 * LONG])
@pytest.mark.parametrize("size", [1, 7, LONG - 1, LONG, 2 * LONG])
def test_what_is_read_is_what_the_file_holds(start: int, size: int) -> None:
    data = bytes(range(251)) * (4 * LONG // 251)
    file = checked(data)
    assert read(file, start, size) == data[start : start + size]
    assert file.tell() == min(start + size, max(start, len(data)))


def test_positions_count_from_the_start_the_place_and_the_end() -> None:
    file = checked(b"0123456789")
    assert file.tell() == 10
    assert file.seek(2) == 2
    assert file.seek(3, io.SEEK_CUR) == 5
    assert file.read(1) == b"5"
    assert file.seek(-1, io.SEEK_END) == 9
    assert file.read(5) == b"9"
    assert file.readable()
    assert file.seekable()


@pytest.mark.parametrize("at", [0, 100, 65530, LONG])
def test_a_damaged_heap_is_found_by_whatever_read_touches_its_signature(at: int) -> None:
    data = b"." * at + endless()
    for start in range(max(0, at - 2), at + 5):
        with pytest.raises(DamagedHeapError):
            read(checked(data), start, 1 if start >= at else at - start + 1)
    assert read(checked(data), at + 200, 50) == data[at + 200 : at + 250]


@pytest.mark.parametrize("lengths", [(), (1,), (8,), (9, 24, 0), (100,) * 50])
def test_a_sound_heap_is_read(lengths: tuple[int, ...]) -> None:
    data = heap(*lengths)
    assert read(checked(data), 0, len(data)) == data


@pytest.mark.parametrize(
    "data",
    [
        heap(8)[:12],
        heap(8)[:-1],
        heap(8, size=15),
        heap(8, size=1 << 40),
        heap(8)[:24] + struct.pack("<Q", 1 << 40) + heap(8)[32:],
        heap(8)[:-8] + struct.pack("<Q", 15),
        heap(8)[:-8] + struct.pack("<Q", 17),
    ],
    ids=["no header", "cut off", "smaller than its header", "past the end", "long object", "short rest", "long rest"],
)
def test_a_heap_that_does_not_fit_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedHeapError):
        read(checked(data), 0, len(data))


def test_heaps_together_are_no_longer_than_the_file() -> None:
    """Ten thousand heaps that each are the rest of the file would take minutes to check."""

    def nested(count: int) -> bytes:
        """Heaps of one object each, in which the other heaps are."""
        sizes = range(32 * count, 0, -32)
        return b"".join(b"GCOL\1\0\0\0" + struct.pack("<QHH4xQ", size, 1, 1, size - 32) for size in sizes)

    assert read(checked(nested(1)), 0, 32) == nested(1)
    for count in (2, 10_000):
        with pytest.raises(DamagedHeapError):
            read(checked(nested(count)), 0, 32 * count)


def test_a_heap_is_walked_once() -> None:
    data = heap(8) * 2
    file = checked(data)
    for _ in range(3):
        assert read(file, 0, len(data)) == data
