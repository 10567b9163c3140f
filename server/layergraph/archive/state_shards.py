"""Weights of Keras 3 in several HDF5 files, with an index `NAME.weights.json`, as `max_shard_size` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from layergraph.archive.hdf5 import Hdf5Array, Hdf5Group


class MergedGroup:
    """A group whose members are in several files. Each array is in one of them."""

    def __init__(self, parts: Sequence[Hdf5Group]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return len(self.member_names())

    @property
    def address(self) -> int:
        """A number that differs from those of other groups."""
        return hash(tuple((id(part.file), part.address) for part in self._parts))

    def member_names(self) -> list[str]:
        """Names of the members of all parts."""
        return list(dict.fromkeys(name for part in self._parts for name in part.member_names()))

    def group(self, path: str) -> MergedGroup | None:
        """Returns the group at `path` below this one, or None."""
        found = [below for part in self._parts if (below := part.group(path)) is not None]
        return MergedGroup(found) if found else None

    def array(self, path: str) -> Hdf5Array | None:
        """Returns the array at `path` below this group, or None."""
        return next((array for part in self._parts if (array := part.array(path)) is not None), None)


def shard_names(index: Mapping[str, Any]) -> list[str] | None:
    """Names of the files of an index; None if it isn't an index."""
    places = index.get("weight_map")
    if not isinstance(places, Mapping):
        return None
    names: dict[str, None] = {}
    for listed in places.values():
        files = listed if isinstance(listed, list) else [listed]
        if not all(isinstance(name, str) for name in files):
            return None
        names.update(dict.fromkeys(files))
    return list(names)
