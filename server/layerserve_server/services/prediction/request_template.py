"""Request templates: recognizes requests that differ from an earlier one only in tensor data and id, without parsing.

Clients repeat the same message with other data and ids. If all other bytes equal those of a parsed message, then by the
wire format all other fields are equal, too. Such a message is recognized by comparing a few dozen bytes, and its arrays
are at the same offsets as in the parsed message.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from layerserve_server.inference.runner import Array
from layerserve_server.services.prediction.predict_protocol import PredictionRequest, Span

#: Maximum number of templates per message length, and of lengths. Clients choose both, so there have to be limits.
MAX_OF_LENGTH = 4
MAX_LENGTHS = 512
#: Maximum number of compared bytes, those besides tensor data and id; longer messages get no template.
MAX_FIXED_BYTES = 2048


class Tensor(NamedTuple):
    """A tensor of a request: its name, dtype and shape, and the span of its data."""

    name: str
    dtype: str
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

    __slots__ = ("_fixed", "_id", "choice", "max_wait", "priority", "requested", "tensors")

    def __init__(
        self, message: bytes, request: PredictionRequest, tensors: tuple[Tensor, ...], id: Span | None
    ) -> None:
        self.choice = request.choice
        self.requested = request.requested
        self.priority = request.priority
        self.max_wait = request.max_wait
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
        return self._id is None or self.requested.protocol.plain_id(message[self._id.start : self._id.stop])

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

    def learn(self, message: bytes, request: PredictionRequest) -> None:
        """Caches the template of a message that was parsed as `request`."""
        template = template_of(message, request)
        if template is None or template.fixed_bytes > MAX_FIXED_BYTES:
            return
        if len(self._by_length) >= MAX_LENGTHS:
            self._by_length = {}
        known = self._by_length.get(len(message), ())
        self._by_length[len(message)] = (template, *known[: MAX_OF_LENGTH - 1])


def template_of(message: bytes, request: PredictionRequest) -> RequestTemplate | None:
    """Returns the template of a message; None if its protocol can't read other messages in the same way."""
    found = request.requested.protocol.spans(message, request)
    if found is None:
        return None
    data, id = found
    tensors = tuple(
        Tensor(tensor.name, tensor.dtype, tensor.shape, span)
        for tensor, span in zip(request.tensors, data, strict=True)
    )
    return RequestTemplate(message, request, tensors, id)
