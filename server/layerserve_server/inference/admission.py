"""Admission: checks a request's tensors against a model's inputs, and converts them to its shapes and dtypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from layergraph.errors import unknown_name
from layerserve.values.tensors import overflows_bfloat16

from layerserve_server.errors import InvalidTensorError, MissingInputError, UnknownInputError
from layerserve_server.inference.runner import Array, Plan, TensorSpec

if TYPE_CHECKING:
    from layergraph.execution.sequence_padding import SequencePadding


@dataclass(frozen=True, slots=True)
class Admitted:
    """Converted arrays by input name, and their number of rows, the length of the first axis."""

    arrays: dict[str, Array]
    rows: int


class Admission:
    """Admission for the inputs of a plan, prepared for many requests."""

    def __init__(
        self,
        plan: Plan,
        model_inputs: Sequence[TensorSpec],
        outputs: tuple[str, ...],
        padding: SequencePadding | None = None,
    ) -> None:
        self.padding = padding
        self.joinable = plan.batched
        self.inputs = tuple(plan.input_specs)
        self.model_inputs = tuple(model_inputs)
        self._plan = plan
        # A request for all outputs by their names may lack inputs that a request without names has.
        self._names = outputs, tuple(spec.name for spec in self.inputs)
        fixed = self.joinable and all(None not in spec.shape[1:] for spec in self.inputs)
        #: Batch group of all requests admitted here; None if their shapes may differ in other axes than the rows.
        self.group: object = self._names if fixed else None

    def padded_group(self, arrays: Mapping[str, Array]) -> object:
        """Returns the batch group of a request whose sequences can be padded; None if they can't."""
        group = self.padding.group(arrays) if self.padding is not None else None
        return None if group is None else (self._names, group)

    def admit(self, tensors: Sequence[tuple[str, Array]]) -> Admitted:
        """See the function `admit`."""
        return admit(self._plan, self.model_inputs, tensors)


def admit(plan: Plan, model_inputs: Sequence[TensorSpec], tensors: Sequence[tuple[str, Array]]) -> Admitted:
    """Converts the tensors of a request to the inputs that a plan needs.

    Dtypes are converted if no value changes and, as in Keras, between floats. As in Keras, a missing last axis of
    length 1 is added and a superfluous one removed. Inputs that the plan doesn't need are dropped. Raises
    MissingInputError, UnknownInputError or InvalidTensorError.
    """
    given = by_name(tensors, model_inputs)
    needed = plan.input_specs
    missing = [spec.name for spec in needed if spec.name not in given]
    if missing:
        got = ", ".join(repr(name) for name in given) or "none"
        raise MissingInputError(
            f"missing input {' and '.join(map(repr, missing))}: got {got}, expected {names(needed)}"
        )
    arrays = {spec.name: fit_input(spec, given[spec.name]) for spec in needed}
    return Admitted(arrays, count_rows(arrays, needed))


