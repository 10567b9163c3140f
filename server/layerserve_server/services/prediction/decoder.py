"""Decoding of a PredictRequest's arrays: in place if they match the model's inputs, as nearly all do."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from layerserve import tensors
from layerserve.v1 import tensor_pb2

from layerserve_server.inference.admission import Admission, Admitted
from layerserve_server.inference.runner import Array
from layerserve_server.services.messages import decode
from layerserve_server.services.prediction.request_template import Layout, RequestTemplate

#: Dtypes whose bytes on the wire are valid array data without conversion or checks.
PLAIN = {name: dtype for name, dtype in tensors.NUMPY_DTYPES.items() if name not in ("bool", "string", "bfloat16")}


#: Maximum number of templates whose layouts are cached.
MAX_KEPT = 2048


class Decoder:
    """Decodes requests for the same outputs of a version."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        #: By input name: dtype on the wire and in NumPy, shape of a row, and size of a row in bytes.
        self._inputs: dict[str, tuple[int, np.dtype[np.generic], tuple[int, ...], int]] = {}
        self._layouts: dict[RequestTemplate, tuple[Layout, ...] | None] = {}
        if admission.group is None or any(spec.dtype not in PLAIN for spec in admission.inputs):
            return
        for spec in admission.inputs:
            row = tuple(length for length in spec.shape[1:] if length is not None)
            dtype = PLAIN[spec.dtype]
            entry = tensors.dtype_enum(spec.dtype), dtype, row, prod(row) * dtype.itemsize
            self._inputs[spec.name] = entry
            if len(admission.model_inputs) == 1:
                self._inputs[""] = entry
        self._count = len(admission.inputs)

    def read(self, given: Sequence[tensor_pb2.Tensor]) -> Admitted:
        """Returns the model's input arrays. Raises InvalidTensorError, and as `admission.admit` does."""
        admitted = self._read_in_place(given) if self._inputs else None
        return admitted or self._admission.admit([(tensor.name, decode(tensor)) for tensor in given])

    def layouts(self, template: RequestTemplate) -> tuple[Layout, ...] | None:
        """Returns the layouts of the inputs in messages of a template; None if they can't be read in place."""
        try:
            return self._layouts[template]
        except KeyError:
            if len(self._layouts) >= MAX_KEPT:
                self._layouts = {}
            found = self._layouts[template] = self._find_layouts(template) if self._inputs else None
            return found

    def _find_layouts(self, template: RequestTemplate) -> tuple[Layout, ...] | None:
        found: dict[str, Layout] = {}
        for tensor in template.tensors:
            entry = self._inputs.get(tensor.name)
            if entry is None:
                return None
            enum, dtype, row, row_bytes = entry
            shape, (start, stop) = tensor.shape, tensor.data
            if tensor.dtype != enum or not shape or shape[1:] != row or shape[0] < 1:
                return None
            if stop - start != shape[0] * row_bytes or any(other.shape[0] != shape[0] for other in found.values()):
                return None
            name = tensor.name or self._admission.model_inputs[0].name
            found[name] = Layout(name, dtype, shape, prod(shape), start)
        return tuple(found.values()) if len(found) == len(template.tensors) == self._count else None

    def _read_in_place(self, given: Sequence[tensor_pb2.Tensor]) -> Admitted | None:
        """Returns None if an array needs conversion or is invalid: `admit` then converts or refuses it."""
        arrays: dict[str, Array] = {}
        rows = 0
        for tensor in given:
            entry = self._inputs.get(tensor.name)
            shape = tuple(tensor.shape)
            if entry is None or not shape:
                return None
            enum, dtype, row, row_bytes = entry
            data = tensor.data
            if tensor.dtype != enum or shape[1:] != row or shape[0] < 1 or len(data) != shape[0] * row_bytes:
                return None
            if arrays and shape[0] != rows:
                return None
            rows = shape[0]
            arrays[tensor.name or self._admission.model_inputs[0].name] = np.frombuffer(data, dtype).reshape(shape)
        return Admitted(arrays, rows) if len(arrays) == len(given) == self._count else None
