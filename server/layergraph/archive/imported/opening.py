"""Opens what another process has read of a model file, in a process with the model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, Final

import numpy as np

from layergraph.archive.files import open_regular
from layergraph.archive.imported.form import ARRAYS, ASSETS, DESCRIPTION, FORMAT, ORDERS, Wanted, raised
from layergraph.archive.json_text import infinity, json_value
from layergraph.archive.limits import LoadLimits
from layergraph.archive.model_archive import ModelArchive
from layergraph.archive.weights import Array, ArrayList, StateTree, StoredArray, StoredWeights
from layergraph.errors import CorruptFileError, ModelFileError

#: Size of the description, compared with the limits of one config: it has two configs and an index.
_TIMES_CONFIG: Final = 4


def open_import(
    folder: Path,
    path: Path,
    limits: LoadLimits,
    read: Callable[[Sequence[Wanted]], None] | None = None,
) -> ModelArchive:
    """Opens the folder that describes the file at `path`.

    `read` has the other process write arrays; by default those that were read for an earlier model are in the folder.
    Raises ModelFileError if the file can't be used, or the folder is damaged.
    """
    with _checked(path):
        limits = limits.of_file(path.stat().st_size)
        description = _description(folder, path, limits)
        if description["format"] != FORMAT:
            raise ValueError("another format")
        values = _Values(folder, path)
        arrays = [
            ImportedArray(str(name), tuple(_count(n) for n in shape), str(dtype), _count(nbytes), number, values)
            for number, (name, shape, dtype, nbytes) in enumerate(description["arrays"])
        ]
        config, training, task = (description[key] for key in ("config", "training_config", "task_weights"))
        if not isinstance(config, dict) or not isinstance(training, (dict, type(None))):
            raise TypeError("a config isn't an object")
        version, backend = (_text(description[key]) for key in ("keras_version", "backend"))
        assets = description["assets"]
        return ModelArchive(
            path,
            config=config,
            training_config=training,
            keras_version=version,
            backend=backend,
            weights=_weights(description["weights"], arrays, path),
            task_weights=None if task is None else _tree(task, arrays, path),
            stored_bytes=_count(description["stored_bytes"]),
            limits=limits,
            resources=ExitStack(),
            members=None if assets is None else _Assets(folder / ASSETS, dict(assets), path),
            files=[path.parent / _inside(name) for name in description["files"]],
            prefetch=None if read is None else lambda wanted: read(_numbered(wanted)),
        )


def _numbered(wanted: Iterable[tuple[StoredArray, tuple[int, ...] | None]]) -> list[Wanted]:
    """Each array once, in the first memory order in which it is needed."""
    orders: dict[int, tuple[int, ...] | None] = {}
    for array, order in wanted:
        if isinstance(array, ImportedArray):
            orders.setdefault(array.number, order)
    return list(orders.items())


@dataclass(frozen=True, slots=True)
class ImportedArray:
    """An array that another process has read, or would read. `number` is its index in the description."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    number: int
    _values: _Values = field(repr=False)

    def read(self) -> Array:
        """Maps the values; bfloat16 as float32. Raises CorruptFileError if they weren't read or are damaged."""
        return self._values.array(self)


class _Values:
    """The file of the arrays, mapped on first use."""

    def __init__(self, folder: Path, path: Path) -> None:
        self._file = folder / ARRAYS
        self._path = path
        self._opened: Any = None
        self._orders: Mapping[str, Any] = {}

    def array(self, described: ImportedArray) -> Array:
        with _checked(self._path):
            if self._opened is None:
                # Imported here, since only a process with torch maps arrays.
                from safetensors import safe_open

                self._opened = safe_open(self._file, "pt")
                self._orders = json.loads(self._opened.metadata()[ORDERS])
            name = str(described.number)
            values: Array = self._opened.get_tensor(name).numpy()
            if (order := self._orders.get(name)) is not None:
                values = values.transpose(np.argsort(order))
            dtype = "float32" if described.dtype == "bfloat16" else described.dtype
            if values.shape != described.shape or values.dtype.name != dtype:
                raise ValueError(f"array {name} has another shape or dtype than its description")
            return values


class ImportedGroup:
    """A group of a description. `name` is its path, for errors."""

    def __init__(self, groups: Sequence[Mapping[str, Any]], number: int, name: str, tree: _Tree) -> None:
        self._members = groups[number]
        self._groups = groups
        self._tree = tree
        self.address = number
        self.name = name

    def __len__(self) -> int:
        return len(self.member_names())

    def member_names(self) -> list[str]:
        """Names of the members. Raises what the other process got."""
        if "error" in self._members:
            raise raised(self._members["error"], self._tree.path)
        return list(self._members["members"])

    def group(self, path: str) -> ImportedGroup | None:
        """Returns the group at `path` below this one, or None. Raises what the other process got."""
        found = self._walk(path)
        if isinstance(found, ImportedArray):
            raise CorruptFileError(self._tree.path, f"'{self._below(path)}' isn't a group")
        return found

    def array(self, path: str) -> ImportedArray | None:
        """Returns the array at `path` below this group, or None. Raises what the other process got."""
        found = self._walk(path)
        if isinstance(found, ImportedGroup):
            raise CorruptFileError(self._tree.path, f"'{self._below(path)}' isn't an array")
        return found

    def _walk(self, path: str) -> ImportedArray | ImportedGroup | None:
        found: ImportedArray | ImportedGroup | None = self
        for part in path.split("/"):
            if part not in ("", "."):
                found = found._member(part) if isinstance(found, ImportedGroup) else None
        return found

    def _member(self, name: str) -> ImportedArray | ImportedGroup | None:
        with _checked(self._tree.path):
            if name not in self._members.get("members", ()):
                return None
            kind, content = self._members["members"][name]
            if kind == "error":
                raise raised(content, self._tree.path)
            if kind == "array":
                return self._tree.arrays[_count(content)]
            return ImportedGroup(self._groups, _count(content), self._below(name), self._tree)

    def _below(self, path: str) -> str:
        return f"{self.name}/{path}" if self.name else path


