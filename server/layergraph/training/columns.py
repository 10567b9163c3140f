"""Columns of training data: arrays of numbers or text whose rows are taken as tensors.

Arrays in memory become tensors once, without a copy if the dtype fits. Of memory-mapped arrays, only the rows of a
batch are read; of arrays in row groups, only a few groups at a time.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch

from layergraph.functional.strings import Strings
from layergraph.training.mapped_rows import MappedRows
from layergraph.training.mapped_text import MappedText
from layergraph.training.row_groups import GroupedArray

Array = np.ndarray[Any, Any]
Tensor = torch.Tensor
#: Rows of a batch: a slice, or their indices.
Rows = slice | Tensor


class NumberColumn:
    """An array of numbers, whose rows are taken as tensors of `dtype` on `device`."""

    def __init__(self, array: Array | GroupedArray, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype = dtype
        self._device = device
        self._tensor: Tensor | None = None
        if isinstance(array, GroupedArray):
            self._rows: MappedRows | GroupedArray = array
            return
        # torch has no read-only tensors, so read-only arrays are copied batch by batch, as mapped files are.
        if not isinstance(array, np.memmap) and array.flags.writeable:
            self._tensor = self._converted(array)
        self._rows = MappedRows(array)

    def _converted(self, array: Array) -> Tensor:
        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).to(self._dtype)
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if any(stride < 0 for stride in array.strides):
            array = array.copy()
        return torch.from_numpy(array).to(self._dtype)

    def take(self, rows: Rows) -> Tensor:
        """Returns rows as a tensor; a slice of an array in memory is a view of it."""
        if self._tensor is None:
            return self._sent(self._converted(self._rows.take(rows)))
        return self._sent(self._tensor[rows] if isinstance(rows, slice) else self._tensor.index_select(0, rows))

    def _sent(self, part: Tensor) -> Tensor:
        """Copies rows to the device. For a GPU through pinned memory, asynchronously, while it computes."""
        if self._device.type == "cuda":
            part = part.pin_memory()
        return part.to(self._device, non_blocking=True)


class TextColumn:
    """Text, whose rows are taken as `Strings`."""

    def __init__(self, what: str, text: Array | MappedText | GroupedArray) -> None:
        """`what` names the input in errors. Raises DataError for elements in memory that aren't text."""
        self._what = what
        # Text in memory is encoded and checked once, not in each epoch.
        self._text = text if isinstance(text, (MappedText, GroupedArray)) else Strings.of(text, what).values

    def take(self, rows: Rows) -> Strings:
        """Returns rows."""
        if isinstance(self._text, (MappedText, GroupedArray)):
            return Strings.of(self._text.take(rows), self._what)
        chosen = self._text[rows if isinstance(rows, slice) else rows.numpy()]
        return Strings(chosen.shape, chosen)


Taken = TypeVar("Taken", covariant=True)


class ColumnOf(Protocol[Taken]):
    """Rows of an array, taken as tensors or text."""

    def take(self, rows: Rows) -> Taken:
        """Returns rows."""


Column: TypeAlias = ColumnOf[Tensor | Strings]
Numbers: TypeAlias = ColumnOf[Tensor]


class ChosenRows(Generic[Taken]):
    """Some rows of a column, in an order of their own. They stay where they are."""

    def __init__(self, column: ColumnOf[Taken], order: Tensor) -> None:
        """`order` has the indices of the rows."""
        self._column = column
        self._order = order

    def take(self, rows: Rows) -> Taken:
        """Returns rows, by their places among the chosen ones."""
        return self._column.take(self._order[rows])
