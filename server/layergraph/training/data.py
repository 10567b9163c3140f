"""Training data: arrays matched to inputs and outputs, checked, and split into batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from layergraph.errors import DataError, ShapeError, unknown_name
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.shard import Shard
from layergraph.functional.strings import Strings
from layergraph.functional.tensor import Shape, TensorSpec
from layergraph.training.columns import ChosenRows, Column, NumberColumn, Numbers, Rows, TextColumn
from layergraph.training.mapped_text import MappedText
from layergraph.training.row_groups import GroupedArray, RowGroups
from layergraph.training.workers import Workers

Array = np.ndarray[Any, Any]
Tensor = torch.Tensor

#: Accepted kinds of data, for error messages.
TAKEN = (
    "an array, a list or dict of arrays, or batches: a keras.utils.PyDataset, a generator, or a "
    "torch.utils.data.DataLoader, which also makes batches of a torch Dataset"
)


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of all columns: inputs in the model's order; labels and weights by output, None for outputs without.

    With a shard, the inputs are one worker's rows; labels and weights are of the whole batch, as outputs are gathered.
    """

    rows: int
    inputs: list[Tensor | Strings]
    labels: list[Tensor | None]
    weights: list[Tensor | None]
    shard: Shard | None = None


@dataclass(frozen=True, slots=True)
class Data:
    """Inputs, labels and sample weights with the same number of rows.

    With row groups, rows are to be taken in an order in which those of few groups are neighbours.
    """

    rows: int
    inputs: list[Column]
    labels: list[Numbers | None]
    weights: list[Numbers | None]
    groups: RowGroups | None = None

    def chosen(self, what: str, rows: Any) -> Data:
        """Returns the rows with these indices, in this order; they stay where they are. Row groups keep their order.

        Raises DataError for indices that aren't of rows.
        """
        order = torch.from_numpy(np.ascontiguousarray(rows, np.int64))
        if order.ndim != 1 or not len(order):
            raise DataError(f"{what}: got shape {tuple(order.shape)}, expected the indices of 1 or more rows")
        if int(order.min()) < 0 or int(order.max()) >= self.rows:
            raise DataError(
                f"{what}: got indices from {int(order.min())} to {int(order.max())}, expected 0 to {self.rows - 1}"
            )
        if self.groups is not None:
            order = order.sort().values
        return Data(
            len(order),
            [ChosenRows(column, order) for column in self.inputs],
            [None if column is None else ChosenRows(column, order) for column in self.labels],
            [None if column is None else ChosenRows(column, order) for column in self.weights],
            None if self.groups is None else self.groups.chosen(order.numpy()),
        )

    def batch(self, rows: Rows, count: int, workers: Workers | None = None) -> Batch:
        """Returns `count` rows as a batch; with `workers`, the inputs are this worker's shard."""
        shard = None if workers is None else workers.shard(count)
        if workers is not None and self.groups is not None:
            return self._divided(rows, count, self.groups, workers)
        own = rows if shard is None else shard.chosen(rows)
        return Batch(
            count,
            [column.take(own) for column in self.inputs],
            [None if column is None else column.take(rows) for column in self.labels],
            [None if column is None else column.take(rows) for column in self.weights],
            shard,
        )

    def _divided(self, rows: Rows, count: int, groups: RowGroups, workers: Workers) -> Batch:
        """Returns a batch of which each worker reads the rows of its own groups."""
        chosen = torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        shard = workers.shard(count)
        owners = torch.from_numpy(groups.owners(chosen.numpy(), workers.count))
        labels = [column for column in self.labels if column is not None]
        weights = [column for column in self.weights if column is not None]
        taken = workers.exchanged([*self.inputs, *labels, *weights], chosen, owners, shard)
        measured: Iterator[Any] = iter(taken[len(self.inputs) :])
        if shard is not None:
            # Outputs are gathered before they are measured, so what they are compared with is, too.
            measured = map(shard.gathered, measured)
        return Batch(
            count,
            taken[: len(self.inputs)],
            [None if column is None else next(measured) for column in self.labels],
            [None if column is None else next(measured) for column in self.weights],
            shard,
        )

    def batches(self, size: int, workers: Workers | None = None) -> Iterator[Batch]:
        """All rows in batches of `size`; the last batch may be smaller."""
        for start in range(0, self.rows, size):
            stop = min(start + size, self.rows)
            yield self.batch(slice(start, stop), stop - start, workers)


