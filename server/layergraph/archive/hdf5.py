"""Groups, attributes and arrays of an untrusted HDF5 file.

Only names given by a config are looked up, and only through hard links: HDF5 has links and storage that refer to other
files. Arrays are checked before they are read, and their chunks are decoded here rather than by HDF5's filters, so that
their size is bounded and no filter plugin is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from layergraph.archive import chunks
from layergraph.archive import lazy_h5py as h5py
from layergraph.archive.allocation import uninitialised
from layergraph.archive.heap_check import HeapChecked
from layergraph.archive.limits import LoadLimits
from layergraph.archive.weights import Array
from layergraph.errors import (
    CorruptFileError,
    LayerGraphError,
    UnsafeFileError,
    UnsupportedModelError,
)

#: Group of an optimizer's state in an `.h5` of Keras 3, which itself can't resume training from an `.h5`.
OWN_OPTIMIZER_GROUP = "layerserve_optimizer_weights"

#: HDF5's signature is at offset 0 or at one of these user block sizes.
SIGNATURE = b"\x89HDF\r\n\x1a\n"
SIGNATURE_OFFSETS = (0, *(512 << power for power in range(12)))

#: Maximum number of intermediate groups kept open to avoid repeated lookups.
_MAX_RECENT = 64
#: Maximum nesting depth of groups. Their names contain those of enclosing models and scopes.
_MAX_DEPTH = 256


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Converts HDF5's exceptions (which are of nearly any type) to a CorruptFileError that names `what`."""
    try:
        yield
    except LayerGraphError:
        raise
    except MemoryError:
        raise CorruptFileError(path, f"{what} needs more memory than is available") from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, AttributeError) as wrong:
        raise CorruptFileError(path, f"{what} can't be read: {str(wrong)[:200]}") from None


class Hdf5File:
    """An open HDF5 file. `stored_bytes` is its size, which bounds the size of its arrays."""

    def __init__(self, file: IO[bytes] | Any, path: Path, stored_bytes: int, limits: LoadLimits) -> None:
        self.path = path
        self.stored_bytes = stored_bytes
        self.limits = limits
        self._content: Any = file
        with reading(path, "the HDF5 file"):
            self._file = h5py.File(HeapChecked(file), "r")
            self.root = Hdf5Group(self, h5py.h5g.open(self._file.id, b"/"), "")

    def read_at(self, offset: int, values: Array) -> None:
        """Fills `values` with the file's bytes from `offset` on. Raises OSError if the file ends before."""
        self._content.seek(offset)
        if self._content.readinto(values.reshape(-1).view(np.uint8)) != values.nbytes:
            raise OSError("the file ends before its last value")

    def close(self) -> None:
        """Closes the file; its arrays can't be read afterwards."""
        self._file.close()