@dataclass(frozen=True, slots=True)
class _Tree:
    arrays: Sequence[ImportedArray]
    path: Path


@dataclass(frozen=True, slots=True)
class _ImportedLayers:
    """Arrays by layer, in a description."""

    content: Mapping[str, Any]
    arrays: Sequence[ImportedArray]
    path: Path

    @property
    def problems(self) -> list[str]:
        """What is wrong besides arrays."""
        with _checked(self.path):
            return [str(text) for text in self.content["problems"]]

    def layers(self) -> dict[str, list[ImportedArray]]:
        """Returns arrays by layer, in file order. Raises what the other process got."""
        with _checked(self.path):
            layers = self.content["layers"]
            if isinstance(layers, dict):
                raise raised(layers["error"], self.path)
            return {str(name): _chosen(numbers, self.arrays, self.path) for name, numbers in layers}

    def optimizer_weights(self) -> list[ImportedArray]:
        """The optimizer's variables, in the optimizer's order. Raises what the other process got."""
        with _checked(self.path):
            return _chosen(self.content["optimizer"], self.arrays, self.path)


class _Assets:
    """The assets of a `.keras`, by their names in it."""

    def __init__(self, folder: Path, numbers: Mapping[str, Any], path: Path) -> None:
        self._folder = folder
        self._numbers = numbers
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self._numbers

    @property
    def names(self) -> list[str]:
        """Names of all assets."""
        return list(self._numbers)

    def read(self, name: str, largest: int) -> bytes:
        """Reads an asset of at most `largest` bytes. Raises what the other process got."""
        with _checked(self._path):
            number = self._numbers[name]
            if isinstance(number, list):
                raise raised(number, self._path)
            file = open_regular(self._folder / str(_count(number)))
            try:
                if file.length > largest:
                    raise CorruptFileError(self._path, f"{name} has {file.length} bytes, expected at most {largest}")
                return file.read_at(0, file.length)
            finally:
                file.close()


def _description(folder: Path, path: Path, limits: LoadLimits) -> Any:
    with _checked(path):
        file = open_regular(folder / DESCRIPTION)
        try:
            most = _TIMES_CONFIG * limits.config_bytes
            if file.length > most:
                raise ValueError("is too large")
            text = file.read_at(0, file.length).decode("ascii")
        finally:
            file.close()
        # Its depth beyond that of the configs: the description's own.
        return json_value(
            text,
            most=most,
            values=_TIMES_CONFIG * limits.config_values,
            depth=limits.config_depth + _TIMES_CONFIG,
            as_constant=infinity,
        )


def _weights(content: Mapping[str, Any], arrays: Sequence[ImportedArray], path: Path) -> StoredWeights:
    if "tree" in content:
        return _tree(content, arrays, path)
    if "list" in content:
        found = ArrayList()
        found.arrays += _chosen(content["list"], arrays, path)
        return found
    return _ImportedLayers(content, arrays, path)


def _tree(content: Mapping[str, Any], arrays: Sequence[ImportedArray], path: Path) -> StateTree:
    return StateTree(ImportedGroup(content["tree"], 0, "", _Tree(arrays, path)))


def _chosen(numbers: Any, arrays: Sequence[ImportedArray], path: Path) -> list[ImportedArray]:
    if isinstance(numbers, dict):
        raise raised(numbers["error"], path)
    return [arrays[_count(number)] for number in numbers]


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.80} isn't a count")
    return value


def _text(value: Any) -> str | None:
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"{value!r:.80} isn't text")
    return value


def _inside(name: Any) -> str:
    """A file's name relative to the model's folder."""
    parts = PurePath(name)
    if parts.is_absolute() or ".." in parts.parts:
        raise ValueError(f"{name!r:.80} is outside of the model's folder")
    return str(parts)


@contextmanager
def _checked(path: Path) -> Iterator[None]:
    """Converts all errors of a damaged folder to a CorruptFileError of the file."""
    try:
        yield
    except ModelFileError:
        raise
    except Exception as wrong:
        text = f"{type(wrong).__name__}: {str(wrong)[:200]}"
        raise CorruptFileError(path, f"what another process read of it is damaged ({text})") from wrong
