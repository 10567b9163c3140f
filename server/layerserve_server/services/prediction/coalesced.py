"""Calls of one burst that are alike: where the model is quick and free, they are its next batch, without a queue.

Their arrays are joined straight from the messages' bytes, and the results cut into replies as bytes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np

from layerserve_server.errors import BusyError, DeadlinePassedError, InvalidRequestError
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.runner import Array
from layerserve_server.services.prediction.endpoint import Endpoint
from layerserve_server.services.prediction.request_template import Layout, RequestTemplate
from layerserve_server.transport.call import Call


def answer_coalesced(
    lane: BatchQueue, selection: Endpoint, pattern: RequestTemplate, layouts: Sequence[Layout], calls: Sequence[Call]
) -> None:
    """Answers calls of a pattern, in as few batches as they fit into. This thread has the lane's lead."""
    most = max(1, lane.max_batch_rows // layouts[0].shape[0])
    for start in range(0, len(calls), most):
        batch = _still_wanted(pattern, calls[start : start + most])
        if batch:
            _answer_batch(lane, selection, pattern, layouts, batch)


def _still_wanted(pattern: RequestTemplate, calls: Sequence[Call]) -> list[Call]:
    """The calls to compute. The others have their answer, or get it here."""
    now = time.monotonic()
    kept = []
    for call in calls:
        if call.answered:
            continue
        if call.deadline is not None and call.deadline <= now:
            call.fail(DeadlinePassedError("the deadline passed while the request waited"))
        elif pattern.max_queue_ms and call.arrived + pattern.max_queue_ms / 1000 <= now:
            call.fail(BusyError("the request waited for longer than it wanted to", retry_after=0.01))
        else:
            kept.append(call)
    return kept


def _answer_batch(
    lane: BatchQueue, selection: Endpoint, pattern: RequestTemplate, layouts: Sequence[Layout], calls: Sequence[Call]
) -> None:
    messages = [call.request for call in calls]
    rows, now = layouts[0].shape[0], time.monotonic()
    try:
        arrays = {layout.name: _joined(layout, messages) for layout in layouts}
        waited = [now - call.arrived for call in calls]
        results = lane.run_now(selection.computed, arrays, rows * len(calls), waited)
        replies = selection.reply.split(results, rows, [pattern.id(message) for message in messages])
    except InvalidRequestError as error:
        if len(calls) == 1:
            calls[0].fail(error)
        else:
            # One caller's content is at fault, and the others must not pay for it.
            for call in calls:
                _answer_batch(lane, selection, pattern, layouts, [call])
        return
    except Exception as error:
        for call in calls:
            call.fail(error)
        return
    for call, reply in zip(calls, replies, strict=True):
        call.answer(reply)


def _joined(layout: Layout, messages: Sequence[bytes]) -> Array:
    """The rows of all messages."""
    if len(messages) == 1:
        # A copy, as what lies within a message can't be written to, nor need it be aligned.
        alone: Array = layout.read(messages[0]).copy()
        return alone
    start, stop = layout.offset, layout.offset + layout.elements * layout.dtype.itemsize
    content = bytearray().join([memoryview(message)[start:stop] for message in messages])
    joined = np.frombuffer(content, layout.dtype)
    rows: Array = joined.reshape(layout.shape[0] * len(messages), *layout.shape[1:])
    return rows
