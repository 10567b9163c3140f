"""ModelInfer as a `PredictProtocol`: how requests are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from layerserve import errors as codec_errors
from layerserve.values import tensors
from layerserve.values.wire import tag, varint

from layerserve_server.errors import InvalidRequestError, InvalidTensorError, safe_text
from layerserve_server.inference.runner import Array
from layerserve_server.protocols.inference.inference_pb2 import (
    InferParameter,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.messages import parse
from layerserve_server.services.open_inference.datatypes import DTYPES, dtype
from layerserve_server.services.open_inference.encoder import InferEncoder
from layerserve_server.services.prediction.places import REGION, REGION_OFFSET, REGION_SIZE, Place, Places
from layerserve_server.services.prediction.predict_protocol import (
    BytesRequest,
    Encoder,
    PredictionRequest,
    PredictProtocol,
    RequestedOutputs,
    Span,
)
from layerserve_server.services.prediction.sequence_step import MAX_ID, SequenceStep
from layerserve_server.services.prediction.wire_format import UNREAD, fields
from layerserve_server.transport.chunking import as_array
from layerserve_server.transport.status import Failure

#: Priority here of Triton's priority 1, its highest: it counts upwards, and 0 is the default.
HIGHEST_PRIORITY = 2**31 - 1
#: Parameter of a streamed reply: no further reply to its request follows.
FINAL_RESPONSE = ModelInferResponse(
    parameters={"triton_final_response": InferParameter(bool_param=True)}
).SerializeToString()
RESPONSE_TAG = tag(ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER)
#: Field of InferTensorContents by dtype.
CONTENTS = {
    "bool": "bool_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "string": "bytes_contents",
}


class InferProtocol(PredictProtocol):
    """Conversions of ModelInfer's messages (see `PredictProtocol`)."""

    descriptor = ModelInferRequest.DESCRIPTOR

    def read(self, message: bytes) -> ModelInferRequest:
        """Parses a request. Raises InvalidRequestError if the bytes aren't a valid message."""
        return parse(ModelInferRequest, message)

    def request(self, message: ModelInferRequest) -> PredictionRequest:
        """Returns the meaning of a message. Raises InvalidRequestError."""
        raw = message.raw_input_contents
        choice = model_choice(message.model_name, message.model_version)
        if len(raw) == 1 and not message.inputs:
            # What Triton's HTTP has as a raw request: shape and dtype are those of the model's input.
            return BytesRequest(
                choice,
                self._requested(message),
                (),
                message.id,
                priority(message.parameters),
                max_wait(message.parameters),
                sequence(message.model_name, message.parameters) if message.parameters else None,
                _places(message) or None,
                data=raw[0],
            )
        places = _places(message)
        count = len(message.inputs) - len(places.inputs)
        if raw and len(raw) != count:
            besides = " that isn't in shared memory" if places.inputs else ""
            raise InvalidRequestError(
                f"raw_input_contents: got {len(raw)} elements, expected {count}, one for each input{besides}"
            )
        given = []
        contents = iter(raw)
        for index, tensor in enumerate(message.inputs):
            placed = index in places.inputs
            # MLServer's clients send empty contents beside raw ones.
            if (raw or placed) and tensor.contents.ListFields():
                where = f"a {REGION}" if placed else "raw_input_contents"
                raise InvalidTensorError(
                    f"input '{safe_text(tensor.name, 80)}': got contents beside {where}, expected one of them"
                )
            given.append(InferTensor(tensor, next(contents) if raw and not placed else None))
        return PredictionRequest(
            choice,
            self._requested(message),
            given,
            message.id,
            priority(message.parameters),
            max_wait(message.parameters),
            sequence(message.model_name, message.parameters) if message.parameters else None,
            places or None,
        )

    def _requested(self, message: ModelInferRequest) -> RequestedOutputs:
        classes: list[int] = []
        for output in message.outputs:
            label = f"output '{safe_text(output.name, 80)}'"
            classes.append(class_count(label, output.parameters))
        names = tuple(output.name for output in message.outputs)
        return RequestedOutputs(self, names, tuple(classes) if any(classes) else None)

    def spans(self, message: bytes, request: PredictionRequest) -> tuple[list[Span], Span | None] | None:
        """See `PredictProtocol`. None unless all arrays are in `raw_input_contents`."""
        ids: list[Span] = []
        data: list[Span] = []
        for number, span in fields(message, Span(0, len(message))):
            if number == UNREAD:
                return None
            if number == ModelInferRequest.ID_FIELD_NUMBER:
                ids.append(span)
            elif number == ModelInferRequest.RAW_INPUT_CONTENTS_FIELD_NUMBER:
                data.append(span)
        if len(ids) > 1 or len(data) != len(request.tensors):
            return None
        return data, ids[0] if ids else None

    def encoder(self, version: LoadedVersion, requested: RequestedOutputs, names: tuple[str, ...]) -> Encoder:
        """Returns the encoder of ModelInferResponse messages. Raises InvalidTensorError for dtypes they lack."""
        return infer_encoder(version, requested, requested.form, names)

    # Of streams.

    #: Clients of Triton take the replies of a stream in the order of its requests.
    ordered = True

    def is_long_streamed(self, message: bytes) -> bool:
        """Whether reading a message of ModelStreamInfer may delay others."""
        return self.is_long(message)

    def read_streamed(self, message: bytes) -> ModelInferRequest:
        """Parses a message of ModelStreamInfer. Raises as `read` does."""
        return self.read(message)

    def wrap(self, reply: bytes) -> bytes:
        """Returns the message of ModelStreamInfer that has a serialized ModelInferResponse."""
        # Messages that are joined are one message with the fields of both.
        return b"".join((RESPONSE_TAG, varint(len(reply) + len(FINAL_RESPONSE)), reply, FINAL_RESPONSE))

    def refusal(self, id: str, wire: Failure) -> bytes:
        """Returns the message of ModelStreamInfer that has an error."""
        return ModelStreamInferResponse(
            error_message=wire.text, infer_response=ModelInferResponse(id=id)
        ).SerializeToString()


