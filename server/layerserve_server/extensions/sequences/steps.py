"""Takes requests that are steps of sequences: one of each sequence at a time, in the order of their arrival."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from layerserve_server.errors import InvalidRequestError, UnavailableError, safe_text
from layerserve_server.extensions.sequences.sequence import DRAIN, VERSION, Key, Sequence, Step, unchanged
from layerserve_server.extensions.sequences.step_model import NoSteps, StepEndpoint, StepModel
from layerserve_server.extensions.sequences.table import SequenceTable
from layerserve_server.inference.admission import Admitted
from layerserve_server.inference.queue import Arrays, QueuedRequest
from layerserve_server.repository.leases import LOAD_TRIES, Choice
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import LoadedVersion
from layerserve_server.services.prediction.predict_protocol import PredictionRequest
from layerserve_server.services.prediction.predictor import Predictor, admit
from layerserve_server.services.waiting import unloaded
from layerserve_server.transport.call import Call, OpenStream
from layerserve_server.transport.client_address import host_of

#: Name of the extension, and of its part of a version.
NAME: Final = "sequences"
#: Threads for what steps wait for: versions that are loaded, and first states that are computed.
THREADS: Final = 2


class Steps:
    """The steps of all sequences (see `RequestTaker`). Thread-safe."""

    def __init__(
        self, predictor: Predictor, repository: Repository, table: SequenceTable, draining: Callable[[], bool]
    ) -> None:
        self._predictor = predictor
        self._catalogue = repository.catalogue
        self._leases = repository.leases
        self._table = table
        self._draining = draining
        #: Sequences of streams.
        self._streams: dict[OpenStream, set[Key]] = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, NAME)

    def take(self, call: Call, request: PredictionRequest, *, here: bool) -> None:
        """See `RequestTaker`."""
        admit(call, request)
        of, model = request.sequence, request.choice[0]
        assert of is not None
        stream = None if of.id else call.stream
        if not of.id and stream is None:
            raise InvalidRequestError("sequence.id: got none, expected a text: only a stream has a sequence of its own")
        if self._draining():
            self.sweep()
            if of.start:
                raise UnavailableError("the server is draining, and begins no sequences; begin it on another server")
        key = Key(call.caller.owner, model, of.id, stream)
        caller = key.owner or host_of(str(call.client()), call.metadata)
        sequence, begins = self._table.enter(key, caller, Step(call, request, of))
        if stream is not None:
            self._end_with(stream, key)
        if begins:
            self._run(sequence, here=here)

    def sweep(self) -> None:
        """Drops the sequences that have been idle for too long, and those whose version is gone; all if it drains."""
        self._table.drop_expired()
        draining = self._draining()
        for sequence in self._table.all():
            held = sequence.held
            if held is None:
                continue
            if draining:
                self._table.drop(sequence.key, DRAIN)
            elif held.version.retired and self._is_gone(held.version):
                self._table.drop(sequence.key, VERSION)

    def close(self) -> None:
        """Drops all sequences."""
        for sequence in self._table.all():
            self._table.drop(sequence.key, DRAIN)
        self._pool.shutdown(wait=False)

    def _is_gone(self, version: LoadedVersion) -> bool:
        """Whether a retired version was deleted or unloaded, and not only replaced by another one."""
        entry = self._catalogue.find_entry(version.name, version.version)
        return entry is None or entry.leaving or bool(entry.barred)

    def _end_with(self, stream: OpenStream, key: Key) -> None:
        """Ends a sequence with its stream."""
        with self._lock:
            known = self._streams.get(stream)
            if known is not None:
                known.add(key)
                return
            self._streams[stream] = {key}
        stream.on_end(partial(self._closed, stream))

    def _closed(self, stream: OpenStream) -> None:
        with self._lock:
            keys = self._streams.pop(stream, ())
        for key in keys:
            self._table.close(key)

    # One step after the other.

    def _run(self, sequence: Sequence, *, here: bool = False) -> None:
        """Begins the next step of a sequence, if one waits. Steps that can't begin fail."""
        while (step := self._table.next(sequence)) is not None:
            if step.call.answered:
                continue  # its caller has left
            try:
                self._begin(sequence, step, here=here)
                return
            except Exception as error:
                step.call.fail(unchanged(error))

    def _later(self, sequence: Sequence, step: Step, work: Callable[[], None]) -> None:
        """Continues to begin a step in another thread."""

        def attempt() -> None:
            try:
                work()
            except Exception as error:
                step.call.fail(unchanged(error))
                self._run(sequence)

        try:
            self._pool.submit(attempt)
        except RuntimeError:  # the server has stopped
            step.call.fail(UnavailableError("the server is stopping"))

    def _begin(self, sequence: Sequence, step: Step, *, here: bool) -> None:
        """Begins a step. Raises an error if that isn't possible, and then nothing was begun."""
        if step.of.start:
            self._lease(sequence, step, LOAD_TRIES, here=here)
            return
        held, states = sequence.held, sequence.states
        if held is not None and held.version.retired and self._is_gone(held.version):
            self._table.drop(sequence.key, VERSION)
            states = None
        if held is None or states is None:
            raise self._table.lost(sequence.key)
        version = held.version
        _check_choice(step.request.choice, sequence.choice, version)
        model = self._model(version)
        endpoint = model.endpoint(version, step.request.requested)
        step.call.set_metric_labels(version.name, version.version)
        admitted = model.read(endpoint, step.request, first=False)
        if admitted.rows != sequence.rows:
            raise InvalidRequestError(
                f"got {admitted.rows} rows, expected {sequence.rows}, as in the first step of the sequence"
            )

        def commit(after: Arrays) -> None:
            self._table.advance(sequence, states, after)

        self._compute(sequence, step, version, model, endpoint, admitted, states, commit, _nothing, here=here)

    def _lease(self, sequence: Sequence, step: Step, tries: int, *, here: bool) -> None:
        """Begins the first step of a sequence with the version that it names: now, or after that was loaded."""
        call, named = step.call, step.request.choice
        chosen = self._predictor.chosen(call, named)
        held = self._leases.lease_chosen(chosen, named)
        if held is None:
            if not tries:
                raise unloaded(named[0])

            def loaded(error: Exception | None) -> None:
                def again() -> None:
                    if error is not None:
                        raise error
                    self._lease(sequence, step, tries - 1, here=False)

                self._later(sequence, step, again)

            self._leases.when_chosen_loaded(chosen, named, loaded, lambda: call.answered)
            return
        try:
            version = held.version
            model = self._model(version)
            call.set_metric_labels(version.name, version.version)
            endpoint = model.endpoint(version, step.request.requested)
            admitted = model.read(endpoint, step.request, first=True)
            size = self._table.reserve(sequence, model.size(admitted.rows), model.settings.max_sequences)
        except BaseException:
            held.end()
            raise

        def give_up() -> None:
            self._table.release(sequence, size)
            held.end()

        def first() -> None:
            try:
                states = model.first_states(admitted)

                def commit(after: Arrays) -> None:
                    self._table.begin(
                        sequence,
                        after,
                        held=held,
                        choice=named,
                        rows=admitted.rows,
                        size=size,
                        idle_seconds=model.settings.idle_seconds,
                    )

                self._compute(sequence, step, version, model, endpoint, admitted, states, commit, give_up, here=here)
            except BaseException:
                give_up()
                raise

        if model.computes_first_states:
            self._later(sequence, step, first)
        else:
            first()

    def _model(self, version: LoadedVersion) -> StepModel:
        part = version.parts.get(NAME)
        if isinstance(part, StepModel):
            return part
        reason = part.reason if isinstance(part, NoSteps) else "its settings have no [sequences]"
        raise InvalidRequestError(
            f"sequence: got one, expected none: model '{version.name}' keeps no states between requests: {reason}"
        )

    def _compute(
        self,
        sequence: Sequence,
        step: Step,
        version: LoadedVersion,
        model: StepModel,
        endpoint: StepEndpoint,
        admitted: Admitted,
        states: Arrays,
        commit: Callable[[Arrays], None],
        give_up: Callable[[], None],
        *,
        here: bool,
    ) -> None:
        """Queues a step. `commit` is called with the states after it if its reply is sent, otherwise `give_up`.

        Raises BusyError and UnavailableError, and then calls neither.
        """
        call, request = step.call, step.request

        def answered(queued: QueuedRequest) -> None:
            after = self._answer(step, model, endpoint, queued)
            if after is None:
                give_up()
            else:
                commit(after)
                if step.of.end:
                    self._table.end(sequence)
            self._run(sequence)

        queued = QueuedRequest(
            outputs=model.computed,
            arrays=model.inputs(admitted, states),
            rows=admitted.rows,
            joinable=model.joinable,
            done=answered,
            deadline=call.deadline,
            priority=request.priority,
            queue_deadline=call.arrived + request.max_wait if request.max_wait else None,
            client=call.client,
            group=model.group(admitted),
            arrived=call.arrived,
            trace=call.trace,
        )
        queue = model.queue(version)
        queue.put(queued)
        call.on_gone(queued.cancel)
        if here:
            call.after_batch(queue.run_if_quick)
        else:
            queue.run_in_background()

    def _answer(self, step: Step, model: StepModel, endpoint: StepEndpoint, queued: QueuedRequest) -> Arrays | None:
        """Answers a step. Returns the states after it if its reply is sent: otherwise it changes nothing."""
        call = step.call
        if queued.results is None:
            call.fail(unchanged(queued.error or RuntimeError("a step ended without results or error")))
            return None
        try:
            after = model.next_states(queued.results)
            reply = step.request.fill(endpoint.encoder, queued.results)
            return after if not call.answered and call.answer(reply) else None
        except Exception as error:
            call.fail(unchanged(error))
            return None


def _check_choice(named: Choice, first: Choice, version: LoadedVersion) -> None:
    """Raises InvalidRequestError if a step names another version than its sequence has."""
    if named in (first, (version.name, None, None), (version.name, version.version, None)):
        return
    given = f"version {named[1]}" if named[1] is not None else f"label '{safe_text(named[2] or '', 80)}'"
    raise InvalidRequestError(
        f"got {given}, expected version {version.version}, with which the sequence began, or none"
    )


def _nothing() -> None:
    """A step that isn't the first holds nothing."""
