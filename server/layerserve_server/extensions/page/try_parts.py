"""The form that tries a prediction, and its answer: numbers, text, and tensors as heat maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from layerserve.values import tensors

from layerserve_server.extensions.drawings.heat_maps import HeatMap, heat_map
from layerserve_server.extensions.page.fields import Fields
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.extensions.page.image_ranges import RANGES, Range
from layerserve_server.extensions.page.largest import Largest, largest
from layerserve_server.extensions.page.pages import Pages, short
from layerserve_server.extensions.page.part import PARTS, Show, shown
from layerserve_server.extensions.page.served import Served
from layerserve_server.protocols.inference.inference_pb2 import (
    ModelInferResponse,
    ModelMetadataRequest,
    ModelMetadataResponse,
)
from layerserve_server.services.open_inference.datatypes import DTYPES
from layerserve_server.services.open_inference.inference import SERVICE as INFERENCE
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.infer import translate
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

Array = npt.NDArray[Any]

#: Maximum numbers of inputs and outputs that are shown, and of rows and values of an output.
MAX_INPUTS, MAX_OUTPUTS, MAX_ROWS, MAX_VALUES = 32, 32, 8, 12
#: Number of elements of the example that a field begins with.
MAX_EXAMPLE = 256
#: Lengths of the last axis of images.
CHANNELS = (1, 3, 4)
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclass(frozen=True, slots=True)
class InputField:
    """An input in the form."""

    spec: ModelMetadataResponse.TensorMetadata
    dtype: str
    example: str
    image: bool
    #: The range that pixels are scaled to, and whether the graph says so.
    range: Range = (0.0, 1.0)
    range_known: bool = False
    #: Whether it takes image files as they are.
    encoded: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """An output in the answer."""

    name: str
    dtype: str
    shape: Sequence[int]
    #: Values of the first rows, as text, each with how many values aren't shown.
    rows: Sequence[tuple[Sequence[str], int]]
    rows_left_out: int
    #: The largest values of a row, if it has probabilities, named classes, or many values.
    largest: Sequence[Largest]
    #: The row that these are of.
    row: int
    heat_map: HeatMap | None


class TryParts:
    """Parts of the page that predict."""

    def __init__(self, pages: Pages, guard: Guard, served: Served, reader: BodyReader) -> None:
        """`reader` reads long bodies."""
        self._pages = pages
        self._guard = guard
        self._served = served
        self._reader = reader

    def routes(self) -> list[HttpRoute]:
        """Returns the routes."""
        return [
            shown(self._guard, "try", INFERENCE + "ModelMetadata", ModelMetadataResponse, self._form),
            HttpRoute("POST", PARTS + "predict", INFERENCE + "ModelInfer", self._predict, slow_replies=True),
        ]

    def _form(self, fields: Fields, request: HttpRequest) -> tuple[ModelMetadataRequest, Show]:
        name, version, output = fields.required("name"), fields.number("version"), fields.text("output")

        def show(reply: ModelMetadataResponse) -> HttpReply:
            ranges = self._served.image_ranges(reply.name, version or None)
            encodings = self._served.encodings(reply.name, version or None)
            return self._pages.html(
                "try.html",
                name=reply.name,
                version=version,
                default=self._served.default(reply.name),
                grpc_port=self._served.grpc_port,
                inputs=[
                    image_field(one) if encodings.get(one.name) == "image" else input_field(one, ranges.get(one.name))
                    for one in reply.inputs[:MAX_INPUTS]
                ],
                ranges=RANGES,
                output=output,
                floats=FLOATS,
                left_out=max(0, len(reply.inputs) - MAX_INPUTS),
                predicts=request.caller.may("predict", reply.name),
            )

        # It loads a version that isn't loaded, as a prediction would.
        return ModelMetadataRequest(name=name, version=str(version or "")), show

    def _predict(self, request: HttpRequest) -> Translated:
        # The body is that of an `infer` path, which has limits on its size and its parsing.
        self._guard.check(request, changes=True)
        fields = Fields.of_query(request)
        model, version = fields.required("name"), str(fields.number("version") or "")
        row = fields.number("row")
        message = translate(self._reader, replace(request, names={"model": model, "version": version})).message

        def show(answer: bytes) -> HttpReply:
            response = ModelInferResponse.FromString(answer)
            pairs = zip(response.outputs[:MAX_OUTPUTS], response.raw_output_contents, strict=False)
            number = response.model_version
            names = self._served.class_names(response.model_name, int(number) if number.isdecimal() else None)
            outputs = [_output(tensor, raw, row, names.get(tensor.name, ())) for tensor, raw in pairs]
            return self._pages.html(
                "outputs.html",
                name=response.model_name,
                version=response.model_version,
                outputs=outputs,
                left_out=max(0, len(response.outputs) - MAX_OUTPUTS),
            )

        return Translated(message, show)


def image_field(spec: ModelMetadataResponse.TensorMetadata) -> InputField:
    """Returns the field of an input that takes image files."""
    return InputField(spec, DTYPES.get(spec.datatype, ""), "", image=True, encoded=True)


def input_field(spec: ModelMetadataResponse.TensorMetadata, pixels: Range | None = None) -> InputField:
    """Returns the field of an input, with an example of one row, or of as many as the model fixes, if that is short.

    `pixels` is the range that the graph expects; None if it doesn't say.
    """
    dtype = DTYPES.get(spec.datatype, "")
    lengths = [length if length >= 0 else 4 if axis else 1 for axis, length in enumerate(spec.shape)]
    count = 1
    for length in lengths:
        count = min(count * length, MAX_EXAMPLE + 1)
    example = ""
    if count <= MAX_EXAMPLE:
        zero: Any = "" if dtype == "string" else False if dtype == "bool" else 0.0 if dtype in FLOATS else 0
        example = _json(np.full(lengths, zero, dtype=object).tolist())
    image = len(spec.shape) == 4 and spec.shape[3] in CHANNELS and dtype not in ("string", "bool")
    known = pixels is not None or dtype not in FLOATS
    # Whole numbers have no fractions between 0 and 1.
    return InputField(spec, dtype, example, image, pixels or RANGES[1 if dtype in FLOATS else 0], known)


def _json(value: Any) -> str:
    """Returns nested lists as JSON with spaces only between elements."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    return {"": '""', False: "false"}[value] if isinstance(value, (str, bool)) else str(value)


def _output(tensor: ModelInferResponse.InferOutputTensor, raw: bytes, row: int, names: Sequence[bytes]) -> Output:
    dtype = DTYPES[tensor.datatype]
    array: Array = tensors.decode_data(raw, dtype, tuple(tensor.shape), tensor.name)
    rows = array.reshape(len(array), -1) if array.ndim and array.size else array.reshape(-1, 1)
    texts = [[_text(value) for value in one[:MAX_VALUES].tolist()] for one in rows[:MAX_ROWS]]
    left_out = max(0, rows.shape[1] - MAX_VALUES)
    return Output(
        tensor.name,
        dtype,
        tensor.shape,
        [(one, left_out) for one in texts],
        max(0, len(rows) - MAX_ROWS),
        largest(array, row, names),
        min(row, max(0, len(rows) - 1)),
        heat_map(array, row) if array.size > 1 else None,
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return short(value.decode("utf-8", "replace"))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