def infer_encoder(
    version: LoadedVersion, requested: RequestedOutputs, classes: Any, names: tuple[str, ...]
) -> InferEncoder:
    """Returns the encoder for the outputs `names`, with the number of classes of each; None for numbers alone."""
    specs = {spec.name: spec.dtype for spec in version.runner.plan(requested.outputs).output_specs}
    counts = classes or (0,) * len(names)
    outputs = [(name, specs[name], count) for name, count in zip(names, counts, strict=True)]
    return InferEncoder(version, outputs, version.class_labels)


@dataclass(frozen=True)
class InferTensor:
    """An input of a ModelInferRequest (see `prediction.predict_protocol.GivenTensor`)."""

    _message: ModelInferRequest.InferInputTensor
    _raw: bytes | None

    @property
    def name(self) -> str:
        return self._message.name

    @property
    def dtype(self) -> str:
        return DTYPES.get(self._message.datatype, "")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return tuple(self._message.shape)

    @property
    def data(self) -> bytes:
        return self._raw or b""

    def with_data(self, data: bytes) -> InferTensor:
        """Returns the tensor with these elements, as `raw_input_contents` would have them."""
        return InferTensor(self._message, data)

    def array(self) -> Array:
        kind = dtype(self._message.datatype, self.name)
        try:
            if self._raw is not None:
                return tensors.decode_data(self._raw, kind, self.shape, self.name)
            count = tensors.element_count(self.shape, kind, self.name)
        except codec_errors.InvalidTensor as error:
            raise InvalidTensorError(str(error)) from error
        return self._typed(kind, count)

    def _typed(self, kind: str, count: int) -> Array:
        """Returns the array of typed contents."""
        label, field = f"input '{safe_text(self.name, 80)}'", CONTENTS.get(kind)
        if field is None:
            raise InvalidTensorError(f"{label}: got typed contents of {self._message.datatype}, expected raw contents")
        given = [name.name for name, _ in self._message.contents.ListFields()]
        if given not in ([field], [] if count == 0 else [field]):
            raise InvalidTensorError(f"{label}: got {' and '.join(given) or 'no contents'}, expected {field}")
        elements = getattr(self._message.contents, field)
        if len(elements) != count:
            raise InvalidTensorError(
                f"{label}: got {len(elements)} elements, expected {count} for shape {list(self.shape)}"
            )
        try:
            return as_array(elements, tensors.NUMPY_DTYPES[kind]).reshape(self.shape)
        except OverflowError:
            raise InvalidTensorError(f"{label}: got an element that {self._message.datatype} can't represent") from None


def model_choice(name: str, version: str) -> Choice:
    """Returns model, version and label: the version in requests is a number, or else a label.

    Raises InvalidRequestError if there is no model name.
    """
    if not name:
        raise InvalidRequestError("model_name: got none, expected the name of a model")
    if not version:
        return name, None, None
    # A number that no version can have is no label either, but gives an error with the known labels.
    return (name, int(version), None) if version.isdecimal() and len(version) <= 18 else (name, None, version)


