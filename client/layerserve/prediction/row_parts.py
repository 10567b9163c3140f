"""Predictions in parts: rows that are too many for one request, or that `batch_size` divides."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.v1.tensor_pb2 import Tensor
from layerserve.values.casting import sliced_later
from layerserve.values.inputs import as_input, encode_input, match
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array, itemsize

#: Size of a request above which its rows are sent in parts, and of these parts, in bytes. A server takes messages of
#: 256 MiB by default, and computes a part while the next one is made.
PART_BYTES = 32 << 20


@dataclass(frozen=True)
class Rows:
    """The inputs of a prediction, matched to those of the model. What is sliced later isn't read as a whole."""

    values: Sequence[tuple[str, Any, TensorSpec | None]]

    @classmethod
    def of(cls, inputs: Any, specs: Sequence[TensorSpec]) -> Rows:
        """Returns the rows of what a caller gives. Raises as `match` and `as_input` do."""
        return cls(
            [
                (name, value if _sliced_later(value, spec) else as_input(value, name, spec), spec)
                for name, value, spec in match(inputs, specs, "input")
            ]
        )

    @property
    def bytes(self) -> int:
        """Approximate size in a request, in bytes."""
        return sum(_bytes(value, spec) for _, value, spec in self.values)

    @property
    def count(self) -> int:
        """Number of rows. Raises InvalidArgument if the inputs have different numbers of them, or none has rows."""
        counts = {name: len(value) for name, value, _ in self.values if value.shape}
        if len(counts) < len(self.values) or len(set(counts.values())) != 1:
            listed = ", ".join(f"{name} has {count}" for name, count in counts.items())
            raise InvalidArgument(f"inputs: got {listed or 'no rows'}, expected the same number of rows for each input")
        return next(iter(counts.values()))

    def whole(self) -> list[Tensor]:
        """Returns all rows. Raises InvalidTensor if a value can't be converted."""
        return [encode_input(value, name, spec) for name, value, spec in self.values]

    def parts(self, size: int) -> Iterator[tuple[int, list[Tensor]]]:
        """Yields the rows in parts of this size, with the number of rows in each. Raises InvalidTensor."""
        for start in range(0, self.count, size):
            tensors = [encode_input(value[start : start + size], name, spec) for name, value, spec in self.values]
            yield min(size, self.count - start), tensors


def part_size(rows: Rows, batch_size: int | None) -> int:
    """Returns the number of rows in a request; 0 for all of them. Raises InvalidArgument for a wrong `batch_size`."""
    if batch_size is None:
        if (size := rows.bytes) <= PART_BYTES:
            return 0
        count = rows.count
        return 0 if count < 2 else max(1, count * PART_BYTES // size)
    whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if not whole or batch_size < 1:
        raise InvalidArgument(f"batch_size: got {batch_size!r}, expected a whole number from 1")
    return int(batch_size) if rows.count > batch_size else 0


def dependent_rows(model: str, count: int) -> InvalidArgument:
    """Returns the error for `batch_size` with a model whose rows depend on one another."""
    return InvalidArgument(
        f"model {model!r}: its outputs aren't computed row by row: got a batch_size for {count} rows, expected none; "
        "without it they are sent in one request"
    )


def check_part(outputs: Mapping[str, Array], count: int, first: Mapping[str, Array]) -> None:
    """Raises InvalidArgument if an output, which may be any tensor of the graph, doesn't have a row for each row.

    Also if the outputs don't go together with those of the first part, such as rows of another length.
    """
    if outputs.keys() != first.keys():
        raise InvalidArgument(f"outputs: got {', '.join(outputs)} for a part of the rows, expected {', '.join(first)}")
    for name, array in outputs.items():
        if array.shape[:1] != (count,):
            raise InvalidArgument(
                f"output {name!r}: got shape {array.shape} for {count} rows, expected a row for each; "
                "send all rows in one request, without batch_size"
            )
        if array.shape[1:] != first[name].shape[1:] or array.dtype != first[name].dtype:
            raise InvalidArgument(
                f"output {name!r}: got rows of {array.dtype}{list(array.shape[1:])} for a part of the rows, expected "
                f"{first[name].dtype}{list(first[name].shape[1:])} as for the first; send all rows in one request"
            )


def _sliced_later(value: Any, spec: TensorSpec | None) -> bool:
    # The size of text is known from its elements only.
    return sliced_later(value) and spec is not None and spec.dtype != "string"


def _bytes(value: Any, spec: TensorSpec | None) -> int:
    if isinstance(value, np.ndarray) and value.dtype == object:
        return sum(map(len, value.ravel().tolist())) + 4 * int(value.size)
    size = value.dtype.itemsize if spec is None or spec.dtype == "string" else itemsize(spec.dtype)
    return math.prod(map(int, value.shape)) * size