class Hdf5Group:
    """A group. `name` is its path in the file, for errors.

    Uses HDF5's low-level identifiers: h5py's objects would take most of the time of a model with many arrays.
    """

    def __init__(self, file: Hdf5File, group: Any, name: str) -> None:
        self._file = self.file = file
        self._group = group
        self.name = name
        #: Open groups below this one, by path.
        self._recent: dict[str, Any] = {}

    def __len__(self) -> int:
        with reading(self._file.path, f"group '{self.name}'"):
            return int(self._group.get_num_objs())

    @property
    def address(self) -> int:
        """Address of the group in the file: the same for all its names."""
        with reading(self._file.path, f"group '{self.name}'"):
            return int(h5py.h5o.get_info(self._group).addr)

    def member_names(self) -> list[str]:
        """Names of the members. Raises CorruptFileError if there are more than the limit."""
        count = len(self)
        if count > self._file.limits.names:
            most = self._file.limits.names
            raise CorruptFileError(self._file.path, f"group '{self.name}' has {count} members, expected at most {most}")
        with reading(self._file.path, f"group '{self.name}'"):
            return [name.decode("utf-8", "surrogateescape") for name in self._group]

    def group(self, path: str) -> Hdf5Group | None:
        """Returns the group at `path` below this one, or None. Raises UnsafeFileError for links that aren't hard."""
        found = self._walk(path)
        if found is None:
            return None
        name = self._below(path)
        if not isinstance(found, h5py.h5g.GroupID):
            raise CorruptFileError(self._file.path, f"'{name}' isn't a group")
        return Hdf5Group(self._file, found, name)

    def array(self, path: str) -> Hdf5Array | None:
        """Returns the array at `path` below this group, or None. Only shape and dtype are read."""
        found = self._walk(path)
        if found is None:
            return None
        name = self._below(path)
        if not isinstance(found, h5py.h5d.DatasetID):
            raise CorruptFileError(self._file.path, f"'{name}' isn't an array")
        with reading(self._file.path, f"array '{name}'"):
            return _described_array(self._file, found, name)

    def text(self, attribute: str) -> str | None:
        """Returns a text attribute, or None if there is none. Raises CorruptFileError for other types."""
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
        """Returns a list of texts, or None. Keras splits long lists into `layer_names0`, `layer_names1`, ..."""
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
            raise CorruptFileError(self._file.path, f"attribute '{attribute}' of '{self.name}/' isn't a list of texts")
        return [text for text in texts if text is not None]

    def _attribute(self, name: str) -> Any:
        """Returns an attribute's value after checking that it is text within the size limit; None if there is none."""
        with reading(self._file.path, f"attribute '{name}' of '{self.name}/'"):
            key = name.encode("utf-8")
            if not h5py.h5a.exists(self._group, key):
                return None
            attribute = h5py.h5a.open(self._group, key)
            kind = attribute.get_type()
            count = math.prod(attribute.shape)
            # An empty list of names is written as an empty array of floats.
            if kind.get_class() != h5py.h5t.STRING and count:
                raise CorruptFileError(self._file.path, f"attribute '{name}' of '{self.name}/' isn't text")
            limits = self._file.limits
            if count and (count > limits.names or attribute.get_storage_size() > limits.config_bytes):
                raise CorruptFileError(self._file.path, f"attribute '{name}' of '{self.name}/' is too large")
            if not count:
                return np.empty(0)
            if kind.is_variable_str():
                return h5py.AttributeManager(h5py.Group(self._group))[name]
            values = np.empty(attribute.shape, kind.dtype)
            attribute.read(values)
            return values

    def _walk(self, path: str) -> Any:
        """Returns the object at `path`, looked up component by component; None if one is missing."""
        group = self._recent.get(path.rpartition("/")[0])
        if group is None:
            if path.count("/") > _MAX_DEPTH:
                raise CorruptFileError(self._file.path, f"'{self._below(path)[:80]}...' is nested too deep")
            group = self._group
            for end in (at for at, letter in enumerate(path) if letter == "/"):
                group = self._open(group, path[:end])
        return self._open(group, path)

    def _open(self, group: Any, path: str) -> Any:
        """Opens the member of `group` at `path` relative to this group."""
        part = path.rpartition("/")[2]
        if part in ("", "."):
            return group
        if path in self._recent:
            return self._recent[path]
        with reading(self._file.path, f"'{self._below(path)}'"):
            key = part.encode("utf-8")
            if not isinstance(group, h5py.h5g.GroupID) or b"\0" in key:
                return None
            try:
                link = group.links.get_info(key)
            except (LookupError, RuntimeError):
                if key in group:
                    raise
                return None
            if link.type != h5py.h5l.TYPE_HARD:
                raise UnsafeFileError(self._file.path, f"'{self._below(path)}' is a link, expected data in the file")
            found = h5py.h5o.open(group, key)
            if isinstance(found, h5py.h5g.GroupID):
                if len(self._recent) >= _MAX_RECENT:
                    self._recent.clear()
                self._recent[path] = found
            return found

    def _below(self, path: str) -> str:
        return f"{self.name}/{path}" if self.name else path


def _as_text(value: Any) -> str | None:
    if isinstance(value, bytes):
        return value.rstrip(b"\0").decode("utf-8", "surrogateescape")
    return str(value) if isinstance(value, str) else None


