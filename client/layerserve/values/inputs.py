"""Matching of a user's arrays to a model's inputs or outputs, by name or position."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from layerserve.errors import InvalidArgument, MissingInput, UnknownInput, UnknownOutput
from layerserve.v1.tensor_pb2 import Tensor
from layerserve.values.casting import as_array, cast, default_cast, yields_batches
from layerserve.values.image_elements import image_elements
from layerserve.values.tables import shape_text
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array, encode


def encode_inputs(inputs: Any, specs: Sequence[TensorSpec]) -> list[Tensor]:
    """Returns the tensors of a Predict request.

    `inputs` is a mapping by name, a DataFrame, a list in the model's order, or the array of the only input. Values are
    converted to the inputs' dtypes (see `layerserve.values.casting`). A mapping may lack inputs: which are required
    depends on the requested outputs, and is checked by the server. Raises UnknownInput, MissingInput, InvalidTensor.
    """
    return [
        encode_input(as_input(value, name, spec), name, spec) for name, value, spec in match(inputs, specs, "input")
    ]


def as_input(value: Any, name: str, spec: TensorSpec | None) -> Array:
    """Converts the value of an input to an array: of bytes, if it is images and the input takes them so.

    Raises InvalidTensor, InvalidArgument for what yields batches, and OSError if an image can't be read.
    """
    if spec is not None and spec.encoding and (elements := image_elements(value)) is not None:
        return elements
    if isinstance(value, os.PathLike):
        raise InvalidArgument(
            f"{name}: got {value!r}, expected an array of rows; read the file, such as [PIL.Image.open(path)] or "
            "numpy.load(path)"
        )
    if yields_batches(value):
        raise InvalidArgument(
            f"{name}: got {type(value).__name__}, which yields batches, expected an array of rows; client.predict_many "
            "takes batches"
        )
    return as_array(value, name)


def encode_input(value: Any, name: str, spec: TensorSpec | None) -> Tensor:
    """Returns the tensor of an array, or of what converts to one. Raises InvalidTensor."""
    array = as_array(value, name)
    # Without a spec from the server, Keras's default dtype is the best guess.
    dtype = sent_dtype(array, spec) if spec else None
    array = cast(array, dtype, name) if dtype else default_cast(array, name)
    return encode(array, name, dtype)


def sent_dtype(array: Array, spec: TensorSpec) -> str:
    """Returns the dtype in which an array is sent for an input."""
    return "string" if spec.encoding and array.dtype == object else spec.dtype


def match(
    values: Any, specs: Sequence[TensorSpec], kind: str, *, targets: bool = False
) -> list[tuple[str, Any, TensorSpec | None]]:
    """Returns (name, value, spec) for each value of a mapping, a list in the model's order, or a single array.

    A DataFrame is a mapping of its columns if the model has several inputs or all columns are inputs; otherwise it is
    an array of rows, as in Keras.

    `kind` is "input" or "output", for error texts. `targets` means that the values are targets, whose rank may differ
    from the output's. Raises UnknownInput or UnknownOutput, MissingInput, and InvalidArgument for a list of a wrong
    length or of rows by name.
    """
    known = {spec.name: spec for spec in specs}
    if _is_data_frame(values):
        columns = {str(name): values[name].to_numpy() for name in values.columns}
        values = columns if len(specs) > 1 or columns.keys() <= known.keys() else values.to_numpy()
    if isinstance(values, Mapping):
        for name in values:
            if known and name not in known:
                raise (UnknownInput if kind == "input" else UnknownOutput)(unknown_name(kind, name, known))
        return [(str(name), value, known.get(name)) for name, value in values.items()]
    if isinstance(values, (list, tuple)) and values and all(isinstance(value, Mapping) for value in values):
        # As in TensorFlow Serving's "instances", or from `to_dict("records")`.
        raise InvalidArgument(
            f"{kind}s: got a list of dicts, one for each row, expected one dict with an array for each {kind}: "
            f"{', '.join(known)}; pandas.DataFrame(rows) makes columns of rows"
        )
    if len(specs) > 1:
        return _match_positions(values, specs, kind)
    spec = specs[0] if specs else None
    if _is_list_of_one(values, spec, targets):
        values = values[0]
    return [(spec.name if spec else "", values, spec)]


def _is_data_frame(values: Any) -> bool:
    """Whether this is a DataFrame of pandas, Polars or a similar package. None of them is imported."""
    return hasattr(values, "columns") and hasattr(values, "to_numpy") and hasattr(values, "__getitem__")


def _match_positions(values: Any, specs: Sequence[TensorSpec], kind: str) -> list[tuple[str, Any, TensorSpec | None]]:
    names = [spec.name for spec in specs]
    if not isinstance(values, (list, tuple)):
        kind_of = f"array of shape {shape_text(values.shape)}" if hasattr(values, "shape") else type(values).__name__
        raise MissingInput(f"{kind}s: got one {kind_of}, expected a dict or a list of {len(specs)}: {', '.join(names)}")
    if len(values) != len(specs):
        error = MissingInput if len(values) < len(specs) else InvalidArgument
        raise error(f"{kind}s: got a list of {len(values)}, expected {len(specs)}: {', '.join(names)}")
    return [(spec.name, value, spec) for spec, value in zip(specs, values, strict=True)]


def _is_list_of_one(values: Any, spec: TensorSpec | None, targets: bool) -> bool:
    """Whether `[array]` is a list with the only input, as in Keras, rather than a batch of one row.

    Decided by the rank: for an input of shape (rows, 3), an array with two axes is the input, with one axis a row.
    """
    if not isinstance(values, (list, tuple)) or len(values) != 1:
        return False
    axes = len(getattr(values[0], "shape", ()))
    if targets or spec is None:
        return axes > 0
    return axes == len(spec.shape)


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Returns the error text for an unknown name, with similar names or else all."""
    choices = list(known)
    near = difflib.get_close_matches(str(name), choices, n=3)
    if near:
        return f"unknown {kind} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {kind} {name!r}; the model has {', '.join(map(repr, choices))}"