def by_name(tensors: Sequence[tuple[str, Array]], specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """Returns tensors by input name. An empty name means the only input.

    Raises UnknownInputError if a name is empty or unknown, InvalidTensorError if an input is given twice.
    """
    known = {spec.name for spec in specs}
    given: dict[str, Array] = {}
    for name, array in tensors:
        if not name and len(specs) == 1:
            name = specs[0].name
        if not name:
            raise UnknownInputError(f"got an input without a name, but the model has {len(specs)}: {names(specs)}")
        if name not in known:
            raise UnknownInputError(unknown_name("input", name, known))
        if name in given:
            raise InvalidTensorError(f"input '{name}': given twice")
        given[name] = array
    return given


def fit_input(spec: TensorSpec, array: Array) -> Array:
    """Returns an array converted to the rank and dtype of an input. Raises InvalidTensorError if that can't be done."""
    label = f"input '{spec.name}'"
    return fit_dtype(label, fit_shape(label, spec, array), spec.dtype)


def fit_shape(label: str, spec: TensorSpec, array: Array) -> Array:
    """Returns an array with the rank of a spec. Raises InvalidTensorError if its rank or a length differs."""
    expected = spec.shape
    shape = array.shape
    if len(shape) == len(expected) - 1 and expected[-1] == 1 and shape:
        array = array[..., np.newaxis]
    elif len(shape) == len(expected) + 1 and shape[-1] == 1 and len(shape) > 1:
        array = array[..., 0]
    is_row = len(shape) == len(expected) - 1 and all(map(_fits, shape, expected[1:]))
    hint = ""
    if is_row:
        hint = "; add a first axis of length 1 for a single row"
    elif len(expected) == 4 and expected[-1] and len(shape) == 3 and all(map(_fits, shape, expected[:-1])):
        hint = f"; add a last axis of length {expected[-1]}, such as the channels of an image"
    if len(array.shape) != len(expected):
        raise InvalidTensorError(
            f"{label}: got {_axes(len(shape))}, shape {shape_text(shape)}, "
            f"expected {_axes(len(expected))}, shape {shape_text(expected)}{hint}"
        )
    for axis, (length, required) in enumerate(zip(array.shape, expected, strict=True)):
        if not _fits(length, required):
            raise InvalidTensorError(
                f"{label}: got length {length} on axis {axis}, shape {shape_text(shape)}, "
                f"expected {required}, shape {shape_text(expected)}{hint}"
            )
    return array


def _axes(count: int) -> str:
    return "1 axis" if count == 1 else f"{count} axes"


def _fits(length: int, required: int | None) -> bool:
    return required in (None, length)


def fit_dtype(label: str, array: Array, dtype: str) -> Array:
    """Returns an array converted to a dtype.

    As in Keras, floats are converted to floats of any precision. Integers are converted to integers or floats that
    represent them exactly, and floats never to integers. Raises InvalidTensorError for all other conversions.
    """
    kind = kind_of(array.dtype)
    if kind == "string" or dtype == "string":
        if kind != dtype:
            raise InvalidTensorError(f"{label}: got dtype {dtype_name(array)}, expected {dtype}")
        return array
    target = numpy_dtype(dtype)
    if array.dtype == target:
        if dtype == "bfloat16" and overflows_bfloat16(array):
            raise _too_large(label, array, dtype)
        return array
    target_kind = kind_of(target)
    if kind == "bool" and target_kind != "bool":
        return array.astype(target)
    if kind == "float" and target_kind == "float":
        with np.errstate(over="raise"):
            try:
                converted = array.astype(target)
            except FloatingPointError:
                raise _too_large(label, array, dtype) from None
        if dtype == "bfloat16" and overflows_bfloat16(converted):
            raise _too_large(label, array, dtype)
        return converted
    if kind == "int" and target_kind == "int":
        bounds = np.iinfo(target.name)
        check_range(label, array, int(bounds.min), int(bounds.max), dtype)
        return array.astype(target)
    if kind == "int" and target_kind == "float":
        # All integers up to 2 to the power of the significand's bits can be represented.
        exact = 2 ** (MANTISSA_BITS[dtype] + 1)
        check_range(label, array, -exact, exact, dtype)
        return array.astype(target)
    raise InvalidTensorError(
        f"{label}: got dtype {dtype_name(array)}, expected {dtype}; convert the array before sending it"
    )


def _too_large(label: str, array: Array, dtype: str) -> InvalidTensorError:
    return InvalidTensorError(f"{label}: got a finite {dtype_name(array)} that is too large for {dtype}")


#: Stored bits of the significand, by dtype.
MANTISSA_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}


def check_range(label: str, array: Array, low: int, high: int, dtype: str) -> None:
    """Raises InvalidTensorError if an integer is outside of [low, high]."""
    if not array.size:
        return
    for value in (int(array.min()), int(array.max())):
        if not low <= value <= high:
            raise InvalidTensorError(
                f"{label}: got {value} as {dtype_name(array)}, which {dtype} can't represent exactly"
            )


def count_rows(arrays: dict[str, Array], specs: Sequence[TensorSpec]) -> int:
    """Returns the common number of rows of all inputs with a row axis. Raises InvalidTensorError if they differ."""
    rows: dict[str, int] = {
        spec.name: arrays[spec.name].shape[0] for spec in specs if spec.shape and spec.shape[0] is None
    }
    if len(set(rows.values())) > 1:
        shown = ", ".join(f"'{name}' has {count}" for name, count in rows.items())
        raise InvalidTensorError(f"inputs differ in rows: {shown}; expected the same number for all")
    if rows:
        return next(iter(rows.values()))
    lengths: list[int] = [array.shape[0] for array in arrays.values() if array.ndim]
    return max(lengths, default=1)


def kind_of(dtype: np.dtype[np.generic]) -> str:
    """Returns "bool", "int", "float", "string", or else NumPy's kind letter."""
    if dtype.name == "bfloat16":
        return "float"
    return {"b": "bool", "i": "int", "u": "int", "f": "float", "O": "string", "S": "string", "U": "string"}.get(
        dtype.kind, dtype.kind
    )


def dtype_name(array: Array) -> str:
    """Returns the name of an array's dtype in requests."""
    return "string" if kind_of(array.dtype) == "string" else array.dtype.name


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """Returns the NumPy dtype of a spec's dtype: float32 for bfloat16, which NumPy doesn't have."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def shape_text(shape: Sequence[int | None]) -> str:
    """Returns a shape as Keras's summary has it: "(None, 784)"."""
    return str(tuple(shape))


def names(specs: Sequence[TensorSpec]) -> str:
    """Returns the quoted names of specs, separated by commas."""
    return ", ".join(repr(spec.name) for spec in specs)
