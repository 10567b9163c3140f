"""TensorProto messages to arrays and back.

The elements of a TensorProto are in `tensor_content`, or in a field by dtype, whose last element stands for those that
are missing after it. Replies have them in the latter, as TensorFlow Serving does by default: clients may read the field
instead of calling `make_ndarray`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from layerserve import errors as codec_errors
from layerserve.values import tensors

from layerserve_server.errors import InvalidTensorError, safe_text
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import (
    DataType,
    TensorProto,
    TensorShapeProto,
)
from layerserve_server.inference.runner import Array
from layerserve_server.transport.chunking import CHUNK_ELEMENTS, as_array

#: Maximum size of an array whose message has fewer elements than the array, in bytes: its sender pays for few.
MAX_REPEATED_BYTES = 1 << 20


class WireType(NamedTuple):
    """The number of a dtype, the field with its elements, and whether that has the bytes of an array."""

    number: DataType.ValueType
    field: str
    raw: bool = False


#: By name of dtype.
WIRE_TYPES = {
    "float32": WireType(DataType.DT_FLOAT, "float_val", raw=True),
    "float64": WireType(DataType.DT_DOUBLE, "double_val", raw=True),
    "complex64": WireType(DataType.DT_COMPLEX64, "scomplex_val", raw=True),
    "complex128": WireType(DataType.DT_COMPLEX128, "dcomplex_val", raw=True),
    "float16": WireType(DataType.DT_HALF, "half_val"),
    "bfloat16": WireType(DataType.DT_BFLOAT16, "half_val"),
    "int8": WireType(DataType.DT_INT8, "int_val"),
    "int16": WireType(DataType.DT_INT16, "int_val"),
    "int32": WireType(DataType.DT_INT32, "int_val"),
    "int64": WireType(DataType.DT_INT64, "int64_val"),
    "uint8": WireType(DataType.DT_UINT8, "int_val"),
    "uint16": WireType(DataType.DT_UINT16, "int_val"),
    "uint32": WireType(DataType.DT_UINT32, "uint32_val"),
    "uint64": WireType(DataType.DT_UINT64, "uint64_val"),
    "bool": WireType(DataType.DT_BOOL, "bool_val", raw=True),
    "string": WireType(DataType.DT_STRING, "string_val"),
}
_NAMES: dict[int, str] = {wire.number: name for name, wire in WIRE_TYPES.items()}
#: Number of the field by its name.
_NUMBERS = {field.name: field.number for field in TensorProto.DESCRIPTOR.fields}
#: Size of an element by the number of a field that has the bytes of an array of numbers.
RAW_FIELDS = {
    _NUMBERS[wire.field]: tensors.itemsize(name) for name, wire in WIRE_TYPES.items() if wire.raw and name != "bool"
}
CONTENT_FIELD = TensorProto.TENSOR_CONTENT_FIELD_NUMBER


def field_number(dtype: str) -> int:
    """Returns the number of the field that has the elements of a dtype."""
    return _NUMBERS[WIRE_TYPES[dtype].field]


@dataclass(frozen=True)
class TensorFlowTensor:
    """A tensor of a PredictRequest (see `prediction.predict_protocol.GivenTensor`)."""

    name: str
    _message: TensorProto

    @property
    def dtype(self) -> str:
        return _NAMES.get(self._message.dtype, "")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Empty for an unknown rank, which `array` refuses."""
        shape = self._message.tensor_shape
        return () if shape.unknown_rank else tuple(dim.size for dim in shape.dim)

    @property
    def data(self) -> bytes:
        return self._message.tensor_content

    def raw_bytes(self, number: int) -> int:
        """Returns the size of the elements in `tensor_content`, or in a field of `RAW_FIELDS`, in bytes."""
        if number == CONTENT_FIELD:
            return len(self.data)
        if not self.dtype or number != field_number(self.dtype) or self.data:
            return -1
        values: Sequence[Any] = getattr(self._message, WIRE_TYPES[self.dtype].field)
        parts = 2 if self.dtype.startswith("complex") else 1
        return len(values) * RAW_FIELDS[number] // parts

    def array(self) -> Array:
        """See `prediction.predict_protocol.GivenTensor`."""
        kind = self.dtype
        if not kind:
            known = ", ".join(DataType.Name(wire.number) for wire in WIRE_TYPES.values())
            raise self._error(f"dtype number {self._message.dtype}", f"one of {known}")
        if self._message.tensor_shape.unknown_rank:
            raise self._error("a shape of unknown rank", "a length for each axis")
        try:
            if not self.data:
                return self._elements(kind)
            if kind == "string":
                return self._strings_of_content()
            return tensors.decode_data(self.data, kind, self.shape, self.name)
        except codec_errors.InvalidTensor as error:
            raise self._error(error.got, error.expected) from error

    def _elements(self, kind: str) -> Array:
        """Decodes the elements in the field of the dtype."""
        count = tensors.element_count(self.shape, kind, self.name)
        field = WIRE_TYPES[kind].field
        values: Sequence[Any] = getattr(self._message, field)
        given = len(values) // 2 if kind.startswith("complex") else len(values)
        if given > count or (count and not given) or (kind.startswith("complex") and len(values) % 2):
            expected = f"{count} elements of {kind}" + (", or fewer, of which the last is repeated" if given else "")
            raise self._error(f"{len(values)} numbers in {field} and no tensor_content", expected)
        size = count * (tensors.itemsize(kind) if kind != "string" else np.dtype(object).itemsize)
        if given < count and size > MAX_REPEATED_BYTES:
            raise self._error(
                f"{given} elements for shape {list(self.shape)}",
                f"all {count}: at most {MAX_REPEATED_BYTES} bytes are filled with repeated elements",
            )
        array = self._converted(kind, values)
        if given < count:
            array = np.concatenate([array, np.repeat(array[-1:], count - given)])
        return array.reshape(self.shape)

    def _converted(self, kind: str, values: Sequence[Any]) -> Array:
        """Returns the elements in a field as an array with one axis."""
        if kind.startswith("complex"):
            parts: Array = as_array(values, "<f4" if kind == "complex64" else "<f8")
            return parts.view(tensors.NUMPY_DTYPES[kind])
        if kind in ("float16", "bfloat16"):
            bits = self._in_range(as_array(values, np.int32), "uint16")
            return tensors.decode_data(bits.tobytes(), kind, (len(values),), self.name)
        if WIRE_TYPES[kind].field == "int_val":
            return self._in_range(as_array(values, np.int32), kind)
        return as_array(values, tensors.NUMPY_DTYPES[kind])

    def _in_range(self, array: Array, kind: str) -> Array:
        bounds = np.iinfo(kind)
        if array.size and not bounds.min <= array.min() <= array.max() <= bounds.max:
            outside = array[(array < bounds.min) | (array > bounds.max)][0]
            raise self._error(f"the element {outside}", f"{bounds.min} to {bounds.max}, as in {kind}")
        return array.astype(tensors.NUMPY_DTYPES[kind])

    def _strings_of_content(self) -> Array:
        """Decodes strings in `tensor_content`: all lengths as varints, then the bytes."""
        content, count = self.data, tensors.element_count(self.shape, "string", self.name)
        # Before the array is allocated: each length takes a byte.
        if count > len(content):
            raise self._error(f"{len(content)} bytes of tensor_content", f"at least {count} for {count} strings")
        at, lengths = 0, []
        for _ in range(count):
            length = shift = 0
            while True:
                if at >= len(content) or shift > 63:
                    raise self._error("tensor_content that ends within a length", f"{count} strings")
                byte = content[at]
                at, length, shift = at + 1, length | (byte & 127) << shift, shift + 7
                if byte < 128:
                    break
            lengths.append(length)
        if at + sum(lengths) != len(content):
            raise self._error(f"{len(content) - at} bytes of text in tensor_content", f"{sum(lengths)}, by its lengths")
        texts: Array = np.empty(count, dtype=object)
        for index, length in enumerate(lengths):
            texts[index] = content[at : at + length]
            at += length
        return texts.reshape(self.shape)

    def _error(self, got: str, expected: str) -> InvalidTensorError:
        return InvalidTensorError(f"tensor '{safe_text(self.name, 80)}': got {got}, expected {expected}")