def steps_of(rows: int, size: int) -> int:
    """Number of batches of `size` for `rows`."""
    return -(-rows // size)


def as_array(what: str, value: Any) -> Array | GroupedArray:
    """Converts an array-like to an array of numbers, without a copy of arrays. Raises DataError for other data."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if not isinstance(value, GroupedArray):
        _check_array_like(what, value)
    try:
        array = value if isinstance(value, (np.ndarray, GroupedArray)) else np.asarray(value)
    except ValueError:
        raise DataError(f"{what}: rows have different lengths, expected an array") from None
    if array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise DataError(f"{what}: got dtype {array.dtype}, expected numbers")
    if array.ndim == 0:
        raise DataError(f"{what}: got a single number, expected an array with rows")
    return array


#: What is wrong with rows of lists of different lengths.
RAGGED_TEXT = "rows have different lengths, expected an array: rows of one length, padded with ''"


def as_text(what: str, value: Any) -> Array | MappedText | GroupedArray:
    """Converts an array-like of text or bytes to an array of rows. Raises DataError for other data."""
    if isinstance(value, MappedText) or (isinstance(value, GroupedArray) and value.dtype == object):
        return value
    if isinstance(value, Strings):
        value = value.values
    _check_array_like(what, value)
    try:
        # Lists as objects: NumPy would make mixed text and bytes one type, and pad all to the longest.
        array = np.array(value, object) if isinstance(value, (list, tuple)) else np.asarray(value)
    except ValueError:
        raise DataError(f"{what}: {RAGGED_TEXT}") from None
    if array.dtype == object and any(isinstance(item, (list, tuple, np.ndarray)) for item in array.ravel()):
        raise DataError(f"{what}: {RAGGED_TEXT}")
    if array.dtype.kind not in "USOT":
        raise DataError(f"{what}: got dtype {array.dtype}, expected text")
    if array.ndim == 0:
        raise DataError(f"{what}: got a single text, expected an array with rows")
    return array


#: Arrays of rows, of which a list has one for each name.
_ARRAYS = (np.ndarray, torch.Tensor, MappedText, GroupedArray)
#: Attributes of objects that NumPy converts as a whole.
_ARRAY_LIKE = ("__array__", "__array_interface__", "__buffer__", "__dlpack__")


def _check_array_like(what: str, value: Any) -> None:
    """Raises DataError for an object that NumPy would convert item by item, however many items it has."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    plain = isinstance(value, (np.ndarray, np.generic, torch.Tensor, int, float, str, bytes, list, tuple, range))
    if plain or value is None or any(hasattr(value, name) for name in _ARRAY_LIKE) or _is_buffer(value):
        return
    raise DataError(f"{what}: got {type(value).__name__}, expected {TAKEN}")


def _is_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except TypeError:
        return False
    return True


def matched(what: str, given: Any, names: Sequence[str]) -> list[Any]:
    """One item for each name: of a dict by name, of a list by position, or a single array.

    Raises DataError for unknown names in a dict, and for another number of arrays.
    """
    if isinstance(given, Mapping):
        known = set(names)
        for name in given:
            if name not in known:
                raise DataError(f"{what}: " + unknown_name("name", name, names))
        return [given.get(name) for name in names]
    if isinstance(given, (list, tuple)) and (len(names) > 1 or _holds_arrays(given)):
        if len(given) != len(names):
            raise DataError(f"{what}: got {len(given)} arrays, expected {len(names)}: {list(names)}")
        return list(given)
    if len(names) > 1:
        raise DataError(f"{what}: got one array, expected {len(names)}: {list(names)}")
    return [given]


def _holds_arrays(given: Sequence[Any]) -> bool:
    return len(given) == 1 and (given[0] is None or isinstance(given[0], _ARRAYS))


def input_arrays(x: Any, specs: Sequence[TensorSpec]) -> list[Array | MappedText | GroupedArray]:
    """Arrays for the inputs, in order, adapted and checked. Raises DataError."""
    arrays: list[Array | MappedText | GroupedArray] = []
    for spec, given in zip(specs, matched("inputs", x, [spec.name for spec in specs]), strict=True):
        what = f"input '{spec.name}'"
        if given is None:
            raise DataError(f"{what} is missing")
        array = as_text(what, given) if spec.dtype == Strings.dtype else as_array(what, given)
        # As in Keras, a fixed number of rows applies to batches.
        arrays.append(_adapted(what, array, (None, *spec.shape[1:])))
    return arrays


def _adapted(what: str, array: Array | MappedText | GroupedArray, expected: Shape) -> Array | MappedText | GroupedArray:
    """The array with the rank of the input: as in Keras, a last axis of length 1 is added or dropped."""
    given = array.shape
    if array.ndim == len(expected) - 1 and expected[-1] == 1:
        array = array.reshape((*given, 1))
    elif array.ndim == len(expected) + 1 and array.shape[-1] == 1:
        array = array.reshape(given[:-1])
    fits = array.ndim == len(expected) and all(e in (None, g) for g, e in zip(array.shape, expected, strict=True))
    if not fits:
        raise ShapeError(what, given, expected)
    return array


def input_columns(
    arrays: Sequence[Array | MappedText | GroupedArray], specs: Sequence[TensorSpec], device: torch.device
) -> list[Column]:
    """Columns with the dtypes of the inputs. Raises DataError for elements that aren't text."""
    return [
        TextColumn(f"input '{spec.name}'", array)
        if spec.dtype == Strings.dtype or isinstance(array, MappedText)
        else NumberColumn(array, torch_dtype(spec.dtype), device)
        for array, spec in zip(arrays, specs, strict=True)
    ]


def same_rows(arrays: Mapping[str, Array | MappedText | GroupedArray | None]) -> int:
    """The common number of rows of all arrays. Raises DataError if they differ."""
    counts = {what: len(array) for what, array in arrays.items() if array is not None}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{what} has {count}" for what, count in counts.items())
        raise DataError(f"arrays have different numbers of rows: {shown}")
    return next(iter(counts.values()), 0)


def check_rows(arrays: Mapping[str, Array | MappedText | GroupedArray | None]) -> int:
    """The common number of rows of all arrays. Raises DataError if they differ or there are none."""
    rows = same_rows(arrays)
    if rows == 0:
        raise DataError("data has no rows")
    return rows


def class_weights(labels: Array | GroupedArray, weights: Mapping[int, float]) -> Array | GroupedArray:
    """A weight for each row by the class of its label; classes without a weight get 1 (Keras 3).

    Labels with a last axis longer than 1 are one-hot; others are class indices, rounded.
    """
    if isinstance(labels, GroupedArray):
        shape = labels.shape[:1] if labels.ndim == 1 else labels.shape[:-1]
        return labels.changed(lambda part, rows: _class_weights(part, weights), shape, np.dtype(np.float32))
    return _class_weights(labels, weights)


def _class_weights(labels: Array, weights: Mapping[int, float]) -> Array:
    if labels.ndim > 1 and labels.shape[-1] != 1:
        classes = np.argmax(labels, -1)
    else:
        classes = np.round(labels[..., 0] if labels.ndim > 1 else labels).astype(np.int64)
    known, places = np.unique(classes, return_inverse=True)
    by_class: Array = np.array([weights.get(int(value), 1.0) for value in known], np.float32)
    return np.asarray(by_class[places].reshape(classes.shape))


def split(structure: Any, at: int) -> tuple[Any, Any]:
    """Splits all arrays in lists and dicts into the rows before `at` and the rest; None stays None."""
    return _mapped(structure, lambda a: a[:at]), _mapped(structure, lambda a: a[at:])


def _mapped(structure: Any, change: Callable[[Any], Any]) -> Any:
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {key: _mapped(item, change) for key, item in structure.items()}
    if isinstance(structure, (list, tuple)) and any(isinstance(item, _ARRAYS) for item in structure):
        return [_mapped(item, change) for item in structure]
    return change(structure if isinstance(structure, _ARRAYS) else np.asarray(structure))
