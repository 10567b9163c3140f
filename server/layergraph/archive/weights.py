"""The layouts of weights in model files, of any container."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"

#: Name of an array in a numbered group. Python refuses to read thousands of digits.
INDEX = re.compile(r"[0-9]{1,9}")


class StoredArray(Protocol):
    """An array in a file, not read yet. `name` is its path in the file; `dtype` is Keras's name of its dtype."""

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> str: ...
    @property
    def nbytes(self) -> int:
        """Size of the values in memory, in bytes."""

    def read(self) -> Array:
        """Reads the values, in native byte order; bfloat16 as float32, which represents it exactly.

        Check `shape` and `dtype` before. Raises CorruptFileError.
        """


class Group(Protocol):
    """A group of arrays and groups, of one file or of several. Paths have components separated by `/`."""

    def __len__(self) -> int: ...
    @property
    def address(self) -> int:
        """A number that differs from those of other groups."""

    def member_names(self) -> list[str]:
        """Names of the members. Raises CorruptFileError if there are too many."""

    def group(self, path: str) -> Group | None:
        """Returns the group at `path` below this one, or None. Raises UnsafeFileError for links that aren't hard."""

    def array(self, path: str) -> StoredArray | None:
        """Returns the array at `path` below this group, or None."""


class StateTree:
    """Weights in Keras 3's layout: `layers/dense/vars/0`."""

    def __init__(self, root: Group) -> None:
        self.root = root
        self.problems: Sequence[str] = ()

    def optimizer_weights(self) -> list[StoredArray]:
        """The optimizer's variables, in the optimizer's order."""
        group = self.root.group("optimizer/vars")
        if group is None:
            return []
        names = sorted((name for name in group.member_names() if INDEX.fullmatch(name)), key=int)
        return [array for name in names if (array := group.array(name)) is not None]


class ArraysByLayer(Protocol):
    """Weights in the layout of Keras 1 and 2: a list of arrays per layer.

    problems   what is wrong besides arrays, such as a missing file. Arrays are described all the same, so that what
               else is wrong is found.
    """

    @property
    def problems(self) -> Sequence[str]: ...
    def layers(self) -> Mapping[str, Sequence[StoredArray]]:
        """Returns arrays by layer, in file order. Layers without weights are left out. Raises ModelFileError."""

    def optimizer_weights(self) -> Sequence[StoredArray]:
        """The optimizer's variables, in the optimizer's order."""


class ArrayList:
    """Weights in the layout of TensorFlow.js: all arrays of a model, in file order."""

    def __init__(self) -> None:
        self.arrays: list[StoredArray] = []
        self.problems: Sequence[str] = ()

    def optimizer_weights(self) -> list[StoredArray]:
        """Empty: the format doesn't store optimizer weights."""
        return []


StoredWeights: TypeAlias = "StateTree | ArraysByLayer | ArrayList"
