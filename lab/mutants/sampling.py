"""The rooms of the source tree, and a sample of their mutations that a seed fixes."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from pathlib import Path

from mutations import Mutation, compiles, mutations

#: Where the sources are.
SOURCES = ("client/layerserve", "server/layergraph", "server/layerserve_server", "modelzoo/layerserve_zoo", "deploy")
#: Folders whose folders are rooms of their own. Any other folder is one room with all folders in it, so that a new one
#: is a room, too.
_SPLIT = {
    *("client", "client/layerserve", "modelzoo"),
    *("server", "server/layergraph", "server/layergraph/execution", "server/layergraph/models"),
    *("server/layerserve_server", "server/layerserve_server/extensions"),
    *("server/layerserve_server/services", "server/layerserve_server/training"),
}
LEAST_PER_ROOM = 2


def room_of(path: str) -> str:
    """The room of a source file, by its path from the root."""
    parts = path.split("/")[:-1]
    folders = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return next((folder for folder in folders if folder not in _SPLIT), folders[-1])


def sources(root: Path) -> list[str]:
    """All source files but the generated stubs, as paths from the root."""
    found = (path for folder in SOURCES for path in (root / folder).rglob("*.py") if "_pb2" not in path.name)
    return sorted(path.relative_to(root).as_posix() for path in found)


def sample(root: Path, count: int, seed: int, within: str = "") -> list[Mutation]:
    """`count` mutations of the folder or file `within`, spread over the rooms by size.

    The order of lines is fixed by a hash of the seed and a line's text, not its number: an edit elsewhere leaves the
    sample as it was, and a smaller one is part of a larger.
    """
    rooms: dict[str, list[_Line]] = {}
    for path in sources(root):
        inside = not within or path == within or path.startswith(within.rstrip("/") + "/")
        if inside and (lines := _lines(path, (root / path).read_bytes(), seed)):
            rooms.setdefault(room_of(path), []).extend(lines)
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
    """`count` split by size, after a few for each; rounding goes to the largest."""
    least = min(LEAST_PER_ROOM, count // max(len(sizes), 1))
    shares = {room: min(least, size) for room, size in sizes.items()}
    left, total = count - sum(shares.values()), sum(sizes.values()) - sum(shares.values())
    for room, size in sizes.items():
        shares[room] += min(left, total) * (size - shares[room]) // max(total, 1)
    largest = sorted(sizes, key=lambda room: -sizes[room])
    for room in largest[: count - sum(shares.values())]:
        shares[room] += 1
    return shares
