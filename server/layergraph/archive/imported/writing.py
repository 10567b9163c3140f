"""Writes what is read of a model file, in the process that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from layergraph.archive.imported.form import ARRAYS, ASSETS, DESCRIPTION, FORMAT, ORDERS, Wanted, error_fields
from layergraph.archive.json_text import JsonError, config_text
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.safetensors_file import Entry, write_safetensors
from layergraph.archive.weights import Array, ArrayList, Group, StateTree, StoredArray, StoredWeights
from layergraph.errors import CorruptFileError, ModelFileError


def describe(archive: ModelArchive, folder: Path) -> list[StoredArray]:
    """Writes the description of an open file to `folder`. Returns its arrays, by their indices in the description.

    Raises ModelFileError, and OSError if the folder can't be written.
    """
    index = _Index(archive.path, archive.limits.names)
    place = archive.path.parent
    description = {
        "format": FORMAT,
        "files": [str(file.relative_to(place)) for file in archive.files],
        "config": archive.config,
        "training_config": archive.training_config,
        "keras_version": archive.keras_version,
        "backend": archive.backend,
        "stored_bytes": archive.stored_bytes,
        "weights": index.weights(archive.weights),
        "task_weights": None if archive.task_weights is None else index.weights(archive.task_weights),
        "assets": _write_assets(archive, folder),
        "arrays": [[array.name, array.shape, array.dtype, array.nbytes] for array in index.arrays],
    }
    try:
        text = config_text(description)
    except JsonError as wrong:
        # Weights of terms in a checkpoint, which are options of a layer.
        raise CorruptFileError(archive.path, str(wrong)) from None
    (folder / DESCRIPTION).write_text(text, encoding="ascii")
    return index.arrays


def write_arrays(arrays: Sequence[StoredArray], wanted: Iterable[Wanted], folder: Path) -> None:
    """Reads arrays and writes them to `folder`. Raises as `describe` does."""
    entries, orders = [], {}
    for number, order in wanted:
        array = arrays[number]
        dtype = np.dtype("float32" if array.dtype == "bfloat16" else array.dtype)
        shape = array.shape if order is None else tuple(array.shape[axis] for axis in order)
        entries.append(Entry(str(number), shape, dtype, _reader(array, order)))
        if order is not None:
            orders[str(number)] = order
    write_safetensors(folder / ARRAYS, entries, {ORDERS: json.dumps(orders)})


def _reader(array: StoredArray, order: tuple[int, ...] | None) -> Callable[[], Array]:
    return lambda: array.read() if order is None else array.read().transpose(order)


def _write_assets(archive: ModelArchive, folder: Path) -> dict[str, Any] | None:
    """Writes the assets of a `.keras`, and returns the number of each, or why it can't be read; None without assets."""
    if archive.members is None:
        return None
    found: dict[str, Any] = {}
    room = archive.limits.asset_bytes
    for name in archive.members.names:
        if not name.startswith(f"{ASSETS}/") or name.endswith("/"):
            continue
        try:
            content = archive.members.read(name, room)
        except ModelFileError as error:
            found[name] = error_fields(error)
            continue
        (folder / ASSETS).mkdir(exist_ok=True)
        (folder / ASSETS / str(len(found))).write_bytes(content)
        found[name] = len(found)
        room -= len(content)
    return found


class _Index:
    """The structure of the weights as JSON, in which arrays are numbers."""

    def __init__(self, path: Path, most_groups: int) -> None:
        self._path = path
        self._most_groups = most_groups
        self.arrays: list[StoredArray] = []

    def weights(self, weights: StoredWeights) -> dict[str, Any]:
        if isinstance(weights, StateTree):
            return {"tree": self._tree(weights.root)}
        if isinstance(weights, ArrayList):
            return {"list": self._numbers(weights.arrays)}
        try:
            layers: Any = [[name, self._numbers(arrays)] for name, arrays in weights.layers().items()]
        except ModelFileError as error:
            layers = {"error": error_fields(error)}
        try:
            optimizer: Any = self._numbers(weights.optimizer_weights())
        except ModelFileError as error:
            optimizer = {"error": error_fields(error)}
        return {"layers": layers, "optimizer": optimizer, "problems": list(weights.problems)}

    def _numbers(self, arrays: Sequence[StoredArray]) -> list[int]:
        first = len(self.arrays)
        self.arrays += arrays
        return list(range(first, len(self.arrays)))

    def _tree(self, root: Group) -> list[Any]:
        """All groups that can be reached, the root first. A member is ["array", n], ["group", n] or ["error", ...]."""
        numbers = {root.address: 0}
        waiting = [root]
        described: list[Any] = []
        for group in waiting:
            members: dict[str, Any] = {}
            try:
                names = group.member_names()
            except ModelFileError as error:
                described.append({"error": error_fields(error)})
                continue
            for name in names:
                array, below, wrong = _member(group, name)
                if array is not None:
                    members[name] = ["array", *self._numbers([array])]
                elif below is not None:
                    number = numbers.setdefault(below.address, len(waiting))
                    if number == len(waiting):
                        waiting.append(below)
                    members[name] = ["group", number]
                elif wrong is not None:
                    members[name] = ["error", wrong]
            if len(waiting) > self._most_groups:
                raise CorruptFileError(self._path, f"has more than {self._most_groups} groups")
            described.append({"members": members})
        return described


def _member(group: Group, name: str) -> tuple[StoredArray | None, Group | None, Any]:
    """A member of a group: an array, or a group, or why it is neither."""
    try:
        return group.array(name), None, None
    except ModelFileError as error:
        try:
            return None, group.group(name), None
        except ModelFileError:
            return None, None, error_fields(error)