def priority(parameters: Mapping[str, InferParameter]) -> int:
    """Returns the priority here: higher is earlier. Raises InvalidRequestError."""
    given = _integer("priority", parameters)
    return HIGHEST_PRIORITY - min(given - 1, HIGHEST_PRIORITY - 1) if given else 0


def max_wait(parameters: Mapping[str, InferParameter]) -> float | None:
    """Returns the maximum time in the queue in seconds; None if unlimited. Raises InvalidRequestError."""
    given = _integer("timeout", parameters)
    return given / 1e6 if given else None


def sequence(model: str, parameters: Mapping[str, InferParameter]) -> SequenceStep | None:
    """Returns the sequence that a request is a step of; None if it names none, or 0. Raises InvalidRequestError."""
    start, end = (_boolean(name, parameters) for name in ("sequence_start", "sequence_end"))
    id: int | str = 0
    if "sequence_id" in parameters:
        given = parameters["sequence_id"]
        if given.WhichOneof("parameter_choice") == "string_param":
            id = given.string_param
            if len(id) > MAX_ID:
                raise InvalidRequestError(
                    f"parameter 'sequence_id': got {len(id)} characters, expected at most {MAX_ID}"
                )
        else:
            id = _integer("sequence_id", parameters)
    if id:
        return SequenceStep(id, start, end)
    if start or end:
        raise InvalidRequestError(
            f"inference request to model '{safe_text(model, 80)}' must specify a non-zero or non-empty correlation ID"
        )
    return None


def _boolean(name: str, parameters: Mapping[str, InferParameter]) -> bool:
    """Returns a parameter that is true or false; False if it isn't given. Raises InvalidRequestError."""
    if name not in parameters:
        return False
    if parameters[name].WhichOneof("parameter_choice") != "bool_param":
        raise InvalidRequestError(f"parameter '{name}': got another type, expected true or false")
    return parameters[name].bool_param


def class_count(label: str, parameters: Mapping[str, InferParameter]) -> int:
    """Returns the number of classes that a requested output shall have; 0 for the numbers themselves."""
    if "classification" not in parameters:
        return 0
    count = _integer("classification", parameters, label)
    if count == 0:
        raise InvalidRequestError(f"{label}: parameter 'classification': got 0, expected a number of classes from 1")
    return count


def _places(message: ModelInferRequest) -> Places:
    """Returns the tensors that are in shared memory. Raises InvalidRequestError."""
    inputs = ((index, place("input", tensor)) for index, tensor in enumerate(message.inputs))
    outputs = ((output.name, place("output", output)) for output in message.outputs)
    return Places(
        {index: found for index, found in inputs if found is not None},
        {name: found for name, found in outputs if found is not None},
    )


def place(
    kind: str, tensor: ModelInferRequest.InferInputTensor | ModelInferRequest.InferRequestedOutputTensor
) -> Place | None:
    """Returns where a tensor is in shared memory; None if it is in the message. Raises InvalidRequestError."""
    parameters = tensor.parameters
    if REGION not in parameters:
        return None
    label = f"{kind} '{safe_text(tensor.name, 80)}'"
    region = parameters[REGION].string_param
    if not region:
        raise InvalidRequestError(f"{label}: parameter '{REGION}': got none, expected the name of a region")
    if REGION_SIZE not in parameters:
        raise InvalidRequestError(f"{label}: parameter '{REGION_SIZE}': got none, expected a number of bytes")
    return Place(region, _integer(REGION_OFFSET, parameters, label), _integer(REGION_SIZE, parameters, label))


def _integer(name: str, parameters: Mapping[str, InferParameter], label: str = "") -> int:
    """Returns a parameter that is a non-negative integer; 0 if it isn't given. Raises InvalidRequestError."""
    if name not in parameters:
        return 0
    which = parameters[name].WhichOneof("parameter_choice")
    value: object = getattr(parameters[name], which) if which else None
    prefix = f"{label}: " if label else ""
    if isinstance(value, str) and value.isdecimal() and len(value) <= 18:
        return int(value)
    if which not in ("int64_param", "uint64_param") or not isinstance(value, int) or value < 0:
        got = "nothing" if value is None else safe_text(repr(value), 80)
        raise InvalidRequestError(f"{prefix}parameter '{name}': got {got}, expected an integer from 0")
    return value
