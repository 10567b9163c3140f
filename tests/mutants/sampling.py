"""The rooms of the source tree, and a sample of their mutations that a seed fixes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections import Counter
from pathlib import Path

from mutations import Mutation, compiles, mutations

#: A file belongs to the first room whose folder it lies in.
ROOMS = (
    "client/layerserve/cli",
    "client/layerserve",
    *(
        f"server/layergraph/{name}"
        for name in ("archive", "config", "execution", "functional", "layers", "models", "ops", "saving", "training")
    ),
    "server/layergraph",
    *(f"server/layerserve_server/{name}" for name in ("repository", "services", "training", "transport")),
    "server/layerserve_server",
    "modelzoo/layerserve_zoo",
)
LEAST_PER_ROOM = 4


def room_of(path: str) -> str:
    """The room of a source file, by its path from the root."""
    return next(room for room in ROOMS if path.startswith(room + "/"))


def sources(root: Path) -> list[str]:
    """All source files but the generated stubs, as paths from the root."""
    found = (path for room in ROOMS for path in (root / room).rglob("*.py") if "_pb2" not in path.name)
    return sorted({path.relative_to(root).as_posix() for path in found})


def sample(root: Path, count: int, seed: int, within: str = "") -> list[Mutation]:
    """`count` mutations of the folder or file `within`, spread over the rooms by size.

    The order of lines is fixed by a hash of the seed and a line's text, not its number: an edit elsewhere leaves the
    sample as it was, and a smaller one is part of a larger.
    """
    rooms: dict[str, list[_Line]] = {}
    for path in sources(root):
        if not within or path == within or path.startswith(within.rstrip("/") + "/"):
            rooms.setdefault(room_of(path), []).extend(_lines(path, (root / path).read_bytes(), seed))
    chosen: list[Mutation] = []
    for room, number in _shares({room: len(lines) for room, lines in rooms.items()}, count).items():
        lines = sorted(rooms[room], key=lambda line: line.place)
        found = (mutation for line in lines if (mutation := line.mutation()) is not None)
        chosen += itertools.islice(found, number)
    return chosen


@dataclasses.dataclass(frozen=True)
class _Line:
    """A line that has mutations, with its place in the seed's order."""

    place: str
    source: bytes
    mutations: list[Mutation]

    def mutation(self) -> Mutation | None:
        """The one of them that the seed chooses."""
        return next((each for each in self.mutations if compiles(each, self.source)), None)


def _lines(path: str, source: bytes, seed: int) -> list[_Line]:
    lines: dict[int, list[Mutation]] = {}
    for mutation in mutations(path, source):
        lines.setdefault(mutation.line, []).append(mutation)
    texts = source.decode().splitlines()
    found = []
    for number, here in lines.items():
        text = texts[number - 1].strip()
        here.sort(key=lambda each: _hash(seed, each.scope, each.operator, each.column, each.text, text))
        found.append(_Line(_hash(seed, path, here[0].scope, text), source, here))
    return found


def _hash(*said: object) -> str:
    return hashlib.sha256(repr(said).encode()).hexdigest()


def _shares(sizes: dict[str, int], count: int) -> dict[str, int]:
    """`count` split by size, with a few for the smallest; rounding goes to the largest."""
    least = min(LEAST_PER_ROOM, count // max(len(sizes), 1))
    total = sum(sizes.values())
    shares = Counter({room: max(least, count * size // total) for room, size in sizes.items()})
    largest = sorted(sizes, key=lambda room: -sizes[room])
    while (missing := count - sum(shares.values())) and total >= count:
        for room in largest[: abs(missing)]:
            shares[room] += 1 if missing > 0 else -1
    return {room: min(shares[room], size) for room, size in sizes.items()}
