"""Serialization of ModelInferResponse messages, with the constant parts serialized in advance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
from layerserve.values import tensors
from layerserve.values.wire import WIRE_TYPES, tag, varint

from layerserve_server.errors import InvalidRequestError
from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array
from layerserve_server.protocols.inference.inference_pb2 import InferParameter, ModelInferResponse
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.open_inference.datatypes import datatype
from layerserve_server.services.prediction.encoder import cut, fill_each, joined
from layerserve_server.services.prediction.places import NO_SINKS, REGION, REGION_OFFSET, REGION_SIZE, Place, Sink

RAW_TAG = tag(ModelInferResponse.RAW_OUTPUT_CONTENTS_FIELD_NUMBER)
#: Dtypes whose elements are sent in another form than arrays have them.
CONVERTED = frozenset({"string", "bfloat16"})
#: Maximum number of cached heads, one per shapes of the outputs: clients choose the number of rows.
MAX_HEADS = 1024
#: Maximum number of elements of an output whose classes are asked for, as in Triton, and of classes in a reply: texts
#: are made with Python's lock held.
MAX_CLASSIFIED = 1_000_000
MAX_CLASSES = 100_000


class InferEncoder:
    """Encodes replies to requests for the same outputs of a version."""

    def __init__(
        self,
        version: LoadedVersion,
        outputs: Sequence[tuple[str, str, int]],
        labels: Mapping[str, Sequence[bytes]] = {},
    ) -> None:
        """`outputs` are name and dtype of each output, and the number of classes to return, or 0 for the numbers.

        `labels` are the labels of classes, by output.
        Raises InvalidTensorError if the protocol lacks a dtype.
        """
        self._head = ModelInferResponse(model_name=version.name, model_version=str(version.version)).SerializeToString()
        #: Name and dtype of each output, and the number of classes.
        self.outputs = tuple(outputs)
        #: Ends of the texts of classes by output: a colon and the label, or nothing.
        self._ends = {name: [b":" + label if label else b"" for label in of_one] for name, of_one in labels.items()}
        for name, dtype, _ in outputs:
            datatype(dtype, name)
        #: Everything but elements and id, by dtype and shape of each output.
        self._heads: dict[tuple[tuple[str, tuple[int, ...]], ...], bytes] = {}

    def fill(self, results: Arrays, id: str, sinks: Mapping[str, Sink] = NO_SINKS) -> bytes:
        """Returns the serialized reply with these arrays, but for those that `sinks` take. Raises as they do."""
        arrays = [
            classes(results[name], name, count, self._ends.get(name, ())) if count else results[name]
            for name, _, count in self.outputs
        ]
        kinds = [self.kind(array, dtype) for array, (_, dtype, _) in zip(arrays, self.outputs, strict=True)]
        forms = tuple((kind, array.shape) for kind, array in zip(kinds, arrays, strict=True))
        parts: list[Any] = []
        places: dict[str, Place] = {}
        for kind, array, (name, *_) in zip(kinds, arrays, self.outputs, strict=True):
            content: Any
            if kind in CONVERTED:
                content = tensors.encode_data(array, kind, name)
                size = len(content)
            else:
                content, size = np.ascontiguousarray(array), array.nbytes
            if name in sinks:
                sinks[name].write(content)
                places[name] = replace(sinks[name].place, size=size)
                # Clients take the contents by the index of the output.
                content, size = b"", 0
            parts += (RAW_TAG, varint(size), content)
        parts.insert(0, self._placed(forms, places) if places else self._describe(forms))
        if id:
            parts.append(ModelInferResponse(id=id).SerializeToString())
        return joined(parts)

    def split(self, results: Arrays, rows: int, ids: Sequence[str]) -> list[bytes]:
        """Returns a serialized reply for each id, with the next `rows` rows of the results each."""
        kinds = [self.kind(results[name], dtype) for name, dtype, _ in self.outputs]
        if not CONVERTED.isdisjoint(kinds) or any(count for *_, count in self.outputs):
            return fill_each(self, results, rows, ids)
        arrays = [results[name] for name, *_ in self.outputs]
        head = self._describe(
            tuple((kind, (rows, *array.shape[1:])) for kind, array in zip(kinds, arrays, strict=True))
        )
        columns = [cut(array, RAW_TAG + varint(array.nbytes // len(ids)), len(ids)) for array in arrays]
        messages = [head + b"".join(parts) for parts in zip(*columns, strict=True)]
        return [
            message + ModelInferResponse(id=id).SerializeToString() if id else message
            for message, id in zip(messages, ids, strict=True)
        ]

    def _describe(self, forms: tuple[tuple[str, tuple[int, ...]], ...]) -> bytes:
        head = self._heads.get(forms)
        if head is None:
            if len(self._heads) >= MAX_HEADS:
                self._heads = {}
            head = self._heads[forms] = self._placed(forms, {})
        return head

    def _placed(self, forms: tuple[tuple[str, tuple[int, ...]], ...], places: Mapping[str, Place]) -> bytes:
        """Returns the same for a reply without the elements that are in these places."""
        outputs = [
            ModelInferResponse.InferOutputTensor(
                name=name,
                datatype=datatype(kind, name),
                shape=shape,
                parameters=_parameters(places[name]) if name in places else {},
            )
            for (name, *_), (kind, shape) in zip(self.outputs, forms, strict=True)
        ]
        return self._head + ModelInferResponse(outputs=outputs).SerializeToString()

    @staticmethod
    def kind(array: Array, dtype: str) -> str:
        """Returns the dtype as which an output is sent: arrays have bfloat16 as float32, which NumPy lacks."""
        held = WIRE_TYPES.get(array.dtype) or tensors.array_dtype(array)
        return "bfloat16" if (held, dtype) == ("float32", "bfloat16") else held


def _parameters(place: Place) -> dict[str, InferParameter]:
    """Returns the parameters of an output that is in shared memory."""
    return {
        REGION: InferParameter(string_param=place.region),
        REGION_OFFSET: InferParameter(int64_param=place.offset),
        REGION_SIZE: InferParameter(int64_param=place.size),
    }


def classes(array: Array, name: str, count: int, ends: Sequence[bytes] = ()) -> Array:
    """Returns the `count` largest elements of each row as texts "value:index:label", largest first, as Triton does.

    `ends` are the ends ":label" by index; without one, a text is "value:index". The result has shape (rows, count),
    with fewer columns if rows have fewer elements. Raises InvalidRequestError if the output isn't numbers, or if there
    are too many.
    """
    label = f"output '{name}': parameter 'classification'"
    # The beginnings of these texts are Triton's.
    if array.dtype.kind not in "biuf":
        raise InvalidRequestError(
            f"{label}: class result not available for output due to unsupported type 'BYTES', expected numbers"
        )
    if array.size > MAX_CLASSIFIED:
        raise InvalidRequestError(
            f"{label}: classification output tensor too large: got {array.size} elements, expected at most "
            f"{MAX_CLASSIFIED}; ask for fewer rows, or for the numbers"
        )
    rows = array.reshape(len(array), prod(array.shape[1:]))
    count = min(count, rows.shape[1])
    if len(rows) * count > MAX_CLASSES:
        raise InvalidRequestError(
            f"{label}: got {count} for {len(rows)} rows, expected at most {MAX_CLASSES} classes of all rows together; "
            "ask for fewer, or for the numbers"
        )
    texts = np.empty((len(rows), count), dtype=object)
    for row, numbers in enumerate(rows):
        texts[row] = [
            f"{number_text(numbers[index])}:{index}".encode() + (ends[index] if index < len(ends) else b"")
            for index in largest(numbers, count)
        ]
    return texts


def largest(numbers: Array, count: int) -> list[int]:
    """Returns the indices of the `count` largest of some numbers: largest first, of equal ones the first first."""
    negative = -numbers.astype(np.float64)
    indices = np.arange(len(negative))
    if 0 < count < len(negative):
        last = np.partition(negative, count - 1)[count - 1]
        # It is NaN if there are fewer numbers than that.
        if last == last:
            indices = np.flatnonzero(negative <= last)
    found: list[int] = indices[np.argsort(negative[indices], kind="stable")][:count].tolist()
    return found


def number_text(value: Any) -> str:
    """Returns a number as Triton writes it: floats with six decimals."""
    return f"{float(value):f}" if isinstance(value, np.floating) else str(int(value))
