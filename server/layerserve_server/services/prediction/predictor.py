"""Answers requests of all protocols: together if they have the same template, else by the queue of their version."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeAlias

from layerserve_server.errors import (
    ServerError,
    UnknownModelError,
    UnknownVersionError,
    VersionFailedError,
)
from layerserve_server.inference.queue import Arrays, QueuedRequest
from layerserve_server.repository.canary import Shadow
from layerserve_server.repository.loaded_models import LOAD_TRIES
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease, LoadedVersion
from layerserve_server.services.prediction.caller_key import caller_key
from layerserve_server.services.prediction.coalesced import CoalescedCalls
from layerserve_server.services.prediction.endpoint import Endpoint, endpoint_of
from layerserve_server.services.prediction.predict_protocol import (
    Choice,
    PredictionRequest,
    PredictProtocol,
    RequestedOutputs,
)
from layerserve_server.services.prediction.request_template import RequestTemplate, RequestTemplates
from layerserve_server.services.prediction.samples import RequestSamples
from layerserve_server.services.prediction.shadow import Shadows
from layerserve_server.services.waiting import proceed, unloaded
from layerserve_server.transport.call import Call, Handler


class Observed(Protocol):
    """A request whose arrays are seen by something else than its caller."""

    def answered(self, version: LoadedVersion, outputs: tuple[str, ...], results: Arrays | None) -> None:
        """Called after the answer was given. `results` is None if that is an error."""


#: Begins to observe a request with these outputs, arrays and id.
Observe: TypeAlias = Callable[[RequestedOutputs, Arrays, str], Observed | None]


#: Reads the arrays of a request for its version; None if another reading is needed.
Read: TypeAlias = Callable[[Lease, Endpoint], QueuedRequest | None]


class Predictor:
    """Answers calls with the outputs for their rows, computed in a batch with other requests."""

    def __init__(self, repository: Repository, shadows: Shadows, samples: RequestSamples) -> None:
        self._repository = repository
        self._samples = samples
        self._shadows = shadows
        #: A single bound method object: `Call.gather` groups calls by it.
        self._answer = self._answer_templates

    def handler(self, protocol: PredictProtocol) -> Handler:
        """Returns the handler of a protocol's unary method. It never blocks."""
        templates = RequestTemplates()

        def handle(call: Call) -> None:
            template = templates.find(call.request)
            if template is not None:
                _admit(call, template)
                if (self._repository.shadows or self._repository.sampled) and (
                    observers := self._observers(template.choice)
                ):
                    # Its results are needed as arrays.
                    self._queue(call, template, self._chosen(call, template.choice), observers)
                else:
                    call.gather(self._answer, (call, template))
            else:
                self._parse(call, protocol, templates)

        return handle

    def start(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """Queues a parsed request. Raises an error if it is invalid, or answers the call with it.

        With `here`, a quick model runs in this thread, after all calls of the event batch were queued.
        """
        _admit(call, request)
        self._start(call, request, here=here)

    def _start(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """Queues a parsed request of a caller that may send it."""

        observers = self._observers(request.choice)

        def read(held: Lease, endpoint: Endpoint) -> QueuedRequest:
            admitted = endpoint.decoder.read(request.tensors)
            samples = [observe(request.requested, admitted.arrays, request.id) for observe in observers]
            return _queued(call, held, endpoint, admitted.arrays, admitted.rows, request.id, request, samples)

        self._begin(call, self._chosen(call, request.choice), request, read, LOAD_TRIES, here=here)

    def _begin(
        self, call: Call, choice: Choice, request: PredictionRequest, read: Read, tries: int, *, here: bool
    ) -> None:
        """Queues a request, after its version was loaded if it isn't: up to `tries` times."""
        held = self._lease_loaded(choice, request.choice)
        if held is not None:
            _put(call, held, request, read, here=here)
            return
        if not tries:
            raise unloaded(request.choice[0])
        again = partial(self._begin, call, choice, request, read, tries - 1, here=here)
        self._load(choice, request.choice, partial(proceed, call, again), lambda: call.answered)

    def _answer_templates(self, known: Sequence[tuple[Call, RequestTemplate]]) -> None:
        """Answers calls of an event batch that have templates."""
        calls: dict[RequestTemplate, list[Call]] = {}
        for call, template in known:
            calls.setdefault(template, []).append(call)
        if self._repository.canaries:
            self._answer_divided(calls)
            return
        models = Counter(template.choice for template in calls) if len(calls) > 1 else None
        for template, same in calls.items():
            self._answer_group(template, template.choice, same, alone=models is None or models[template.choice] == 1)

    def _answer_divided(self, calls: Mapping[RequestTemplate, Sequence[Call]]) -> None:
        """Answers calls by template, when some of their callers get other versions than others."""
        divided: dict[tuple[RequestTemplate, Choice], list[Call]] = {}
        for template, same in calls.items():
            for call in same:
                divided.setdefault((template, self._chosen(call, template.choice)), []).append(call)
        models = Counter(choice for _, choice in divided)
        for (template, choice), same in divided.items():
            self._answer_group(template, choice, same, alone=models[choice] == 1)

    def _answer_group(self, template: RequestTemplate, choice: Choice, calls: Sequence[Call], *, alone: bool) -> None:
        """Answers calls with the same template and version; `alone` if others of the event batch have another one."""
        # Requests with different templates for one model can only be batched in its queue.
        if not alone or not self._answer_together(template, choice, calls):
            for call in calls:
                self._queue(call, template, choice)

    def _chosen(self, call: Call, named: Choice) -> Choice:
        """Returns the version for a call that names a model, a version or a label: perhaps the model's canary."""
        if not self._repository.canaries or named[1] is not None or named[2] is not None:
            return named
        canary = self._repository.canaries.get(named[0])
        return (named[0], canary.version, None) if canary is not None and canary.takes(caller_key(call)) else named

    def _observers(self, named: Choice) -> Sequence[Observe]:
        """Returns what is to see the arrays of a call that names a model, a version or a label."""
        found: list[Observe] = []
        if self._repository.shadows and (shadow := self._shadow(named)) is not None:
            found.append(lambda requested, arrays, _: self._shadows.sample(shadow, requested, arrays))
        if self._repository.sampled and self._samples.chosen(named[0]):
            found.append(lambda _, arrays, name: self._samples.sample(arrays, name))
        return found

    def _shadow(self, named: Choice) -> Shadow | None:
        """Returns the shadow version that is to compute a call, too, that names a model, a version or a label."""
        return self._shadows.chosen(named[0]) if named[1] is None and named[2] is None else None

    def _lease_loaded(self, choice: Choice, named: Choice) -> Lease | None:
        """Leases the chosen version; None if it has to be loaded. Of a canary that can't answer, the named one."""
        if choice is not named:
            with suppress(ServerError):
                held = self._repository.lease_loaded(*choice)
                if held is not None or self._repository.limited:
                    return held
        return self._repository.lease_loaded(*named)

    def _load(
        self, choice: Choice, named: Choice, proceed: Callable[[Exception | None], None], gone: Callable[[], bool]
    ) -> None:
        """Has the version loaded that `_lease_loaded` would lease. See `Repository.when_loaded`."""
        if choice is not named and self._repository.limited:
            with suppress(VersionFailedError, UnknownModelError, UnknownVersionError):
                self._repository.when_loaded(*choice, proceed, gone)
                return
        self._repository.when_loaded(*named, proceed, gone)

    def _answer_together(self, template: RequestTemplate, choice: Choice, calls: Sequence[Call]) -> bool:
        """Answers calls with the same template and version without a queue. Returns False if that isn't possible."""
        try:
            held = self._repository.lease_loaded(*choice)
            if held is None:
                return False
            with held as version:
                endpoint = version.endpoints.get(template.requested) or endpoint_of(version, template.requested)
                layouts = endpoint.decoder.layouts(template)
                if layouts is None:
                    return False
                for call in calls:
                    call.about(version.name, version.version)
                return version.queue.run_together(CoalescedCalls(calls, template, layouts, endpoint))
        except ServerError:
            # An invalid choice of version or outputs is reported to each call separately.
            return False

    def _queue(self, call: Call, template: RequestTemplate, choice: Choice, observers: Sequence[Observe] = ()) -> None:
        """Queues a call that has a template."""

        def read(held: Lease, endpoint: Endpoint) -> QueuedRequest | None:
            layouts = endpoint.decoder.layouts(template)
            if layouts is None:
                return None
            message = call.request
            arrays = {layout.name: layout.read(message) for layout in layouts}
            id = template.id(message)
            samples = [observe(template.requested, arrays, id) for observe in observers]
            return _queued(call, held, endpoint, arrays, layouts[0].shape[0], id, template, samples)

        try:
            held = self._lease_loaded(choice, template.choice)
            if held is None or not _put(call, held, template, read, here=True):
                self._parse(call, template.requested.protocol)
        except Exception as error:
            call.fail(error)

    def _parse(self, call: Call, protocol: PredictProtocol, templates: RequestTemplates | None = None) -> None:
        """Parses a request and queues it. Its template is added to `templates` unless the request is refused."""

        def read() -> None:
            request = protocol.request(protocol.read(call.request))
            # One that has a template was admitted before.
            if templates is not None:
                _admit(call, request)
            self._start(call, request, here=True)
            if templates is not None:
                templates.learn(call.request, request)

        if protocol.is_long(call.request):
            call.may_block(read)
        else:
            read()


def _admit(call: Call, request: PredictionRequest | RequestTemplate) -> None:
    """Raises ForbiddenError if the caller may not use the model, QuotaError if it has used up its rows."""
    caller = call.caller
    if caller.unlimited and not caller.reserved.restrictions:
        return
    caller.check_model("predict", request.choice[0])
    if caller.quota is not None:
        caller.quota.take_rows(max((1, *(tensor.shape[0] for tensor in request.tensors if tensor.shape))))


def _put(
    call: Call,
    held: Lease,
    request: PredictionRequest | RequestTemplate,
    read: Read,
    *,
    here: bool,
) -> bool:
    """Adds a request to the queue of its version and runs it. Returns False, without effect, if `read` returns None."""
    version = held.version
    try:
        call.about(version.name, version.version)
        queued = read(held, endpoint_of(version, request.requested))
        if queued is None:
            held.end()
            return False
        queue = version.queue
        queue.put(queued)
        call.on_gone(queued.cancel)
    except BaseException:
        held.end()
        raise
    if here:
        call.afterwards(queue.run_if_quick)
    else:
        queue.run_in_background()
    return True


def _queued(
    call: Call,
    held: Lease,
    endpoint: Endpoint,
    arrays: Arrays,
    rows: int,
    id: str,
    request: PredictionRequest | RequestTemplate,
    samples: Sequence[Observed | None],
) -> QueuedRequest:
    """Makes the queued request of a call. The lease ends when it is answered."""

    def answer(queued: QueuedRequest) -> None:
        held.end()
        results = queued.results
        if results is None:
            call.fail(queued.error or RuntimeError("a request ended without results or error"))
        else:
            call.reply(lambda: endpoint.encoder.fill(results, id))
        for sample in samples:
            if sample is not None:
                sample.answered(held.version, endpoint.computed, results)

    if call.trace is not None:
        call.trace.queued = time.monotonic()
    admission = endpoint.admission
    padded = admission.padded_group(arrays)
    return QueuedRequest(
        outputs=endpoint.computed,
        arrays=arrays,
        rows=rows,
        joinable=admission.joinable,
        done=answer,
        deadline=call.deadline,
        priority=request.priority,
        queue_deadline=call.arrived + request.max_wait if request.max_wait else None,
        client=call.client,
        group=admission.group if padded is None else padded,
        padding=None if padded is None else admission.padding,
        arrived=call.arrived,
        trace=call.trace,
    )
