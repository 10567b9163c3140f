"""layerserve.v1.PredictionService: arrays in, arrays out."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

from layerserve.v1 import prediction_pb2

from layerserve_server.errors import ServerError
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.queue import Arrays, QueuedRequest
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease
from layerserve_server.services.messages import LONG_BYTES, choice, parse
from layerserve_server.services.prediction.coalesced import answer_coalesced
from layerserve_server.services.prediction.endpoint import Endpoint, select
from layerserve_server.services.prediction.prediction_stream import PredictionStream
from layerserve_server.services.prediction.request_template import RequestTemplate, RequestTemplates
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.PredictionService/"


class PredictionService:
    """Handlers of the prediction service."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._patterns = RequestTemplates()
        #: One object, as calls that name the same are answered together.
        self._answer_known = self._answer_patterns

    def routes(self) -> Routes:
        """Its methods."""
        return Routes(
            unary={SERVICE + "Predict": self.predict},
            prompt={SERVICE + "Predict"},
            both_streams={SERVICE + "PredictStream": self.predict_stream},
        )

    def predict(self, call: Call) -> None:
        """Answers with the results for the request's rows, in a batch with others."""
        pattern = self._patterns.find(call.request)
        if pattern is not None:
            call.gather(self._answer_known, (call, pattern))
        else:
            self._read(call, learn=True)

    def predict_stream(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Many requests, answered as they finish."""
        # Batches run elsewhere: while one does, the event loop reads what will be the next one.
        return PredictionStream(
            stream, lambda call: self._start(call, call.message, BatchQueue.run_elsewhere)
        ).messages()

    def _answer_patterns(self, known: Sequence[tuple[Call, RequestTemplate]]) -> None:
        """Answers calls that came together and have patterns."""
        calls: dict[RequestTemplate, list[Call]] = {}
        for call, pattern in known:
            calls.setdefault(pattern, []).append(call)
        patterns = Counter(pattern.choice for pattern in calls) if len(calls) > 1 else None
        for pattern, alike in calls.items():
            # Different requests for one model make one batch only if they meet in its queue.
            if (patterns is not None and patterns[pattern.choice] > 1) or not self._answer_at_once(pattern, alike):
                for call in alike:
                    self._try(call, pattern)

    def _answer_at_once(self, pattern: RequestTemplate, calls: Sequence[Call]) -> bool:
        """Answers calls that are alike without a queue, if that can be done."""
        try:
            held = self._repository.lease_loaded(*pattern.choice)
            if held is None:
                return False
            with held as version:
                selection = select(version, pattern.outputs)
                layouts, lane = selection.request.layouts(pattern), version.queue
                if layouts is None:
                    return False
                rows = layouts[0].shape[0]
                if rows > lane.max_batch_rows or not lane.lead(min(rows * len(calls), lane.max_batch_rows)):
                    return False
                try:
                    for call in calls:
                        call.about(version.name, version.version)
                    answer_coalesced(lane, selection, pattern, layouts, calls)
                finally:
                    lane.cease()
        except ServerError:
            # Whatever is wrong with the choice of a version or of outputs: each is told.
            return False
        return True

    def _try(self, call: Call, pattern: RequestTemplate) -> None:
        try:
            held = self._repository.lease_loaded(*pattern.choice)
            lane = _put_known(call, pattern, held) if held is not None else None
            if lane is not None:
                call.afterwards(lane.run_if_quick)
            else:
                self._read(call, learn=False)
        except Exception as error:
            call.fail(error)

    def _read(self, call: Call, *, learn: bool) -> None:
        """Reads a request the long way; with `learn`, one that is like none before it."""

        def read() -> None:
            request = parse(prediction_pb2.PredictRequest, call.request)
            if learn:
                self._patterns.learn(call.request, request, choice(request.model))
            self._start(call, request, lambda lane: call.afterwards(lane.run_if_quick))

        if len(call.request) > LONG_BYTES:
            call.may_block(read)
        else:
            read()

    def _start(self, call: Call, request: prediction_pb2.PredictRequest, run: Callable[[BatchQueue], None]) -> None:
        name, version, label = choice(request.model)
        held = self._repository.lease_loaded(name, version, label)
        if held is not None:
            run(_put(call, request, held))
        else:
            call.may_block(lambda: run(_put(call, request, self._repository.lease(name, version, label))))


def _put(call: Call, request: prediction_pb2.PredictRequest, held: Lease) -> BatchQueue:
    """Puts a request into the lane of its version, which must be told to run it."""
    version = held.version
    try:
        call.about(version.name, version.version)
        selection = select(version, tuple(request.outputs))
        admitted = selection.request.read(request.inputs)
        pending = _pending(call, held, selection, admitted.arrays, admitted.rows, request.id)
        return _queue(call, pending, version.queue, request.priority, request.max_queue_ms)
    except BaseException:
        held.end()
        raise


def _put_known(call: Call, pattern: RequestTemplate, held: Lease) -> BatchQueue | None:
    """As `_put`, for a request of a known pattern; None where its arrays must be read the long way."""
    version = held.version
    try:
        selection = select(version, pattern.outputs)
        layouts = selection.request.layouts(pattern)
        if layouts is None:
            held.end()
            return None
        call.about(version.name, version.version)
        message = call.request
        arrays = {layout.name: layout.read(message) for layout in layouts}
        pending = _pending(call, held, selection, arrays, layouts[0].shape[0], pattern.id(message))
        return _queue(call, pending, version.queue, pattern.priority, pattern.max_queue_ms)
    except BaseException:
        held.end()
        raise


def _pending(call: Call, held: Lease, selection: Endpoint, arrays: Arrays, rows: int, id: str) -> QueuedRequest:
    def answer(pending: QueuedRequest) -> None:
        held.end()
        results = pending.results
        if results is None:
            call.fail(pending.error or RuntimeError("a request ended without results or error"))
        else:
            call.reply(lambda: selection.reply.fill(results, id))

    admission = selection.admission
    padded = admission.padded_group(arrays)
    return QueuedRequest(
        outputs=selection.computed,
        arrays=arrays,
        rows=rows,
        joinable=admission.joinable,
        done=answer,
        deadline=call.deadline,
        client=call.client,
        group=admission.group if padded is None else padded,
        padding=None if padded is None else admission.padding,
        arrived=call.arrived,
    )


def _queue(call: Call, pending: QueuedRequest, lane: BatchQueue, priority: int, max_queue_ms: int) -> BatchQueue:
    pending.priority = priority
    if max_queue_ms:
        pending.give_up = pending.arrived + max_queue_ms / 1000
    lane.put(pending)
    call.on_gone(pending.cancel)
    return lane
