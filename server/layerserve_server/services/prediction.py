"""layerserve.v1.PredictionService: arrays in, arrays out."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from layerserve.v1 import prediction_pb2

from layerserve_server.admission import Admission
from layerserve_server.batching import Lane, Pending
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease, LoadedVersion
from layerserve_server.services.answers import Answers
from layerserve_server.services.messages import choice, parse
from layerserve_server.services.reply import ReplyForm
from layerserve_server.services.request import RequestForm
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.PredictionService/"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a version has ready for requests that ask for the same outputs."""

    admission: Admission
    request: RequestForm
    #: Each output once, as the model computes them.
    computed: tuple[str, ...]
    reply: ReplyForm


class PredictionService:
    """Handlers of the prediction service."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def routes(self) -> Routes:
        """Its methods."""
        return Routes(
            unary={SERVICE + "Predict": self.predict},
            prompt={SERVICE + "Predict"},
            both_streams={SERVICE + "PredictStream": self.predict_stream},
        )

    def predict(self, call: Call) -> None:
        """Puts the request's rows into the version's lane. The reply comes from there."""
        request = parse(prediction_pb2.PredictRequest, call.request)

        def run(lane: Lane) -> None:
            # Where no thread waits for this call, the one that took it has others to take.
            call.afterwards(lane.run_if_quick if call.lend is None else lane.run)

        self._start(call, request, run)

    def predict_stream(self, stream: Stream) -> Iterator[bytes]:
        """Many requests, answered as they finish."""
        answers = Answers(stream)

        def read() -> None:
            for call in answers.calls():
                try:
                    # Not here: while a batch runs, this thread reads what will be the next one.
                    self._start(call, call.message, Lane.run_elsewhere)
                except Exception as error:
                    call.fail(error)

        threading.Thread(target=read, name="predict stream", daemon=True).start()
        yield from answers

    def _start(self, call: Call, request: prediction_pb2.PredictRequest, run: Callable[[Lane], None]) -> None:
        name, version, label = choice(request.model)
        held = self._repository.lease_loaded(name, version, label)
        if held is not None:
            run(_put(call, request, held))
        else:
            call.may_block(lambda: run(_put(call, request, self._repository.lease(name, version, label))))


def _put(call: Call, request: prediction_pb2.PredictRequest, held: Lease) -> Lane:
    """Puts a request into the lane of its version, which must be told to run it."""
    version = held.version
    try:
        call.about(version.name, version.version)
        outputs = tuple(request.outputs)
        selection = version.execution.kept(outputs, lambda: _selection(version, outputs))
        admitted = selection.request.read(request.inputs)

        def answer(pending: Pending) -> None:
            held.end()
            results = pending.results
            if results is None:
                call.fail(pending.error or RuntimeError("a request ended without results or error"))
            else:
                call.reply(lambda: selection.reply.fill(results, request.id))

        pending = Pending(
            outputs=selection.computed,
            arrays=admitted.arrays,
            rows=admitted.rows,
            joinable=selection.admission.joinable,
            done=answer,
            deadline=call.deadline,
            priority=request.priority,
            group=selection.admission.group,
            lend=call.lend,
        )
        if request.max_queue_ms:
            pending.give_up = pending.arrived + request.max_queue_ms / 1000
        version.lane.put(pending)
    except BaseException:
        held.end()
        raise
    call.on_gone(pending.cancel)
    return version.lane


def _selection(version: LoadedVersion, outputs: tuple[str, ...]) -> Selection:
    plan = version.execution.plan(outputs)
    names = outputs or tuple(spec.name for spec in version.model.output_specs)
    computed = tuple(dict.fromkeys(names))
    admission = Admission(plan, version.model.input_specs, computed)
    return Selection(admission, RequestForm(admission), computed, ReplyForm(version.name, version.version, names))
