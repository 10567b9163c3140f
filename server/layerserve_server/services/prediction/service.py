"""Handlers of layerserve.v1.PredictionService."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence

from layerserve.v1 import prediction_pb2

from layerserve_server.errors import ServerError
from layerserve_server.inference.queue import Arrays, QueuedRequest
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease
from layerserve_server.services.messages import LONG_BYTES, choice, parse
from layerserve_server.services.prediction.coalesced import CoalescedCalls
from layerserve_server.services.prediction.endpoint import Endpoint, endpoint_of
from layerserve_server.services.prediction.prediction_stream import PredictionStream, StreamedCall
from layerserve_server.services.prediction.request_template import RequestTemplate, RequestTemplates
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.PredictionService/"


class PredictionService:
    """Handlers of the prediction service."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._templates = RequestTemplates()
        #: A single bound method object: `Call.gather` groups calls by it.
        self._answer = self._answer_templates

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={SERVICE + "Predict": self.predict},
            prompt={SERVICE + "Predict"},
            both_streams={SERVICE + "PredictStream": self.predict_stream},
        )

    def predict(self, call: Call) -> None:
        """Handles Predict: replies with the outputs for the request's rows, computed in a batch with other requests."""
        template = self._templates.find(call.request)
        if template is not None:
            call.gather(self._answer, (call, template))
        else:
            self._parse(call, learn=True)

    def predict_stream(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles PredictStream: yields replies to many requests as they finish."""

        def start(call: StreamedCall) -> None:
            # Batches run in another thread, so that the event loop receives the requests of the next one meanwhile.
            self._start(call, call.message, here=False)

        return PredictionStream(stream, start).messages()

    def _answer_templates(self, known: Sequence[tuple[Call, RequestTemplate]]) -> None:
        """Answers calls of an event batch that have templates."""
        calls: dict[RequestTemplate, list[Call]] = {}
        for call, template in known:
            calls.setdefault(template, []).append(call)
        models = Counter(template.choice for template in calls) if len(calls) > 1 else None
        for template, same in calls.items():
            # Requests with different templates for one model can only be batched in its queue.
            if (models is not None and models[template.choice] > 1) or not self._answer_together(template, same):
                for call in same:
                    self._queue(call, template)

    def _answer_together(self, template: RequestTemplate, calls: Sequence[Call]) -> bool:
        """Answers calls with the same template without a queue. Returns False if that isn't possible."""
        try:
            held = self._repository.lease_loaded(*template.choice)
            if held is None:
                return False
            with held as version:
                endpoint = version.endpoints.get(template.outputs) or endpoint_of(version, template.outputs)
                layouts = endpoint.decoder.layouts(template)
                if layouts is None:
                    return False
                for call in calls:
                    call.about(version.name, version.version)
                return version.queue.run_together(CoalescedCalls(calls, template, layouts, endpoint))
        except ServerError:
            # An invalid choice of version or outputs is reported to each call separately.
            return False

    def _queue(self, call: Call, template: RequestTemplate) -> None:
        """Queues a call that has a template."""

        def read(held: Lease, endpoint: Endpoint) -> QueuedRequest | None:
            layouts = endpoint.decoder.layouts(template)
            if layouts is None:
                return None
            message = call.request
            arrays = {layout.name: layout.read(message) for layout in layouts}
            rows, id = layouts[0].shape[0], template.id(message)
            return _request(call, held, endpoint, arrays, rows, id, template.priority, template.max_queue_ms)

        try:
            held = self._repository.lease_loaded(*template.choice)
            if held is None or not _put(call, held, template.outputs, read, here=True):
                self._parse(call, learn=False)
        except Exception as error:
            call.fail(error)

    def _parse(self, call: Call, *, learn: bool) -> None:
        """Parses a request with protobuf and queues it; with `learn`, its template is cached."""

        def read() -> None:
            request = parse(prediction_pb2.PredictRequest, call.request)
            if learn:
                self._templates.learn(call.request, request, choice(request.model))
            self._start(call, request, here=True)

        if len(call.request) > LONG_BYTES:
            call.may_block(read)
        else:
            read()

    def _start(self, call: Call, message: prediction_pb2.PredictRequest, *, here: bool) -> None:
        """Queues a parsed request."""

        def read(held: Lease, endpoint: Endpoint) -> QueuedRequest:
            admitted, priority, max_ms = endpoint.decoder.read(message.inputs), message.priority, message.max_queue_ms
            return _request(call, held, endpoint, admitted.arrays, admitted.rows, message.id, priority, max_ms)

        def load() -> None:
            _put(call, self._repository.lease(name, version, label), outputs, read, here=here)

        name, version, label = choice(message.model)
        outputs = tuple(message.outputs)
        held = self._repository.lease_loaded(name, version, label)
        if held is not None:
            _put(call, held, outputs, read, here=here)
        else:
            call.may_block(load)


def _put(
    call: Call,
    held: Lease,
    outputs: tuple[str, ...],
    read: Callable[[Lease, Endpoint], QueuedRequest | None],
    *,
    here: bool,
) -> bool:
    """Adds a request to the queue of its version and runs it. Returns False, without effect, if `read` returns None.

    With `here`, a quick model runs in this thread, after all calls of the event batch were queued.
    """
    version = held.version
    try:
        call.about(version.name, version.version)
        request = read(held, endpoint_of(version, outputs))
        if request is None:
            held.end()
            return False
        queue = version.queue
        queue.put(request)
        call.on_gone(request.cancel)
    except BaseException:
        held.end()
        raise
    if here:
        call.afterwards(queue.run_if_quick)
    else:
        queue.run_in_background()
    return True


def _request(
    call: Call,
    held: Lease,
    endpoint: Endpoint,
    arrays: Arrays,
    rows: int,
    id: str,
    priority: int,
    max_queue_ms: int,
) -> QueuedRequest:
    """Makes the queued request of a call. `max_queue_ms` 0 means no limit. The lease ends when it is answered."""

    def answer(request: QueuedRequest) -> None:
        held.end()
        results = request.results
        if results is None:
            call.fail(request.error or RuntimeError("a request ended without results or error"))
        else:
            call.reply(lambda: endpoint.encoder.fill(results, id))

    admission = endpoint.admission
    padded = admission.padded_group(arrays)
    return QueuedRequest(
        outputs=endpoint.computed,
        arrays=arrays,
        rows=rows,
        joinable=admission.joinable,
        done=answer,
        deadline=call.deadline,
        priority=priority,
        give_up=call.arrived + max_queue_ms / 1000 if max_queue_ms else None,
        client=call.client,
        group=admission.group if padded is None else padded,
        padding=None if padded is None else admission.padding,
        arrived=call.arrived,
    )
