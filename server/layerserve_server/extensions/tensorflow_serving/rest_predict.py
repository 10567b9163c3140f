"""Predict of TensorFlow Serving by HTTP (see `rest_body`)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np
import orjson
from layerserve.values import tensors
from layerserve.values.wire import MAX_HEADS

from layerserve_server.errors import InvalidRequestError, UnknownInputError, safe_text
from layerserve_server.extensions.tensorflow_serving import rest_body
from layerserve_server.extensions.tensorflow_serving.contract import VALUE
from layerserve_server.extensions.tensorflow_serving.model_spec import chosen_by
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow.tensor_pb2 import TensorProto
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.model_pb2 import ModelSpec
from layerserve_server.extensions.tensorflow_serving.protocols.tensorflow_serving.prediction_service_pb2 import (
    PredictRequest,
    PredictResponse,
)
from layerserve_server.extensions.tensorflow_serving.rest_body import InputSpec, Outline, PredictBody
from layerserve_server.extensions.tensorflow_serving.signatures import DEFAULT_KEY, Names, own_inputs, signature
from layerserve_server.extensions.tensorflow_serving.tensors import RAW_FIELDS, TensorFlowTensor
from layerserve_server.inference.input_decoder import encoding_of
from layerserve_server.inference.runner import Array, TensorSpec
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease, LoadedVersion
from layerserve_server.services.prediction.endpoint import kept
from layerserve_server.services.prediction.predict_protocol import Span
from layerserve_server.services.prediction.wire_format import without
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.services.rest.json_text import array_pieces, written
from layerserve_server.transport.chunking import CHUNK_ELEMENTS
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, Translated, WouldBlockError

#: Ending of the names of outputs whose strings are always base64, as in TensorFlow Serving.
BYTES = "_bytes"


class Predict:
    """Translates requests of `:predict` paths. The JSON has no dtypes, so they are those of the model's inputs."""

    def __init__(self, repository: Repository, reader: BodyReader) -> None:
        """`reader` reads long bodies."""
        self._repository = repository
        self._reader = reader

    def translate(self, request: HttpRequest) -> Translated:
        """Translates a request. Raises InvalidRequestError, as `Leases.lease`, and WouldBlockError."""
        spec = model_spec(request.names)
        choice = chosen_by(request.caller, "predict", spec)
        order: Sequence[str] = ()

        def specs(outline: Outline) -> dict[str, InputSpec]:
            nonlocal order
            key = outline.signature_name or DEFAULT_KEY
            names = None if outline.names is None else tuple(outline.names)
            with self._leased(choice, may_block=request.may_block) as version:
                kind = "names in JSON", key, names, outline.rows < 0
                order, found = kept(version, kind, lambda: _names_and_specs(version, key, outline))
                return found

        if self._reader.is_long(len(request.body)):
            with self._reader.reading(request.body, rest_body.__name__) as reading:
                outline = Outline(**reading.line())
                reading.send(specs(outline))
                inputs = reading.message()
        else:
            body = PredictBody(request.body)
            outline, inputs = body.outline, body.message(specs(body.outline))
        spec.signature_name = outline.signature_name
        # Messages that are joined are one message with the fields of both.
        message = PredictRequest(model_spec=spec).SerializeToString() + inputs
        write = _in_columns if outline.rows < 0 else partial(_in_rows, outline.rows)
        return Translated(message, partial(_reply, write, order))

    def _leased(self, choice: Choice, *, may_block: bool) -> Lease:
        lease = self._repository.leases.lease_loaded(*choice, kept=True)
        if lease is None and not may_block:
            raise WouldBlockError
        return lease or self._repository.leases.lease(*choice, kept=True)


def model_spec(names: Mapping[str, str]) -> ModelSpec:
    """Returns the message for the version that a path names. Raises InvalidRequestError."""
    spec = ModelSpec(name=names["model"])
    if "label" in names:
        spec.version_label = names["label"]
    elif "version" in names:
        number = names["version"]
        if not (number.isascii() and number.isdecimal() and len(number) <= 18):
            raise InvalidRequestError(f"version '{safe_text(number, 40)}': expected a number")
        spec.version.value = int(number)
    return spec


def _names_and_specs(
    version: LoadedVersion, key: str, outline: Outline
) -> tuple[tuple[str, ...], dict[str, InputSpec]]:
    """Returns the names of a signature's outputs, and `input_specs`."""
    return tuple(signature(version, key).outputs), input_specs(version, key, outline)


def input_specs(version: LoadedVersion, key: str, outline: Outline) -> dict[str, InputSpec]:
    """Returns the spec of each input of a body. Raises UnknownSignatureError, and as `own_inputs`."""
    only, names = tuple(signature(version, key).inputs), outline.names
    if names is None:
        if len(only) != 1:
            field = "inputs" if outline.rows < 0 else "instances[0]"
            raise UnknownInputError(
                f"{field}: got no names of inputs, expected an object with the {len(only)} inputs: {', '.join(only)}"
            )
        names = only
    own = own_inputs(version, Names(key, tuple(sorted(names))), ())
    by_name = {spec.name: spec for spec in version.input_specs}
    return {name: _input_spec(by_name[own[name]]) for name in names}


