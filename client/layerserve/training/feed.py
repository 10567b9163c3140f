"""Feed of a training run's events, with the state derived from them. Reconnects broken streams."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from layerserve.calls.flow import Flow, Pause, Stream, call, open_stream, receive
from layerserve.calls.methods import METHODS, rpc
from layerserve.errors import (
    Cancelled,
    DeadlineExceeded,
    LayerserveError,
    TrainingCancelled,
    TrainingFailed,
    Unavailable,
)
from layerserve.models.changes import checked_version
from layerserve.training.data import Upload
from layerserve.training.events import (
    EpochEnd,
    LogLine,
    Logs,
    RunAccepted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    StepProgress,
    TrainingEvent,
    read_event,
)
from layerserve.training.options.kinds import Metadata, repeatable
from layerserve.training.run_info import RunInfo, RunState, read_run_info
from layerserve.v1 import training_pb2
from layerserve.v1.training_pb2 import (
    DeleteRunRequest,
    DeleteRunResponse,
    PublishRunRequest,
    PublishRunResponse,
    UpdateRunRequest,
    UpdateRunResponse,
    WatchRunRequest,
    WatchRunResponse,
)

#: Delays before the attempts to reconnect, in seconds, about a minute in total. After the last one the error is raised.
RECONNECT_DELAYS: tuple[float, ...] = (0.1, 0.2, 0.5, 1, 2, 4, 8, 8, 8, 8, 8, 8)

EventStream = Stream[training_pb2.TrainResponse | training_pb2.EvaluateResponse | training_pb2.WatchRunResponse]


class RunFeed:
    """A run as seen by its reader. `next_event` advances it; the attributes reflect the events read so far."""

    def __init__(self, run_id: str = "", reconnect_delays: Sequence[float] = RECONNECT_DELAYS) -> None:
        self.run_id = run_id
        self.model = ""
        self.base_version: int | None = None
        self.version: int | None = None
        self.kept_back = ""
        self.state: RunState = "queued"
        self._epochs: dict[int, Logs] = {}
        self.outcome: RunFinished | RunFailed | RunCancelled | None = None
        self._reconnect_delays = reconnect_delays
        self._stream: EventStream | None = None
        self._next_sequence = 0
        #: Whether the server finds the run by its idempotency key.
        self._repeatable = False
        self._unread: deque[TrainingEvent] = deque()

    @property
    def history(self) -> dict[str, list[float]]:
        """Values of each log by epoch. An epoch that was repeated after an interruption counts once."""
        found: dict[str, list[float]] = {}
        for epoch in sorted(self._epochs):
            for name, value in self._epochs[epoch].items():
                found.setdefault(name, []).append(value)
        return found

    @property
    def withheld(self) -> str:
        return self.outcome.withheld if isinstance(self.outcome, RunFinished) else ""

    def start(self, upload: Upload) -> Flow[None]:
        """Flow that sends the request and its data, until the server has received all of it or the run has ended.

        If the stream breaks, it is begun again: the request's idempotency key, drawn here unless the caller has given
        one, lets the server find a run that has its data.

        Raises the upload's error if slicing the data failed, otherwise the server's.
        """
        upload.spec.idempotency_key = repeatable(upload.spec.idempotency_key or None)
        delays = iter(self._reconnect_delays)
        while not (yield from self._sent(upload, last := next(delays, None))):
            assert last is not None
            yield Pause(last)
            upload = upload.again()

    def _sent(self, upload: Upload, delay: float | None) -> Flow[bool]:
        """Flow that sends the request once. Returns False if the stream broke and may be begun again after `delay`."""
        try:
            yield from self._send(upload)
        except LayerserveError as error:
            if upload.error is None and isinstance(error, (Unavailable, Cancelled)) and self.run_id:
                if self._repeatable and delay is not None:
                    return False
                if isinstance(error, Unavailable):
                    yield from self._check_failed()
            raise (upload.error or error) from None
        finally:
            upload.abandon()
        if self.state == "failed" and upload.error is not None:
            raise upload.error
        return True

    def _send(self, upload: Upload) -> Flow[None]:
        self._unread.clear()
        self._next_sequence, self.state, self.outcome = 0, "queued", None
        self._stream = yield from open_stream(upload.method, upload)
        while True:
            event = yield from self._receive_first(self._stream)
            self._unread.append(event)
            if isinstance(event, RunAccepted):
                self._repeatable = event.repeatable
                if event.found:
                    upload.abandon()
                else:
                    upload.accept()
            elif not isinstance(event, LogLine):
                return

    def _check_failed(self) -> Flow[None]:
        """Raises TrainingFailed if the stream ended because the run failed on the server."""
        info = yield from self.ask("GetRun")
        if info.state == "failed":
            raise TrainingFailed(self.run_id, info.reason)

    def _receive_first(self, stream: EventStream) -> Flow[TrainingEvent]:
        """Flow of the next event during the upload."""
        while True:
            reply = yield from receive(stream)
            if reply is None:
                raise Unavailable("the server closed the stream before it received the training data")
            event = self._note(reply.event)
            if event is not None:
                return event

    def attach(self) -> Flow[None]:
        """Flow that looks the run up; its events are read from the first one on. Raises RunNotFound, RunElsewhere."""
        info = yield from self.ask("GetRun")
        self.model, self.base_version, self.version = info.model, info.base_version, info.version
        self.state = info.state

    def next_event(self) -> Flow[TrainingEvent | None]:
        """Flow of the next event; None after the last one. Raises TrainingFailed after a RunFailed."""
        while not self._unread:
            if isinstance(self.outcome, RunFailed):
                failed = self.outcome
                raise TrainingFailed(self.run_id, failed.reason, failed.epoch, failed.step, resumable=failed.resumable)
            if self.outcome is not None:
                return None
            message = yield from self._receive()
            event = None if message is None else self._note(message)
            if event is not None:
                self._unread.append(event)
        return self._unread.popleft()

    def _receive(self) -> Flow[training_pb2.TrainEvent | None]:
        """Flow of the next message, from a new stream if the current one is broken; None if another reader was last."""
        failure: LayerserveError = Unavailable("the stream of events ended before the run did")
        for delay in (0.0, *self._reconnect_delays):
            if delay:
                yield Pause(delay)
                if self.outcome is not None:
                    return None
            try:
                if self._stream is None:
                    request = WatchRunRequest(run_id=self.run_id, from_sequence=self._next_sequence)
                    self._stream = yield from open_stream(rpc(WatchRunRequest, WatchRunResponse), request)
                reply = yield from receive(self._stream)
                if reply is not None:
                    return reply.event
            except (Unavailable, Cancelled) as error:  # a stopping server may cancel its streams
                failure = error
            except DeadlineExceeded:
                self._stream = None  # the stream was cancelled; the next event comes from a new one
                raise
            self._stream = None
        raise failure

    def _note(self, message: training_pb2.TrainEvent) -> TrainingEvent | None:
        """Records an event and returns it; None if it was read before, or is of a kind unknown to this release."""
        if message.sequence < self._next_sequence:
            return None
        self._next_sequence = message.sequence + 1
        event = read_event(message)
        if isinstance(event, RunAccepted):
            self.run_id, self.model, self.base_version = event.run_id, event.model, event.version
            self.kept_back = event.kept_back
        elif isinstance(event, RunQueued):
            self.state = "queued"
        elif isinstance(event, (RunStarted, StepProgress)):
            self.state = "running"
        elif isinstance(event, EpochEnd):
            self.state = "running"
            self._epochs[event.epoch] = event.logs
        elif isinstance(event, RunResumed):
            # Epochs after the checkpoint are repeated.
            self._epochs = {epoch: logs for epoch, logs in self._epochs.items() if epoch < event.epoch}
        elif isinstance(event, RunPaused):
            self.state = "paused"
        elif isinstance(event, RunFinished):
            self.state, self.version, self.outcome = "finished", event.version, event
        elif isinstance(event, RunFailed):
            self.state, self.outcome = "failed", event
        elif isinstance(event, RunCancelled):
            self.state, self.outcome = "cancelled", event
        return event

    def check_finished(self) -> None:
        """Raises TrainingCancelled if the run was cancelled. (For a failed run `next_event` has raised.)"""
        if isinstance(self.outcome, RunCancelled):
            raise TrainingCancelled(self.run_id, self.outcome.epoch)

    def ask(self, rpc_name: str) -> Flow[RunInfo]:
        """Flow of an RPC with this name, whose request names the run and whose reply describes it."""
        method = METHODS[rpc_name]
        reply = yield from call(method.request(run_id=self.run_id), method.reply)
        return read_run_info(reply.run)

    def update(
        self, priority: int | None, description: str | None, metadata: Mapping[str, str | None] | None
    ) -> Flow[RunInfo]:
        request = UpdateRunRequest(run_id=self.run_id, priority=priority, description=description)
        added = {key: text for key, text in (metadata or {}).items() if text is not None}
        request.metadata.update(Metadata().encode("metadata", added))
        request.remove_metadata.extend(key for key, text in (metadata or {}).items() if text is None)
        reply = yield from call(request, UpdateRunResponse)
        return read_run_info(reply.run)

    def publish(self, label: str | None, expected_base_version: int | None) -> Flow[RunInfo]:
        """Flow that publishes the kept result of a run."""
        request = PublishRunRequest(run_id=self.run_id, label=label or "")
        if expected_base_version is not None:
            request.expected_base_version = checked_version(expected_base_version)
        reply = yield from call(request, PublishRunResponse)
        info = read_run_info(reply.run)
        self.version = info.version
        return info

    def resume(self) -> Flow[RunInfo]:
        """Flow that resumes an interrupted run; reading continues after its last event."""
        info = yield from self.ask("ResumeRun")
        if self.state == "paused":
            self.state = "queued"
        if isinstance(self.outcome, RunFailed):
            # The failure isn't final any more; the run may already have ended in another way.
            self.outcome, self.state, self._stream = None, "queued", None
        return info

    def delete(self) -> Flow[None]:
        yield from call(DeleteRunRequest(run_id=self.run_id), DeleteRunResponse)
