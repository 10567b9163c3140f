"""Answers requests of all protocols: equal ones that came together in one batch, others by a version's queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from layergraph.execution.kept_plan import NotKeptError

from layerserve_server.access.quota import rows_of
from layerserve_server.errors import InvalidRequestError, ServerError
from layerserve_server.inference.admission import Admitted
from layerserve_server.inference.queue import QueuedRequest
from layerserve_server.repository.leases import LOAD_TRIES, Choice
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease
from layerserve_server.services.prediction.caller_key import caller_key
from layerserve_server.services.prediction.coalesced import CoalescedCalls, begin_again
from layerserve_server.services.prediction.decoder import TemplatedRequest
from layerserve_server.services.prediction.encoded_rows import EncodedRows
from layerserve_server.services.prediction.endpoint import Endpoint, endpoint_of
from layerserve_server.services.prediction.observer import Answered, RequestObserver, Watch
from layerserve_server.services.prediction.places import REGION
from layerserve_server.services.prediction.predict_protocol import PredictionRequest, PredictProtocol
from layerserve_server.services.prediction.request_taker import RequestTaker
from layerserve_server.services.prediction.request_template import RequestTemplate, RequestTemplates
from layerserve_server.services.waiting import proceed, unloaded
from layerserve_server.transport.call import Call, Handler


class Predictor:
    """Answers calls with the outputs for their rows, computed in a batch with other requests.

    Each request takes the same steps: a version is chosen and leased, the arrays are decoded, and the request is
    queued. A template makes decoding faster, and lets calls that came together skip the queue.
    """

    def __init__(self, repository: Repository) -> None:
        self._catalogue = repository.catalogue
        self._leases = repository.leases
        #: See the arrays and results of some requests.
        self.observers: list[RequestObserver] = []
        #: Takes the requests that are steps of sequences; None if this server has no sequences.
        self.steps: RequestTaker | None = None
        #: Takes the requests with tensors in shared memory; None if this server reads none.
        self.placed: RequestTaker | None = None
        #: A single bound method object: `Call.coalesce` groups calls by it.
        self._answer = self._answer_templates

    def handler(self, protocol: PredictProtocol) -> Handler:
        """Returns the handler of a protocol's unary method. It never blocks."""
        templates = RequestTemplates()

        def handle(call: Call) -> None:
            template = templates.find(call.request)
            if template is None:
                self._parse(call, protocol, templates)
                return
            admit(call, template)
            if self.observers and (watches := self._watches(template.choice)):
                # Its results are needed as arrays.
                chosen = self.chosen(call, template.choice)
                self._begin(call, TemplatedRequest(template, call.request), chosen, watches, here=True)
            else:
                call.coalesce(self._answer, (call, template))

        return handle

    def start(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """Queues a parsed request. Raises an error if it is invalid, or answers the call with it.

        With `here`, a quick model runs in this thread, after all calls of the event batch were queued.
        """
        if self._taken(call, request, here=here):
            return
        admit(call, request)
        chosen = self.chosen(call, request.choice)
        self._begin(call, request, chosen, self._watches(request.choice), here=here)

    def _taken(self, call: Call, request: PredictionRequest, *, here: bool) -> bool:
        """Whether an extension answers a request, which it has begun to do. Raises as `RequestTaker.take` does."""
        if request.places is not None:
            if self.placed is None:
                raise InvalidRequestError(
                    f"parameter '{REGION}': shared memory is disabled; send the data in the message"
                )
            self.placed.take(call, request, here=here)
        elif request.sequence is not None:
            if self.steps is None:
                raise InvalidRequestError(
                    "sequence: got one, expected none: this server keeps no states between requests"
                )
            self.steps.take(call, request, here=here)
        else:
            return False
        return True

    def chosen(self, call: Call, named: Choice) -> Choice:
        """Returns the version for a call: the one that it names, or the model's canary."""
        return self._leases.chosen(named, lambda: caller_key(call)) if self._catalogue.canaries else named

    def _watches(self, choice: Choice) -> Sequence[Watch]:
        return [watch for one in self.observers if (watch := one.watch(choice)) is not None]

    def _begin(
        self,
        call: Call,
        request: PredictionRequest | TemplatedRequest,
        chosen: Choice,
        watches: Sequence[Watch] = (),
        *,
        here: bool,
        tries: int = LOAD_TRIES,
        kept: bool = True,
    ) -> None:
        """Leases the version, decodes the request and queues it: now, or after the version was loaded.

        The version may be loaded up to `tries` times. With `kept`, what was kept of it is tried first.
        """
        held = self._leases.lease_chosen(chosen, request.choice, kept=kept)
        if held is None:
            if not tries:
                raise unloaded(request.choice[0])
            again = partial(self._begin, call, request, chosen, watches, here=here, tries=tries - 1, kept=kept)
            waits = partial(proceed, call, again)
            self._leases.when_chosen_loaded(chosen, request.choice, waits, lambda: call.answered, kept=kept)
            return
        version = held.version
        whole = partial(self._begin, call, request, chosen, watches, here=False, kept=False) if version.kept else None
        try:
            call.set_metric_labels(version.name, version.version)
            endpoint = endpoint_of(version, request.requested)
            admitted = request.admit(endpoint.decoder)
            if admitted is None:
                held.end()
                self._parse(call, request.requested.protocol)
                return
            if isinstance(admitted, EncodedRows):
                admitted.decode(call, partial(_put_decoded, call, held, endpoint, request, watches, whole))
                return
            _put(call, held, endpoint, request, watches, whole, admitted)
        except NotKeptError:
            held.end()
            if whole is None:
                raise
            whole()
            return
        except BaseException:
            held.end()
            raise
        if here:
            call.after_batch(version.queue.run_if_quick)
        else:
            version.queue.run_in_background()

    def _parse(self, call: Call, protocol: PredictProtocol, templates: RequestTemplates | None = None) -> None:
        """Parses a request and begins it. Its template is added to `templates` unless the request is refused."""

        def read() -> None:
            request = protocol.request(protocol.read(call.request))
            if self._taken(call, request, here=True):
                return
            # One that has a template was admitted before.
            if templates is not None:
                admit(call, request)
            chosen = self.chosen(call, request.choice)
            self._begin(call, request, chosen, self._watches(request.choice), here=True)
            if templates is not None:
                templates.learn(call.request, request)

        if protocol.is_long(call.request):
            call.in_pool(read)
        else:
            read()

    # Calls that came together.

    def _answer_templates(self, known: Sequence[tuple[Call, RequestTemplate]]) -> None:
        """Answers calls of an event batch that have templates: those with the same template and version together."""
        groups: dict[tuple[RequestTemplate, Choice], list[Call]] = {}
        for call, template in known:
            groups.setdefault((template, self.chosen(call, template.choice)), []).append(call)
        choices = Counter(chosen for _, chosen in groups) if len(groups) > 1 else None
        for (template, chosen), calls in groups.items():
            # Requests with different templates for one version can only be batched in its queue.
            alone = choices is None or choices[chosen] == 1
            if alone and self._answer_together(template, chosen, calls):
                continue
            for call in calls:
                try:
                    self._begin(call, TemplatedRequest(template, call.request), chosen, here=True)
                except Exception as error:
                    call.fail(error)

    def _answer_together(self, template: RequestTemplate, chosen: Choice, calls: Sequence[Call]) -> bool:
        """Answers calls with the same template and version without a queue. Returns False if that isn't possible."""
        try:
            held = self._leases.lease_loaded(*chosen, kept=True)
            if held is None:
                return False
            with held as version:
                endpoint = version.endpoints.get(template.requested) or endpoint_of(version, template.requested)
                layouts = endpoint.decoder.layouts(template)
                if layouts is None:
                    return False
                for call in calls:
                    call.set_metric_labels(version.name, version.version)
                whole = partial(self._begin_whole, template, chosen) if version.kept else None
                return version.queue.run_together(CoalescedCalls(calls, template, layouts, endpoint, whole))
        except (ServerError, NotKeptError):
            # An invalid choice of version or outputs is reported to each call separately.
            return False

    def _begin_whole(self, template: RequestTemplate, chosen: Choice, call: Call) -> None:
        """Begins a call again that what was kept of its version can't answer."""
        self._begin(call, TemplatedRequest(template, call.request), chosen, here=False, kept=False)


def admit(call: Call, request: PredictionRequest | RequestTemplate) -> None:
    """Raises ForbiddenError if the caller may not use the model, QuotaError if it has used up its rows."""
    caller = call.caller
    if caller.unlimited and not caller.reserved.restrictions:
        return
    caller.check_model("predict", request.choice[0])
    if caller.quota is not None:
        caller.quota.take_rows(rows_of(tensor.shape for tensor in request.tensors))


def _put_decoded(
    call: Call,
    held: Lease,
    endpoint: Endpoint,
    request: PredictionRequest | TemplatedRequest,
    watches: Sequence[Watch],
    whole: Callable[[], None] | None,
    outcome: Admitted | Exception,
) -> None:
    """Queues a request whose inputs were decoded by other processes, or fails its call with the error of that."""
    try:
        if isinstance(outcome, Exception):
            raise outcome
        _put(call, held, endpoint, request, watches, whole, outcome)
    except Exception as error:
        held.end()
        call.fail(error)
    else:
        held.version.queue.run_in_background()


def _put(
    call: Call,
    held: Lease,
    endpoint: Endpoint,
    request: PredictionRequest | TemplatedRequest,
    watches: Sequence[Watch],
    whole: Callable[[], None] | None,
    admitted: Admitted,
) -> None:
    """Queues a request in the queue of its version."""
    seen = [watch(request.requested, admitted.arrays, request.id, call.caller.owner) for watch in watches]
    queued = _queued(call, held, endpoint, admitted, request, [answered for answered in seen if answered], whole)
    held.version.queue.put(queued)
    call.on_gone(queued.cancel)


def _queued(
    call: Call,
    held: Lease,
    endpoint: Endpoint,
    admitted: Admitted,
    request: PredictionRequest | TemplatedRequest,
    observers: Sequence[Answered],
    whole: Callable[[], None] | None,
) -> QueuedRequest:
    """Makes the queued request of a call. The lease ends when it is answered.

    `whole` begins the call again, if the version was kept and that doesn't suffice.
    """

    def answer(queued: QueuedRequest) -> None:
        held.end()
        results = queued.results
        if results is None and whole is not None and isinstance(queued.error, NotKeptError):
            # Observers see the second time.
            begin_again(call, whole)
            return
        if results is None:
            call.fail(queued.error or RuntimeError("a request ended without results or error"))
        elif not call.answered:
            try:
                call.answer(request.fill(endpoint.encoder, results))
            except Exception as error:
                call.fail(error)
        for answered in observers:
            answered(held.version, endpoint.computed, results)

    if call.trace is not None:
        call.trace.queued = time.monotonic()
    admission = endpoint.admission
    padded = admission.padded_group(admitted.arrays)
    return QueuedRequest(
        outputs=endpoint.computed,
        arrays=admitted.arrays,
        rows=admitted.rows,
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
