"""Decoding of a request's arrays: in place if they match the model's inputs, as nearly all do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from layerserve.values import tensors

from layerserve_server.errors import InvalidTensorError
from layerserve_server.inference.admission import Admission, Admitted, by_name, names
from layerserve_server.inference.input_decoder import InputDecoder
from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array
from layerserve_server.services.prediction.encoded_rows import EncodedRows
from layerserve_server.services.prediction.predict_protocol import NO_NAMES, Encoder, GivenTensor
from layerserve_server.services.prediction.request_template import Layout, RequestTemplate
from layerserve_server.services.prediction.row_bytes import row_of

#: Dtypes whose bytes on the wire are valid array data without conversion or checks.
PLAIN = {name: dtype for name, dtype in tensors.NUMPY_DTYPES.items() if name not in ("bool", "string", "bfloat16")}
#: Maximum number of templates whose layouts are cached.
MAX_KEPT = 2048


class TemplatedRequest:
    """A message that has a template: a request whose arrays can be read without parsing it."""

    __slots__ = ("choice", "id", "max_wait", "message", "priority", "requested", "template")

    def __init__(self, template: RequestTemplate, message: bytes) -> None:
        self.template = template
        self.message = message
        self.choice = template.choice
        self.requested = template.requested
        self.priority = template.priority
        self.max_wait = template.max_wait
        self.id = template.id(message)

    def admit(self, decoder: Decoder) -> Admitted | None:
        """Returns the model's input arrays; None if they can't be read in place."""
        layouts = decoder.layouts(self.template)
        if layouts is None:
            return None
        return Admitted({layout.name: layout.read(self.message) for layout in layouts}, layouts[0].shape[0])

    def fill(self, encoder: Encoder, results: Arrays) -> bytes:
        """Returns the reply. Raises as the encoder does."""
        return encoder.fill(results, self.id)


class Decoder:
    """Decodes requests for the same outputs of a version."""

    def __init__(
        self,
        admission: Admission,
        further_names: Mapping[str, str] = NO_NAMES,
        decoders: Mapping[str, InputDecoder] = {},
    ) -> None:
        """`further_names` are names of inputs besides the model's own, with those.

        `decoders` are those of inputs that requests may have as bytes.
        """
        self._admission = admission
        self._decoders = decoders
        own = {spec.name for spec in admission.model_inputs}
        self._own_names = {further: name for further, name in further_names.items() if further not in own}
        #: By input name: the model's own name, dtype, dtype in NumPy, shape of a row, and size of a row in bytes.
        self._inputs: dict[str, tuple[str, str, np.dtype[np.generic], tuple[int, ...], int]] = {}
        self._layouts: dict[RequestTemplate, tuple[Layout, ...] | None] = {}
        if admission.group is None or any(spec.dtype not in PLAIN for spec in admission.inputs):
            return
        for spec in admission.inputs:
            row = tuple(length for length in spec.shape[1:] if length is not None)
            dtype = PLAIN[spec.dtype]
            self._inputs[spec.name] = spec.name, spec.dtype, dtype, row, prod(row) * dtype.itemsize
            if len(admission.model_inputs) == 1:
                self._inputs[""] = self._inputs[spec.name]
        for further, name in self._own_names.items():
            if name in self._inputs:
                self._inputs[further] = self._inputs[name]
        self._count = len(admission.inputs)

    def read(self, given: Sequence[GivenTensor]) -> Admitted | EncodedRows:
        """Returns the model's input arrays, or what decodes them. Raises InvalidTensorError, and as `admit` does."""
        admitted = self._read_in_place(given) if self._inputs else None
        if admitted is not None:
            return admitted
        own_names = self._own_names
        return self._admit([(own_names.get(tensor.name, tensor.name), tensor.array()) for tensor in given])

    def read_bytes(self, data: bytes) -> Admitted | EncodedRows:
        """Does what `read` does for the elements of the model's only input alone (see `row_of`)."""
        specs = self._admission.model_inputs
        if len(specs) != 1:
            # As Triton has it.
            raise InvalidTensorError(
                f"Raw request must only have 1 input (found 1) to be deduced but got {len(specs)} inputs in the model: "
                f"{names(specs)}; send their names with the elements"
            )
        (spec,) = specs
        if spec.name in self._decoders:
            array = np.array([data], dtype=object)
        else:
            array = row_of(data, spec, batched=self._admission.joinable)
        return self._admit([(spec.name, array)])

    def _admit(self, arrays: Sequence[tuple[str, Array]]) -> Admitted | EncodedRows:
        """Returns the model's input arrays for these, or what decodes them."""
        if self._decoders:
            named = by_name(arrays, self._admission.model_inputs)
            in_bytes = {name for name, array in named.items() if array.dtype == object}
            if decoders := {name: one for name, one in self._decoders.items() if name in in_bytes}:
                return EncodedRows(named, decoders, self._admission)
        return self._admission.admit(arrays)

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
            name, kind, dtype, row, row_bytes = entry
            shape, (start, stop) = tensor.shape, tensor.data
            if tensor.dtype != kind or not shape or shape[1:] != row or shape[0] < 1:
                return None
            if stop - start != shape[0] * row_bytes or any(other.shape[0] != shape[0] for other in found.values()):
                return None
            found[name] = Layout(name, dtype, shape, prod(shape), start)
        return tuple(found.values()) if len(found) == len(template.tensors) == self._count else None

    def _read_in_place(self, given: Sequence[GivenTensor]) -> Admitted | None:
        """Returns None if an array needs conversion or is invalid: `admit` then converts or refuses it."""
        arrays: dict[str, Array] = {}
        rows = 0
        for tensor in given:
            entry = self._inputs.get(tensor.name)
            shape = tensor.shape
            if entry is None or not shape:
                return None
            name, kind, dtype, row, row_bytes = entry
            data = tensor.data
            if tensor.dtype != kind or shape[1:] != row or shape[0] < 1 or len(data) != shape[0] * row_bytes:
                return None
            if arrays and shape[0] != rows:
                return None
            rows = shape[0]
            arrays[name] = np.frombuffer(data, dtype).reshape(shape)
        return Admitted(arrays, rows) if len(arrays) == len(given) == self._count else None