@dataclass(frozen=True, slots=True)
class Hdf5Array:
    """An array in the file, not read yet. `name` is its path in the file; `dtype` is Keras's name of its dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    _file: Hdf5File
    _element: np.dtype[Any]
    #: Where the values start in the file, if they are stored contiguously. Then HDF5 isn't needed to read them, nor its
    #: identifier of the array, of which each takes 25 kB.
    _offset: int | None
    _stored_bytes: int
    _dataset: Any = None

    @property
    def nbytes(self) -> int:
        """Size of the values in memory, in bytes."""
        return self._element.itemsize * math.prod(self.shape)

    def read(self) -> Array:
        """Reads the values, in native byte order; bfloat16 as float32, which represents it exactly.

        Check `shape` and `dtype` before. Raises CorruptFileError.
        """
        with reading(self._file.path, f"array '{self.name}'"):
            values = self._read_raw()
            if self.dtype == "bfloat16":
                # Shifting an array without axes gives a scalar.
                return np.asarray(values.view("<u2").astype(np.uint32) << 16).view(np.float32)
            return values.astype(values.dtype.newbyteorder("="), copy=False)

    def _check_size(self) -> None:
        path, nbytes = self._file.path, self.nbytes
        if nbytes > self._file.limits.inflated_bytes(self._file.stored_bytes):
            raise CorruptFileError(path, f"array '{self.name}' claims {nbytes} bytes, more than the file can hold")
        if not self._is_chunked and self._stored_bytes < nbytes:
            raise CorruptFileError(path, f"array '{self.name}' has {self._stored_bytes} bytes, expected {nbytes}")

    @property
    def _is_chunked(self) -> bool:
        return self._dataset is not None and self._dataset.get_create_plist().get_layout() == h5py.h5d.CHUNKED

    def _read_raw(self) -> Array:
        self._check_size()
        if self._is_chunked:
            return chunks.read(h5py.Dataset(self._dataset), self.name, self._file.path)
        values = uninitialised(self.shape, self._element)
        if values.size and self._offset is not None:
            self._file.read_at(self._offset, values)
        elif values.size:
            self._dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values, self._dataset.get_type())
        return values


def _described_array(file: Hdf5File, dataset: Any, name: str) -> Hdf5Array:
    """Describes `dataset`; rejects external storage and anything but a plain array of numbers."""
    shape, stored_bytes, offset = dataset.shape, dataset.get_storage_size(), dataset.get_offset()
    if offset is None:
        _check_layout(file, dataset, name)
    if shape is None:
        raise CorruptFileError(file.path, f"array '{name}' is empty, expected values")
    kind = dataset.get_type()
    element = kind.dtype
    dtype = _dtype_name(file.path, kind.get_class(), element, name)
    return Hdf5Array(name, shape, dtype, file, element, offset, stored_bytes, None if offset is not None else dataset)


def _check_layout(file: Hdf5File, dataset: Any, name: str) -> None:
    """Rejects values in other files, and filters but gzip, shuffle and checksums."""
    plan = dataset.get_create_plist()
    if plan.get_layout() == h5py.h5d.VIRTUAL or plan.get_external_count():
        raise UnsafeFileError(file.path, f"array '{name}' stores its values in other files")
    filters = [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]
    if unknown := [code for code in filters if code not in chunks.FILTERS]:
        raise UnsupportedModelError(
            file.path, f"array '{name}' has filter {unknown[0]}, expected gzip, shuffle or none"
        )


def _dtype_name(path: Path, kind: int, dtype: np.dtype[Any], name: str) -> str:
    if kind in (h5py.h5t.INTEGER, h5py.h5t.FLOAT) and dtype.kind in "iuf" and dtype.itemsize <= 8:
        return str(dtype.name)
    if kind == h5py.h5t.ENUM and dtype.kind == "b":
        return "bool"
    # Keras writes bfloat16, which HDF5 lacks, as two opaque bytes; only a `.keras` also has the dtype's name.
    if kind == h5py.h5t.OPAQUE and dtype.itemsize == 2:
        return "bfloat16"
    raise UnsupportedModelError(path, f"array '{name}' has elements of type {str(dtype)[:80]}, expected numbers")


class LegacyWeights:
    """Weights in the layout of Keras 1 and 2: a group per layer, whose arrays are named by `weight_names`."""

    def __init__(self, file: Hdf5File, model: Hdf5Group, optimizer: Hdf5Group | None) -> None:
        self._file = file
        self._model = model
        self._optimizer = optimizer
        self.problems: Sequence[str] = ()

    def layers(self) -> dict[str, list[Hdf5Array]]:
        """Returns arrays by layer, in file order. Layers without weights are left out.

        Raises CorruptFileError for missing or repeated names.
        """
        names = self._model.texts("layer_names")
        if names is None:
            raise CorruptFileError(self._file.path, "weights have no attribute 'layer_names'")
        if len(set(names)) != len(names):
            raise CorruptFileError(self._file.path, "attribute 'layer_names' repeats a name")
        found: dict[str, list[Hdf5Array]] = {}
        total = 0
        for name in names:
            group = self._model.group(name)
            if group is None:
                raise CorruptFileError(self._file.path, f"has no weights of layer '{name[:80]}' in 'layer_names'")
            arrays = _named_arrays(self._file, group)
            total += len(arrays)
            if total > self._file.limits.names:
                raise CorruptFileError(self._file.path, f"has more than {self._file.limits.names} weights")
            if arrays:
                found[name] = arrays
        return found

    def optimizer_weights(self) -> list[Hdf5Array]:
        """The optimizer's variables, in the optimizer's order."""
        group = self._file.root.group(OWN_OPTIMIZER_GROUP) if self._optimizer is None else self._optimizer
        return [] if group is None else _named_arrays(self._file, group)


def _named_arrays(file: Hdf5File, group: Hdf5Group) -> list[Hdf5Array]:
    arrays: list[Hdf5Array] = []
    for name in group.texts("weight_names") or []:
        # Keras 2.0 on Theano has `/iterations`, which HDF5 looks up from the root.
        array = (file.root if name.startswith("/") else group).array(name)
        if array is None:
            raise CorruptFileError(file.path, f"has no array '{name[:80]}' in '{group.name}', listed in 'weight_names'")
        arrays.append(array)
    return arrays


def is_hdf5(file: Any) -> bool:
    """Whether `file` (a FileWindow) has HDF5's signature at one of its offsets."""
    return any(
        file.read_at(offset, len(SIGNATURE)) == SIGNATURE for offset in SIGNATURE_OFFSETS if offset < file.length
    )
