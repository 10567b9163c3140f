"""Groups, attributes and arrays of an untrusted HDF5 file.

Only names that a config demands are looked up, and only through hard links: HDF5 has links and storage that point at
other files. Arrays are checked before they are read, and their chunks are decoded here, not by HDF5's filters, so that
what they become is bounded and no filter plugin is ever looked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from layergraph.archive import chunks
from layergraph.archive.hdf5_library import h5py
from layergraph.archive.limits import LoadLimits
from layergraph.errors import (
    CorruptFileError,
    LayerGraphError,
    UnsafeFileError,
    UnsupportedModelError,
)

Array = np.ndarray[Any, np.dtype[Any]]

#: Where we put an optimizer's state in an `.h5` of Keras 3, which can't train on after it has read one.
OWN_OPTIMIZER_GROUP = "layerserve_optimizer_weights"

#: HDF5 finds its signature at 0 and at these user block sizes.
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIGNATURE_OFFSETS = (0, *(512 << power for power in range(12)))


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turns whatever HDF5 raises (it raises nearly everything) into a CorruptFileError that names `what`."""
    try:
        yield
    except LayerGraphError:
        raise
    except MemoryError:
        raise CorruptFileError(path, f"{what} asks for more memory than there is") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError) as wrong:
        raise CorruptFileError(path, f"{what} can't be read: {str(wrong)[:200]}") from None


class Hdf5File:
    """An open HDF5 file. `stored_bytes` is its size, by which all that it can hold is bounded."""

    def __init__(self, file: IO[bytes] | Any, path: Path, stored_bytes: int, limits: LoadLimits) -> None:
        self.path = path
        self.stored_bytes = stored_bytes
        self.limits = limits
        with reading(path, "the HDF5 file"):
            self._file = h5py.File(file, "r")
            self.root = Hdf5Group(self, self._file["/"], "")

    def close(self) -> None:
        """Closes the file; its arrays can't be read any more."""
        self._file.close()