def _input_spec(spec: TensorSpec) -> InputSpec:
    return InputSpec(spec.dtype, spec.shape, bool(encoding_of(spec)))


def _reply(write: Callable[[dict[str, Array]], Iterator[bytes]], order: Sequence[str], message: bytes) -> HttpReply:
    """Returns the reply for a PredictResponse, with the outputs in the signature's order."""
    outputs = dict(map(partial(_output, message), without(message, {PredictResponse.OUTPUTS_FIELD_NUMBER})[1]))
    arrays = {name: outputs[name] for name in order if name in outputs}
    for name, array in arrays.items():
        if array.dtype.kind == "c":
            raise InvalidRequestError(f"output '{name}': has dtype {array.dtype}, which JSON has no numbers for")
        if array.dtype.kind == "O":
            arrays[name] = _texts(array, name)
    return HttpReply(written(write(arrays)))


def _output(message: bytes, entry: Span) -> tuple[str, Array]:
    """Returns name and array of an output of a PredictResponse. An array's bytes are read where they are."""
    rest, (value,) = without(message, {VALUE}, entry)
    name = _key(rest)
    rest, elements = without(message, RAW_FIELDS, value)
    if len(elements) != 1:
        return name, TensorFlowTensor(name, TensorProto.FromString(message[value.start : value.stop])).array()
    dtype, shape = _form(rest)
    start, stop = elements[0]
    return name, np.frombuffer(message, dtype, (stop - start) // dtype.itemsize, start).reshape(shape)


@lru_cache(MAX_HEADS)
def _key(entry: bytes) -> str:
    """Returns the name of an output, of its entry without the value."""
    key: str = PredictResponse.OutputsEntry.FromString(entry).key
    return key


@lru_cache(MAX_HEADS)
def _form(tensor: bytes) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Returns dtype and shape of a tensor without its elements."""
    read = TensorFlowTensor("", TensorProto.FromString(tensor))
    return tensors.NUMPY_DTYPES[read.dtype], read.shape


def _in_columns(arrays: dict[str, Array]) -> Iterator[bytes]:
    yield b'{"outputs":'
    if len(arrays) == 1:
        yield from array_pieces(next(iter(arrays.values())))
    else:
        yield from _object(arrays)
    yield b"}"


def _object(arrays: dict[str, Array]) -> Iterator[bytes]:
    yield b"{"
    for index, (name, array) in enumerate(arrays.items()):
        yield b"," * (index > 0) + orjson.dumps(name) + b":"
        yield from array_pieces(array)
    yield b"}"


def _in_rows(count: int, arrays: dict[str, Array]) -> Iterator[bytes]:
    for name, array in arrays.items():
        if array.shape[:1] != (count,):
            raise InvalidRequestError(
                f"output '{name}': has shape {list(array.shape)}, not a row for each of the {count} instances; "
                "send columns ('inputs') instead"
            )
    yield b'{"predictions":'
    if len(arrays) == 1:
        yield from array_pieces(next(iter(arrays.values())))
    else:
        yield from _objects(count, arrays)
    yield b"}"


def _objects(count: int, arrays: dict[str, Array]) -> Iterator[bytes]:
    step = CHUNK_ELEMENTS * count // max(1, sum(array.size for array in arrays.values()))
    yield b"["
    for start in range(0, count, max(1, step)):
        if start:
            yield b","
        if step:
            yield _rows({name: array[start : start + step] for name, array in arrays.items()})[1:-1]
        else:
            yield from _object({name: array[start, ...] for name, array in arrays.items()})
    yield b"]"


def _rows(arrays: dict[str, Array]) -> bytes:
    rows = [dict(zip(arrays, row, strict=True)) for row in zip(*arrays.values(), strict=True)]
    if all(_plain(array) for array in arrays.values()):
        return orjson.dumps(rows, option=orjson.OPT_SERIALIZE_NUMPY)
    lists = [{name: row.tolist() if hasattr(row, "tolist") else row for name, row in one.items()} for one in rows]
    return json.dumps(lists).encode()


def _plain(array: Array) -> bool:
    """Whether orjson writes the rows of an array."""
    return array.dtype.kind in "biu" or (array.dtype in (np.float32, np.float64) and bool(np.isfinite(array).all()))


def _texts(array: Array, name: str) -> Array:
    """Returns strings as JSON has them: as they are, or {"b64": ...} if they are bytes."""
    texts = np.empty(array.shape, dtype=object)
    texts.reshape(-1)[:] = [_text(element, name.endswith(BYTES)) for element in array.ravel().tolist()]
    return texts


def _text(element: bytes, as_bytes: bool) -> Any:
    if not as_bytes:
        try:
            return element.decode()
        except UnicodeDecodeError:
            pass
    return {"b64": base64.b64encode(element).decode()}
