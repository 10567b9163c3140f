"""Do these tensors fit this model? Gives arrays that do, or a typed error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from layergraph.errors import unknown_name

from layerserve_server.errors import InvalidTensorError, MissingInputError, UnknownInputError
from layerserve_server.inference.runner import Array, Plan, TensorSpec

if TYPE_CHECKING:
    from layergraph.execution.sequence_padding import SequencePadding


@dataclass(frozen=True, slots=True)
class Admitted:
    """Arrays that fit, by input name, and their rows: the length of their first axis, at least 0."""

    arrays: dict[str, Array]
    rows: int


class Admission:
    """What a plan takes, made ready for many requests."""

    def __init__(
        self,
        plan: Plan,
        model_inputs: Sequence[TensorSpec],
        outputs: tuple[str, ...],
        padding: SequencePadding | None = None,
    ) -> None:
        self.padding = padding
        self._outputs = outputs
        self.joinable = plan.batched
        self.inputs = tuple(plan.input_specs)
        self.model_inputs = tuple(model_inputs)
        self._plan = plan
        fixed = self.joinable and all(None not in spec.shape[1:] for spec in self.inputs)
        #: What all requests admitted here may run together with, if their shapes differ in nothing but rows.
        self.group: tuple[str, ...] | None = outputs if fixed else None

    def padded_group(self, arrays: Mapping[str, Array]) -> object:
        """What a request's sequences may be padded to run together with; None where they aren't padded."""
        group = self.padding.group(arrays) if self.padding is not None else None
        return None if group is None else (self._outputs, group)

    def admit(self, tensors: Sequence[tuple[str, Array]]) -> Admitted:
        """As the function of this name."""
        return admit(self._plan, self.model_inputs, tensors)


def admit(plan: Plan, model_inputs: Sequence[TensorSpec], tensors: Sequence[tuple[str, Array]]) -> Admitted:
    """Fits the tensors of a request to the inputs that a plan needs.

    Types are converted where no value changes, or as Keras does between floats; a missing or extra last axis of length
    1 is mended, as Keras does. Inputs that the plan doesn't need are left out. Raises an InvalidRequestError.
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
    """The tensors by input name. An empty name stands for the only input. Raises an InvalidRequestError."""
    known = {spec.name for spec in specs}
    given: dict[str, Array] = {}
    for name, array in tensors:
        if not name and len(specs) == 1:
            name = specs[0].name
        if not name:
            raise UnknownInputError(f"an input has no name, and the model has {len(specs)}: {names(specs)}")
        if name not in known:
            raise UnknownInputError(unknown_name("input", name, known))
        if name in given:
            raise InvalidTensorError(f"input '{name}': given twice")
        given[name] = array
    return given


def fit_input(spec: TensorSpec, array: Array) -> Array:
    """An array with the dtype and rank of an input. Raises InvalidTensorError where it doesn't fit."""
    label = f"input '{spec.name}'"
    return fit_dtype(label, fit_shape(label, spec, array), spec.dtype)


def fit_shape(label: str, spec: TensorSpec, array: Array) -> Array:
    """The array with the rank of the spec. Raises InvalidTensorError for another rank or length."""
    want = spec.shape
    shape = array.shape
    if len(shape) == len(want) - 1 and want[-1] == 1 and shape:
        array = array[..., np.newaxis]
    elif len(shape) == len(want) + 1 and shape[-1] == 1 and len(shape) > 1:
        array = array[..., 0]
    if len(array.shape) != len(want):
        hint = ""
        if len(shape) == len(want) - 1 and all(w in (None, g) for w, g in zip(want[1:], shape, strict=True)):
            hint = "; a single row needs a first axis of length 1"
        raise InvalidTensorError(
            f"{label}: got {len(shape)} axes, shape {shape_text(shape)}, "
            f"expected {len(want)} axes, shape {shape_text(want)}{hint}"
        )
    for axis, (length, wanted) in enumerate(zip(array.shape, want, strict=True)):
        if wanted not in (None, length):
            raise InvalidTensorError(
                f"{label}: got length {length} on axis {axis}, shape {shape_text(shape)}, "
                f"expected {wanted}, shape {shape_text(want)}"
            )
    return array