def wire_shape(shape: Sequence[int | None]) -> TensorShapeProto:
    """Returns the message for a shape; None means an axis of any length."""
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=-1 if length is None else length) for length in shape])


def encode(array: Array) -> TensorProto:
    """Returns the message with an array's elements in the field of its dtype. Raises codec_errors.InvalidTensor."""
    message = TensorProto()
    for part in parts_of(array):
        message.MergeFromString(part)
    return message


def parts_of(array: Array) -> Iterator[bytes]:
    """Yields the parts of the serialized message with an array's elements, as `encode`."""
    kind = tensors.array_dtype(array)
    wire = WIRE_TYPES[kind]
    yield TensorProto(dtype=wire.number, tensor_shape=wire_shape(array.shape)).SerializeToString()
    values: Any = array.ravel()
    if kind in ("float16", "bfloat16"):
        values = values.view(np.uint16)
    elif kind == "complex64":
        values = values.view(np.float32)
    elif kind == "complex128":
        values = values.view(np.float64)
    for start in range(0, len(values), CHUNK_ELEMENTS):
        elements = values[start : start + CHUNK_ELEMENTS].tolist()
        if kind == "string":
            elements = [text.encode() if isinstance(text, str) else text for text in elements]
        # Repeated fields may be written in several parts.
        piece = TensorProto()
        getattr(piece, wire.field).extend(elements)
        yield piece.SerializeToString()
