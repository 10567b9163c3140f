"""What `Predictor` needs of a protocol to answer its requests: how they are read, and how replies are written."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

from google.protobuf.descriptor import Descriptor

from layerserve_server.inference.admission import Admitted
from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array
from layerserve_server.repository.leases import Choice
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.encoded_rows import EncodedRows
from layerserve_server.services.prediction.places import Places, Sink
from layerserve_server.services.prediction.sequence_step import SequenceStep
from layerserve_server.transport.perimeter.message_size import is_long

#: Names of inputs are the model's own only.
NO_NAMES: Mapping[str, str] = MappingProxyType({})


class Span(NamedTuple):
    """A range of bytes of a message, from `start` to `stop` (exclusive)."""

    start: int
    stop: int


class GivenTensor(Protocol):
    """A tensor of a request."""

    @property
    def name(self) -> str: ...
    @property
    def dtype(self) -> str:
        """Name of its dtype, such as "float32"; empty if there is none of this number or name."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def data(self) -> bytes:
        """The elements, row-major and little-endian; empty if the message has them in another form."""

    def array(self) -> Array:
        """Decodes the elements. Raises InvalidTensorError if dtype, shape and elements don't match."""


class TensorDecoder(Protocol):
    """Decodes the tensors of requests for the same outputs of a version."""

    def read(self, given: Sequence[GivenTensor]) -> Admitted | EncodedRows:
        """Returns the model's input arrays, or what decodes them. Raises InvalidTensorError, and as `admit` does."""

    def read_bytes(self, data: bytes) -> Admitted | EncodedRows:
        """Does what `read` does for the elements of the model's only input alone."""


class RequestedOutputs(NamedTuple):
    """What a request asks for. A version caches an endpoint for each."""

    protocol: PredictProtocol
    #: Names of the outputs, in the order of the reply; all outputs of the model if empty.
    outputs: tuple[str, ...]
    #: Anything else that the names of inputs and outputs, or the form of the reply, depend on.
    form: Hashable = None


@dataclass(frozen=True, slots=True)
class PredictionRequest:
    """A request of any protocol."""

    choice: Choice
    requested: RequestedOutputs
    tensors: Sequence[GivenTensor]
    #: Returned to the client in the reply.
    id: str = ""
    priority: int = 0
    #: Maximum time in the queue, in seconds, after which the request is refused; None if unlimited.
    max_wait: float | None = None
    #: The sequence that it is a step of; None if it stands alone.
    sequence: SequenceStep | None = None
    #: The tensors that are in shared memory; None if it has none, or they were read.
    places: Places | None = None
    #: Outputs that are written elsewhere than into the reply, by name. Only the encoders of a protocol with `places`
    #: know these.
    sinks: Mapping[str, Sink] | None = None

    def admit(self, decoder: TensorDecoder) -> Admitted | EncodedRows:
        """Returns the model's input arrays, or what decodes them. Raises as `TensorDecoder.read` does."""
        return decoder.read(self.tensors)

    def fill(self, encoder: Any, results: Arrays) -> bytes:
        """Returns the reply by an `Encoder`. Raises as it does, and as `Sink.write`."""
        message: bytes = encoder.fill(results, self.id, self.sinks) if self.sinks else encoder.fill(results, self.id)
        return message


@dataclass(frozen=True, slots=True)
class BytesRequest(PredictionRequest):
    """A request that has the elements of the model's only input alone, which describe themselves by their number."""

    data: bytes = b""

    def admit(self, decoder: TensorDecoder) -> Admitted | EncodedRows:
        """Returns the model's input array, or what decodes it. Raises as `TensorDecoder.read_bytes` does."""
        return decoder.read_bytes(self.data)


class Encoder(Protocol):
    """Encodes replies to requests for the same outputs of a version."""

    def fill(self, results: Arrays, id: str) -> bytes:
        """Returns the serialized reply with these arrays."""

    def split(self, results: Arrays, rows: int, ids: Sequence[str]) -> list[bytes]:
        """Returns a serialized reply for each id, with the next `rows` rows of the results each."""


def _same(reply: bytes) -> bytes:
    return reply


class PredictProtocol(Protocol):
    """Conversions between a protocol's messages and what is common to all protocols."""

    #: The type of requests.
    descriptor: Descriptor

    def is_long(self, message: bytes) -> bool:
        """Whether reading a message may delay other calls."""
        return is_long(message, self.descriptor)

    def read(self, message: bytes) -> Any:
        """Parses a message. Raises InvalidRequestError if it isn't valid."""

    def request(self, message: Any) -> PredictionRequest:
        """Returns the meaning of a parsed message, without decoding its arrays. Raises InvalidRequestError."""

    def method_call(self, message: bytes) -> tuple[bytes, Callable[[bytes], bytes]]:
        """Returns the gRPC method's message for a message, and what makes the reply of the method's reply."""
        return message, _same

    def spans(self, message: bytes, request: PredictionRequest) -> tuple[list[Span], Span | None] | None:
        """Returns where a message has the `data` of its tensors, in their order, and its id, if it has one.

        Returns None if other messages may not be read in the same way.
        """

    def plain_id(self, id: bytes) -> bool:
        """Whether an id, where a template has one, is what these bytes of a message are."""
        # protobuf refuses ids that aren't UTF-8.
        return id.isascii()

    def input_names(self, version: LoadedVersion, requested: RequestedOutputs) -> Mapping[str, str]:
        """Returns further names of a model's inputs, each with the model's own name; by default none.

        Raises InvalidRequestError.
        """
        return NO_NAMES

    def output_names(self, version: LoadedVersion, requested: RequestedOutputs) -> tuple[str, ...]:
        """Returns the model's own names for the outputs of a request; by default the names that it has.

        Raises InvalidRequestError.
        """
        return requested.outputs

    def encoder(self, version: LoadedVersion, requested: RequestedOutputs, names: tuple[str, ...]) -> Encoder:
        """Returns the encoder for replies with the outputs `names`, the model's own names."""
