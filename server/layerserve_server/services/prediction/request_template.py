"""What requests that differ only in their numbers have in common: read once, and known again by their bytes.

A client sends the same message over and over, but for the tensors' data and the id. Where all other bytes are those of
a message that was read before, all else that it says is the same too: that is how the wire format works. So such a
message is recognised by comparing a few dozen bytes, and its arrays lie where those of the first one lay.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from layerserve.v1 import prediction_pb2, tensor_pb2

from layerserve_server.inference.runner import Array

#: Templates of messages of one length, and lengths: callers choose both, so there are bounds.
MAX_OF_LENGTH = 4
MAX_LENGTHS = 512
#: Bytes besides tensors' data that a message may have to be worth comparing.
MAX_FIXED_BYTES = 2048

#: Stands for a field number: those begin with 1.
GROUP = 0

_Request = prediction_pb2.PredictRequest
_Tensor = tensor_pb2.Tensor


class Span(NamedTuple):
    """Bytes of a message, from `start` up to `stop`."""

    start: int
    stop: int


class Tensor(NamedTuple):
    """A tensor of a request: all that the message says of it but its data, and where these lie."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    data: Span


class Layout(NamedTuple):
    """Where an input's array lies in a message."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    elements: int
    offset: int

    def read(self, message: bytes) -> Array:
        """The array, in place and so perhaps unaligned."""
        return np.frombuffer(message, self.dtype, self.elements, self.offset).reshape(self.shape)


class RequestTemplate:
    """Requests that are the same but for their tensors' data and their ids."""

    __slots__ = ("_fixed", "_id", "choice", "max_queue_ms", "outputs", "priority", "tensors")

    def __init__(
        self,
        message: bytes,
        request: prediction_pb2.PredictRequest,
        choice: tuple[str, int | None, str | None],
        tensors: tuple[Tensor, ...],
        id: Span | None,
    ) -> None:
        self.choice = choice
        self.outputs = tuple(request.outputs)
        self.priority = request.priority
        self.max_queue_ms = request.max_queue_ms
        self.tensors = tensors
        self._id = id
        holes = [tensor.data for tensor in tensors] + ([id] if id else [])
        self._fixed: list[tuple[int, bytes]] = []
        at = 0
        for start, stop in (*sorted(holes), (len(message), len(message))):
            if start > at:
                self._fixed.append((at, message[at:start]))
            at = stop

    @property
    def fixed_bytes(self) -> int:
        """Bytes that all of these requests share."""
        return sum(len(content) for _, content in self._fixed)

    def fits(self, message: bytes) -> bool:
        """Whether a message of the same length is one of these."""
        for start, content in self._fixed:
            if not message.startswith(content, start):
                return False
        # What is no text isn't a message.
        return self._id is None or message[self._id.start : self._id.stop].isascii()

    def id(self, message: bytes) -> str:
        """The id of one of these messages."""
        return "" if self._id is None else message[self._id.start : self._id.stop].decode("ascii")


class RequestTemplates:
    """The templates of requests that came before."""

    def __init__(self) -> None:
        self._by_length: dict[int, tuple[RequestTemplate, ...]] = {}

    def find(self, message: bytes) -> RequestTemplate | None:
        """The template of a message; None for one that looks new."""
        for template in self._by_length.get(len(message), ()):
            if template.fits(message):
                return template
        return None

    def learn(
        self, message: bytes, request: prediction_pb2.PredictRequest, choice: tuple[str, int | None, str | None]
    ) -> None:
        """Remembers what a message looks like that was read as `request`."""
        template = template_of(message, request, choice)
        if template is None or template.fixed_bytes > MAX_FIXED_BYTES:
            return
        if len(self._by_length) >= MAX_LENGTHS:
            self._by_length = {}
        known = self._by_length.get(len(message), ())
        self._by_length[len(message)] = (template, *known[: MAX_OF_LENGTH - 1])


def template_of(
    message: bytes, request: prediction_pb2.PredictRequest, choice: tuple[str, int | None, str | None]
) -> RequestTemplate | None:
    """The template of a message; None where a part of it stands there twice, so that one overrides the other."""
    ids: list[Span] = []
    data: list[Span] = []
    for number, span in fields(message, Span(0, len(message))):
        if number == GROUP:
            return None
        if number == _Request.ID_FIELD_NUMBER:
            ids.append(span)
        elif number == _Request.INPUTS_FIELD_NUMBER:
            inner = list(fields(message, span))
            found = [place for which, place in inner if which == _Tensor.DATA_FIELD_NUMBER]
            if len(found) != 1 or any(which == GROUP for which, _ in inner):
                return None
            data += found
    if len(ids) > 1 or len(data) != len(request.inputs):
        return None
    tensors = tuple(
        Tensor(tensor.name, tensor.dtype, tuple(tensor.shape), span)
        for tensor, span in zip(request.inputs, data, strict=True)
    )
    return RequestTemplate(message, request, choice, tensors, ids[0] if ids else None)


def fields(message: bytes, within: Span) -> Iterator[tuple[int, Span]]:
    """The fields with a length of a message that protobuf has read, by number, and where their content lies.

    https://protobuf.dev/programming-guides/encoding/ describes the format.
    """
    at = within.start
    while at < within.stop:
        key, at = _varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(message, at)
        elif kind == 2:
            length, at = _varint(message, at)
            yield key >> 3, Span(at, at + length)
            at += length
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            # A group, which is read by its content: no version of these messages has one.
            yield GROUP, Span(at, within.stop)
            return


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