def fit_dtype(label: str, array: Array, dtype: str) -> Array:
    """The array with another dtype, if no value is lost by it. Raises InvalidTensorError.

    Floats become floats of any precision, as in Keras. Integers become integers or floats that hold their very values.
    Floats never become integers.
    """
    came = kind_of(array.dtype)
    if came == "string" or dtype == "string":
        if came != dtype:
            raise InvalidTensorError(f"{label}: got dtype {came_name(array)}, expected {dtype}")
        return array
    want = numpy_dtype(dtype)
    if array.dtype == want:
        return array
    to = kind_of(want)
    if came == "bool" and to != "bool":
        return array.astype(want)
    if came == "float" and to == "float":
        with np.errstate(over="raise"):
            try:
                return array.astype(want)
            except FloatingPointError:
                raise InvalidTensorError(
                    f"{label}: got a finite {came_name(array)} that is too large for {dtype}"
                ) from None
    if came == "int" and to == "int":
        bounds = np.iinfo(want.name)
        check_range(label, array, int(bounds.min), int(bounds.max), dtype)
        return array.astype(want)
    if came == "int" and to == "float":
        # Every integer up to 2 to the power of the significand's bits is a float of its own.
        exact = 2 ** (MANTISSA_BITS[dtype] + 1)
        check_range(label, array, -exact, exact, dtype)
        return array.astype(want)
    raise InvalidTensorError(f"{label}: got dtype {came_name(array)}, expected {dtype}; convert it on your side")


#: Stored bits of the significand.
MANTISSA_BITS = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}


def check_range(label: str, array: Array, low: int, high: int, dtype: str) -> None:
    """Raises InvalidTensorError for an integer outside of low .. high."""
    if not array.size:
        return
    for value in (int(array.min()), int(array.max())):
        if not low <= value <= high:
            raise InvalidTensorError(f"{label}: got {value} as {came_name(array)}, which {dtype} can't hold exactly")


def count_rows(arrays: dict[str, Array], specs: Sequence[TensorSpec]) -> int:
    """The rows that all inputs with rows have. Raises InvalidTensorError where they differ."""
    rows: dict[str, int] = {
        spec.name: arrays[spec.name].shape[0] for spec in specs if spec.shape and spec.shape[0] is None
    }
    if len(set(rows.values())) > 1:
        shown = ", ".join(f"'{name}' has {count}" for name, count in rows.items())
        raise InvalidTensorError(f"inputs differ in rows: {shown}; expected as many for each")
    if rows:
        return next(iter(rows.values()))
    lengths: list[int] = [array.shape[0] for array in arrays.values() if array.ndim]
    return max(lengths, default=1)


def kind_of(dtype: np.dtype[np.generic]) -> str:
    """bool, int, float, string, or NumPy's kind letter."""
    if dtype.name == "bfloat16":
        return "float"
    return {"b": "bool", "i": "int", "u": "int", "f": "float", "O": "string", "S": "string", "U": "string"}.get(
        dtype.kind, dtype.kind
    )


def came_name(array: Array) -> str:
    """The dtype of an array, as requests name it."""
    return "string" if kind_of(array.dtype) == "string" else array.dtype.name


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """NumPy's dtype of a spec's. NumPy has no bfloat16: such values come, and go on, as the float32 that holds them."""
    return np.dtype("float32" if dtype == "bfloat16" else dtype)


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape for people: "(rows, 784)", "(rows, any, 3)"."""
    shown = [("rows" if axis == 0 else "any") if length is None else str(length) for axis, length in enumerate(shape)]
    return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"


def names(specs: Sequence[TensorSpec]) -> str:
    """Names for people."""
    return ", ".join(repr(spec.name) for spec in specs)