class Hdf5Group:
    """A group. `name` is its path in the file, for errors."""

    def __init__(self, file: Hdf5File, group: Any, name: str) -> None:
        self._file = file
        self._group = group
        self.name = name

    def __len__(self) -> int:
        with reading(self._file.path, f"group '{self.name}'"):
            return len(self._group)

    @property
    def address(self) -> int:
        """Where in the file the group stands: the same for all its names."""
        with reading(self._file.path, f"group '{self.name}'"):
            return int(h5py.h5o.get_info(self._group.id).addr)

    def member_names(self) -> list[str]:
        """Names of the members, at most as many as the limits allow."""
        count = len(self)
        if count > self._file.limits.names:
            raise CorruptFileError(self._file.path, f"group '{self.name}' has {count} members")
        with reading(self._file.path, f"group '{self.name}'"):
            return [str(name) for name in self._group]

    def group(self, path: str) -> Hdf5Group | None:
        """The group at `path` below this one, or None. Raises UnsafeFileError for links that are not hard."""
        found = self._walk(path)
        if found is None:
            return None
        name = self._below(path)
        if not isinstance(found, h5py.Group):
            raise CorruptFileError(self._file.path, f"'{name}' is no group")
        return Hdf5Group(self._file, found, name)

    def array(self, path: str) -> StoredArray | None:
        """The array at `path` below this group, or None. Its shape and type are known; nothing of it is read."""
        found = self._walk(path)
        if found is None:
            return None
        name = self._below(path)
        if not isinstance(found, h5py.Dataset):
            raise CorruptFileError(self._file.path, f"'{name}' is no array")
        with reading(self._file.path, f"array '{name}'"):
            return _stored_array(self._file, found, name)

    def text(self, attribute: str) -> str | None:
        """A text attribute, or None where there is none."""
        value = self._attribute(attribute)
        if value is None:
            return None
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        text = _as_text(value)
        if text is None:
            found = type(value).__name__
            raise CorruptFileError(
                self._file.path, f"attribute '{attribute}' of '{self.name}/' is {found}, expected text"
            )
        return text

    def texts(self, attribute: str) -> list[str] | None:
        """A list of texts, or None. Keras splits long ones into `layer_names0`, `layer_names1`, ..."""
        whole = self._attribute(attribute)
        if whole is not None:
            return self._as_texts(attribute, whole)
        parts: list[str] = []
        for index in range(self._file.limits.names):
            part = self._attribute(f"{attribute}{index}")
            if part is None:
                return parts if index else None
            parts += self._as_texts(attribute, part)
            if len(parts) > self._file.limits.names:
                break
        raise CorruptFileError(self._file.path, f"attribute '{attribute}' of '{self.name}/' has too many entries")

    def _as_texts(self, attribute: str, value: Any) -> list[str]:
        items = value.reshape(-1) if isinstance(value, np.ndarray) else [value]
        if len(items) > self._file.limits.names:
            raise CorruptFileError(self._file.path, f"attribute '{attribute}' of '{self.name}/' has too many entries")
        texts = [_as_text(item) for item in items]
        if any(text is None for text in texts):
            raise CorruptFileError(self._file.path, f"attribute '{attribute}' of '{self.name}/' is no list of texts")
        return [text for text in texts if text is not None]

    def _attribute(self, name: str) -> Any:
        """An attribute's value, once it is known to be text of a bearable size; None where there is none."""
        with reading(self._file.path, f"attribute '{name}' of '{self.name}/'"):
            if name not in self._group.attrs:
                return None
            attribute = self._group.attrs.get_id(name)
            kind = attribute.get_type().get_class()
            count = int(np.prod(attribute.shape, dtype=object))
            # An empty list of names is written as an empty array of floats.
            if kind != h5py.h5t.STRING and count:
                raise CorruptFileError(self._file.path, f"attribute '{name}' of '{self.name}/' is no text")
            limits = self._file.limits
            if count and (count > limits.names or attribute.get_storage_size() > limits.config_bytes):
                raise CorruptFileError(self._file.path, f"attribute '{name}' of '{self.name}/' is too large")
            return self._group.attrs[name] if count else np.empty(0)

    def _walk(self, path: str) -> Any:
        """The object at `path`, component by component, or None where one is missing."""
        found = self._group
        for part in path.split("/"):
            if part in ("", "."):
                continue
            with reading(self._file.path, f"'{self._below(path)}'"):
                if not isinstance(found, h5py.Group):
                    return None
                key = part.encode("utf-8")
                if b"\0" in key or key not in found.id:
                    return None
                if found.id.links.get_info(key).type != h5py.h5l.TYPE_HARD:
                    raise UnsafeFileError(
                        self._file.path, f"'{self._below(path)}' is a link, expected data in the file"
                    )
                found = found[part]
        return found

    def _below(self, path: str) -> str:
        return f"{self.name}/{path}" if self.name else path


