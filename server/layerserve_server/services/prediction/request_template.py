"""Request templates: recognizes requests that differ from an earlier one only in tensor data and id, without parsing.

Clients repeat the same message with other data and ids. If all other bytes equal those of a parsed message, then by the
wire format all other fields are equal, too. Such a message is recognized by comparing a few dozen bytes, and its arrays
are at the same offsets as in the parsed message.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from layerserve.v1 import prediction_pb2, tensor_pb2

from layerserve_server.inference.runner import Array

#: Maximum number of templates per message length, and of lengths. Clients choose both, so there have to be limits.
MAX_OF_LENGTH = 4
MAX_LENGTHS = 512
#: Maximum number of compared bytes, those besides tensor data and id; longer messages get no template.
MAX_FIXED_BYTES = 2048

#: Returned in place of the field number for a group; field numbers start at 1.
GROUP = 0

_Request = prediction_pb2.PredictRequest
_Tensor = tensor_pb2.Tensor


class Span(NamedTuple):
    """A range of bytes of a message, from `start` to `stop` (exclusive)."""

    start: int
    stop: int


class Tensor(NamedTuple):
    """A tensor of a request: its name, dtype (as on the wire) and shape, and the span of its data."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    data: Span


class Layout(NamedTuple):
    """Dtype, shape and byte offset of an input's array in a message."""

    name: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    elements: int
    offset: int

    def read(self, message: bytes) -> Array:
        """Returns the array in a message as a view: read-only and perhaps unaligned."""
        return np.frombuffer(message, self.dtype, self.elements, self.offset).reshape(self.shape)


class RequestTemplate:
    """The common part of requests that are equal except for tensor data and id."""

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
        """Number of bytes that are equal in all of these requests."""
        return sum(len(content) for _, content in self._fixed)

    def fits(self, message: bytes) -> bool:
        """Whether a message of the same length has this template."""
        for start, content in self._fixed:
            if not message.startswith(content, start):
                return False
        # protobuf refuses ids that aren't UTF-8, so only ASCII is accepted without parsing.
        return self._id is None or message[self._id.start : self._id.stop].isascii()

    def id(self, message: bytes) -> str:
        """Returns the id of a message with this template; empty if it has none."""
        return "" if self._id is None else message[self._id.start : self._id.stop].decode("ascii")


class RequestTemplates:
    """Cache of templates of earlier requests."""

    def __init__(self) -> None:
        self._by_length: dict[int, tuple[RequestTemplate, ...]] = {}

    def find(self, message: bytes) -> RequestTemplate | None:
        """Returns the template of a message; None if it has no cached one."""
        for template in self._by_length.get(len(message), ()):
            if template.fits(message):
                return template
        return None

    def learn(
        self, message: bytes, request: prediction_pb2.PredictRequest, choice: tuple[str, int | None, str | None]
    ) -> None:
        """Caches the template of a message that was parsed as `request`."""
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
    """Returns the template of a message; None if a field occurs twice, so that the last one counts, or has a group."""
    ids: list[Span] = []
    data: list[Span] = []
    for number, span in fields(message, Span(0, len(message))):
        if number == GROUP:
            return None
        if number == _Request.ID_FIELD_NUMBER:
            ids.append(span)
        elif number == _Request.INPUTS_FIELD_NUMBER:
            inner = list(fields(message, span))
            found = [found_span for which, found_span in inner if which == _Tensor.DATA_FIELD_NUMBER]
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
    """Yields number and span of the length-delimited fields of a valid message.

    For the format see https://protobuf.dev/programming-guides/encoding/.
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
            # A group, whose end is found only by parsing it. These messages never had any.
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
