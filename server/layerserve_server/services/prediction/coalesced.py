"""Coalesced calls: calls of an event batch whose requests have the same template, which form a batch without a queue.

Their arrays are concatenated directly from the messages' bytes, and the results are split into replies as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from layergraph.execution.kept_plan import NotKeptError

from layerserve_server.inference.queue import Arrays
from layerserve_server.inference.runner import Array
from layerserve_server.services.prediction.endpoint import Endpoint
from layerserve_server.services.prediction.request_template import Layout, RequestTemplate
from layerserve_server.transport.call import Call, Trace


class CoalescedCalls:
    """Calls with the same template that run as one batch, or as few as possible (see batching.CoalescedGroup)."""

    __slots__ = ("_endpoint", "_layouts", "_template", "_whole", "request_rows", "requests")

    #: Always joinable: otherwise the endpoint has no layouts.
    joinable = True

    def __init__(
        self,
        calls: Sequence[Call],
        template: RequestTemplate,
        layouts: Sequence[Layout],
        endpoint: Endpoint,
        whole: Callable[[Call], None] | None = None,
    ) -> None:
        """`layouts` are the layouts of the model's inputs in messages of the template.

        `whole` begins a call again, if the version was kept and that doesn't suffice.
        """
        self.requests = calls
        self._template = template
        self._layouts = layouts
        self._endpoint = endpoint
        self._whole = whole
        self.request_rows = layouts[0].shape[0]

    @property
    def outputs(self) -> tuple[str, ...]:
        return self._endpoint.computed

    @property
    def rows(self) -> int:
        return self.request_rows * len(self.requests)

    @property
    def size(self) -> int:
        return len(self.requests)

    @property
    def max_wait(self) -> float | None:
        return self._template.max_wait

    def traces(self) -> list[Trace]:
        return [call.trace for call in self.requests if call.trace is not None]

    def arrays(self) -> dict[str, Array]:
        messages = [call.request for call in self.requests]
        return {layout.name: _joined(layout, messages) for layout in self._layouts}

    def deliver(self, results: Arrays) -> None:
        try:
            ids = [self._template.id(call.request) for call in self.requests]
            replies = self._endpoint.encoder.split(results, self.request_rows, ids)
        except Exception as error:
            self.fail(error)
            return
        for call, reply in zip(self.requests, replies, strict=True):
            call.answer(reply)

    def fail(self, error: Exception) -> None:
        for call in self.requests:
            if self._whole is not None and isinstance(error, NotKeptError):
                begin_again(call, partial(self._whole, call))
            else:
                call.fail(error)

    def drop_answered(self) -> None:
        self.requests = [call for call in self.requests if not call.answered]

    def split(self) -> Sequence[CoalescedCalls]:
        return [self._part([call]) for call in self.requests]

    def parts(self, max_rows: int) -> Sequence[CoalescedCalls]:
        count = max_rows // self.request_rows
        if len(self.requests) <= count:
            return (self,)
        return [self._part(self.requests[start : start + count]) for start in range(0, len(self.requests), count)]

    def _part(self, calls: Sequence[Call]) -> CoalescedCalls:
        return CoalescedCalls(calls, self._template, self._layouts, self._endpoint, self._whole)


def begin_again(call: Call, whole: Callable[[], None]) -> None:
    """Begins a call again with the version's whole model, or fails it."""
    try:
        whole()
    except Exception as error:
        call.fail(error)


def _joined(layout: Layout, messages: Sequence[bytes]) -> Array:
    """Concatenates the rows of an input in all messages."""
    if len(messages) == 1:
        # A copy, since an array within a message is read-only and may be unaligned.
        alone: Array = layout.read(messages[0]).copy()
        return alone
    start, stop = layout.offset, layout.offset + layout.elements * layout.dtype.itemsize
    content = bytearray().join([memoryview(message)[start:stop] for message in messages])
    joined = np.frombuffer(content, layout.dtype)
    rows: Array = joined.reshape(layout.shape[0] * len(messages), *layout.shape[1:])
    return rows