def _as_text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", "surrogateescape")
    return str(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array of the file, not read yet. `name` is its path in the file; `dtype` is Keras's name of its type."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    _file: Hdf5File
    _dataset: Any

    @property
    def nbytes(self) -> int:
        """Bytes of the values in memory."""
        size: int = self._dataset.dtype.itemsize
        for length in self.shape:
            size *= length
        return size

    def read(self) -> Array:
        """The values, in the machine's byte order; bfloat16 as float32, which holds all of them.

        Compare `shape` and `dtype` with what is wanted before. Raises CorruptFileError.
        """
        with reading(self._file.path, f"array '{self.name}'"):
            values = self._read_raw()
            if self.dtype == "bfloat16":
                return (values.view("<u2").astype(np.uint32) << 16).view(np.float32)
            return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _read_raw(self) -> Array:
        path, dataset = self._file.path, self._dataset
        if self.nbytes > self._file.limits.inflated_bytes(self._file.stored_bytes):
            raise CorruptFileError(path, f"array '{self.name}' claims {self.nbytes} bytes, more than the file can hold")
        stored = dataset.id.get_storage_size()
        if dataset.chunks is not None:
            return chunks.read(dataset, self.name, path)
        if stored < self.nbytes:
            raise CorruptFileError(path, f"array '{self.name}' has {stored} bytes, expected {self.nbytes}")
        values = np.empty(self.shape, dataset.dtype)
        if values.size:
            if self.shape:
                dataset.read_direct(values)
            else:
                values[()] = dataset[()]
        return values


def _stored_array(file: Hdf5File, dataset: Any, name: str) -> StoredArray:
    """Describes `dataset`; refuses what reaches outside the file and what is no plain array of numbers."""
    plan = dataset.id.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise UnsafeFileError(file.path, f"array '{name}' keeps its values in other files")
    if dataset.shape is None:
        raise CorruptFileError(file.path, f"array '{name}' is empty, expected values")
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    if unknown := [code for code in filters if code not in chunks.FILTERS]:
        raise UnsupportedModelError(
            file.path, f"array '{name}' has filter {unknown[0]}, expected gzip, shuffle or none"
        )
    return StoredArray(name, tuple(dataset.shape), _dtype_name(file.path, dataset, name), file, dataset)


def _dtype_name(path: Path, dataset: Any, name: str) -> str:
    kind = dataset.id.get_type().get_class()
    dtype = dataset.dtype
    if kind in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and dtype.kind in "iuf" and dtype.itemsize <= 8:
        return str(dtype.name)
    if kind == h5py.h5t.ENUM and dtype.kind == "b":
        return "bool"
    # Keras writes bfloat16, which HDF5 lacks, as two opaque bytes, and its name beside them in `.keras` alone.
    if kind == h5py.h5t.OPAQUE and dtype.itemsize == 2:
        return "bfloat16"
    raise UnsupportedModelError(path, f"array '{name}' has elements of type {str(dtype)[:80]}, expected numbers")


class StateTree:
    """Weights in the layout of Keras 3: `layers/dense/vars/0`."""

    def __init__(self, root: Hdf5Group) -> None:
        self.root = root

    def optimizer_weights(self) -> list[StoredArray]:
        """The optimizer's variables, in its order."""
        group = self.root.group("optimizer/vars")
        if group is None:
            return []
        names = sorted((name for name in group.member_names() if name.isdecimal()), key=int)
        return [array for name in names if (array := group.array(name)) is not None]


class LegacyWeights:
    """Weights in the layout of Keras 1 and 2: a group for each layer, its arrays named by `weight_names`."""

    def __init__(self, file: Hdf5File, model: Hdf5Group, optimizer: Hdf5Group | None) -> None:
        self._file = file
        self._model = model
        self._optimizer = optimizer

    def layers(self) -> dict[str, list[StoredArray]]:
        """Arrays by layer, in the file's order. Layers without weights are left out.

        Raises CorruptFileError where a name leads nowhere or comes twice.
        """
        names = self._model.texts("layer_names")
        if names is None:
            raise CorruptFileError(self._file.path, "its weights have no attribute 'layer_names'")
        if len(set(names)) != len(names):
            raise CorruptFileError(self._file.path, "attribute 'layer_names' has a name twice")
        found: dict[str, list[StoredArray]] = {}
        total = 0
        for name in names:
            group = self._model.group(name)
            if group is None:
                raise CorruptFileError(self._file.path, f"has no weights of layer '{name[:80]}', which it lists")
            arrays = _named_arrays(self._file.path, group)
            total += len(arrays)
            if total > self._file.limits.names:
                raise CorruptFileError(self._file.path, f"has more than {self._file.limits.names} weights")
            if arrays:
                found[name] = arrays
        return found

    def optimizer_weights(self) -> list[StoredArray]:
        """The optimizer's variables, in its order."""
        group = self._file.root.group(OWN_OPTIMIZER_GROUP) if self._optimizer is None else self._optimizer
        return [] if group is None else _named_arrays(self._file.path, group)


def _named_arrays(path: Path, group: Hdf5Group) -> list[StoredArray]:
    arrays: list[StoredArray] = []
    for name in group.texts("weight_names") or []:
        array = group.array(name)
        if array is None:
            raise CorruptFileError(path, f"has no array '{name[:80]}' in '{group.name}', which lists it")
        arrays.append(array)
    return arrays


def is_hdf5(file: Any) -> bool:
    """Whether `file` (a FileWindow) has HDF5's signature where HDF5 looks for it."""
    return any(
        file.read_at(offset, len(SIGNATURE)) == SIGNATURE for offset in SIGNATURE_OFFSETS if offset < file.length
    )
