"""Arrow's arrays as elements of tensors: numbers, or text as UTF-8.

Dates and times are numbers of seconds (since 1970-01-01 UTC, or since midnight) where numbers are asked for, and text
in ISO 8601 where text is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from layerserve.errors import InvalidArgument, InvalidTensor
from layerserve.values.tensors import Array

#: Arrow's numeric types. Only the floats have other names than in NumPy.
_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
_INTEGERS = {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_NUMBERS = {"bool", *_INTEGERS, *_FLOATS.values()}
_TEXT = {"string", "large_string", "string_view", "binary", "large_binary", "binary_view"}
_TIMES = ("date32", "date64", "timestamp", "time32", "time64", "duration")
#: Units of times in a second.
_UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

#: Number of elements that become Python's objects at once.
_MADE = 4096


class ArrowColumn:
    """A column of an Arrow type, as numbers or text."""

    def __init__(
        self,
        label: str,
        name: str,
        kind: Any,
        text: bool | None,
        fill: str | None,
        remedy: str = "; set `fill` to read another value in its place",
    ) -> None:
        """`text` is whether dates become text, `remedy` the next step after a missing value, for error texts.

        Raises InvalidTensor for types other than numbers, text and dates.
        """
        self.name = name
        self._what = f"{label}, column {name!r}"
        self._fill = fill
        self._remedy = remedy
        self._type = kind
        self._lists: list[Any] = []
        while _is_list(kind):
            self._lists.append(kind)
            kind = kind.value_type
        self._plain = kind.value_type if str(kind).startswith("dictionary<") else kind
        spelled = str(self._plain)
        self._timed = spelled.startswith(_TIMES)
        if spelled in _TEXT or (self._timed and text and not spelled.startswith("duration")):
            self.dtype = "string"
        elif self._timed or spelled.startswith("decimal"):
            self.dtype = "float64"
        else:
            self.dtype = _FLOATS.get(spelled, spelled)
            if self.dtype not in _NUMBERS:
                raise InvalidTensor(f"{self._what} has type {self._type}, expected numbers, text or dates")

    @property
    def is_list(self) -> bool:
        """Whether its fields are lists."""
        return bool(self._lists)

    def check_fill(self) -> None:
        """Raises InvalidArgument if the text to fill with isn't of the column's type."""
        self._filler()

    def _filler(self) -> Any:
        import pyarrow

        if self._fill is None:
            return None
        try:
            return pyarrow.scalar(self._fill).cast(self._plain)
        except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
            raise InvalidArgument(
                f"{self._what}: can't fill with {self._fill[:40]!r}, expected a value of type {self._plain}"
            ) from None

    def lengths(self, first: Any) -> tuple[int, ...]:
        """Returns the lengths of the lists, by those of the first row; None if there is no row."""
        lengths = []
        for kind in self._lists:
            if str(kind).startswith("fixed_size_list"):
                lengths.append(kind.list_size)
            else:
                lengths.append(len(first[0]) if first is not None and len(first) and first[0].is_valid else 0)
            if first is not None:
                first = first.flatten()
        return tuple(lengths)

    def _elements(self, array: Any, row: int, lengths: Sequence[int] | None = None) -> Any:
        """Returns the elements of all lists, filled. Raises InvalidTensor for missing ones and ragged lists."""
        rows = len(array)
        of_row = 1
        for depth, kind in enumerate(self._lists):
            self._check_valid(array, row, of_row)
            if not str(kind).startswith("fixed_size_list"):
                self._check_lengths(array, row, of_row, lengths[depth] if lengths is not None else None)
            array = array.flatten()
            of_row = len(array) // rows if rows else 1
        if array.null_count and self._fill is not None:
            if str(array.type).startswith("dictionary<"):
                array = array.dictionary_decode()
            return array.fill_null(self._filler())
        self._check_valid(array, row, of_row)
        return array

    def _check_valid(self, array: Any, row: int, of_row: int) -> None:
        if array.null_count:
            place = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
            raise InvalidTensor(
                f"{self._what}, row {row + place // max(1, of_row) + 1}: got no value (null), expected one"
                f"{self._remedy}"
            )

    def _check_lengths(self, array: Any, row: int, of_row: int, length: int | None) -> None:
        import pyarrow.compute as compute

        found = compute.list_value_length(array).to_numpy(zero_copy_only=False)
        length = (int(found[0]) if len(found) else 0) if length is None else length
        if (wrong := found != length).any():
            place = int(np.argmax(wrong))
            raise InvalidTensor(
                f"{self._what}, row {row + place // max(1, of_row) + 1}: got a list of {int(found[place])}, expected "
                f"{length}, as in the first row"
            )

    def numbers(self, array: Any, row: int, lengths: Sequence[int]) -> Array:
        """Returns the numbers of rows; `row` is the number of rows before them, `lengths` those of lists."""
        flat = self._elements(array, row, lengths)
        if str(flat.type).startswith("dictionary<"):
            flat = flat.dictionary_decode()
        if self._timed:
            found = seconds(flat)
        elif str(flat.type).startswith("decimal"):
            import pyarrow

            found = flat.cast(pyarrow.float64()).to_numpy(zero_copy_only=False)
        else:
            found = flat.to_numpy(zero_copy_only=False)
        return np.asarray(found).reshape(len(array), *lengths)

    def texts(self, array: Any, row: int, lengths: Sequence[int] | None = None) -> Iterator[bytes]:
        """Yields the texts of rows, one by one: a dictionary may hold one long text for all rows."""
        found = self._elements(array, row, lengths)
        if self._timed:
            found = _whole_microseconds(found)
        one_by_one = (element.as_py() for element in found)
        for value in one_by_one if str(found.type).startswith("dictionary<") else elements(found):
            yield value if isinstance(value, bytes) else _encoded(value)


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<", "list_view<", "large_list_view<"))


def elements(array: Any) -> Iterator[Any]:
    """Yields the elements of an array as Python's objects, made some at a time."""
    for start in range(0, len(array), _MADE):
        yield from array.slice(start, _MADE).to_pylist()


def _encoded(value: Any) -> bytes:
    return (value if isinstance(value, str) else value.isoformat()).encode()


def _whole_microseconds(array: Any) -> Any:
    """Returns times in a unit that Python's have. Nanoseconds are cut off."""
    import pyarrow

    kind = array.type
    if str(kind).startswith("timestamp[ns"):
        return array.cast(pyarrow.timestamp("us", kind.tz), safe=False)
    return array.cast(pyarrow.time64("us"), safe=False) if str(kind) == "time64[ns]" else array


def seconds(array: Any) -> Array:
    """Returns dates and times as float64: seconds since 1970-01-01 UTC, or since midnight."""
    import pyarrow

    kind = str(array.type)
    if kind.startswith("date32"):
        return np.asarray(array.cast(pyarrow.int32()).to_numpy(zero_copy_only=False) * 86400.0)
    unit = "ms" if kind.startswith("date64") else array.type.unit
    whole = array.cast(pyarrow.int32() if kind.startswith("time32") else pyarrow.int64())
    return np.asarray(whole.to_numpy(zero_copy_only=False) / _UNITS[unit])
