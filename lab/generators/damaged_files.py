"""Model files that are damaged at random places, and files that are hostile on purpose."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from hostile_files import CASES

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"
#: Larger files are left out.
_MAX_BYTES = 300_000


def damaged_files(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Contents of files, with the suffixes of their names: first all hostile ones, then damaged ones."""
    for make, _, _ in list(CASES.values())[:count]:
        yield ".keras", bytes(make())
    sound = [path for path in sorted(FIXTURES.rglob("*")) if path.suffix in (".keras", ".h5")]
    sound = [path for path in sound if path.stat().st_size < _MAX_BYTES]
    for number in range(count - len(CASES)):
        choice = random.Random(seed * 1_000_003 + number)
        path = choice.choice(sound)
        yield path.suffix, _damaged(bytearray(path.read_bytes()), choice)


def _damaged(data: bytearray, choice: random.Random) -> bytes:
    kind = choice.choice(["bits", "bytes", "zeros", "ones", "cut", "moved"])
    if kind == "cut":
        return bytes(data[: choice.randrange(len(data))])
    if kind == "moved":
        start, end = sorted(choice.sample(range(len(data)), 2))
        return bytes(data[:start] + data[end:] + data[start:end])
    # Most structures of HDF5 are at its start; those of a zip at its end.
    for _ in range(choice.choice([1, 3, 30])):
        at = choice.randrange(min(len(data), choice.choice([100, 3000, len(data)])))
        at = len(data) - 1 - at if choice.random() < 0.2 else at
        if kind == "bits":
            data[at] ^= 1 << choice.randrange(8)
        else:
            width = choice.choice([1, 2, 4, 8])
            content = {"bytes": choice.randbytes(width), "zeros": bytes(width), "ones": b"\xff" * width}[kind]
            data[at : at + width] = content
    return bytes(data)
