"""Runs of the fake server, and what is asked of them."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

from layerserve.errors import (
    FailedPrecondition,
    LayerserveError,
    NotFound,
    RunNotFound,
    Unavailable,
)
from layerserve.testing.fake_model import FakeModel
from layerserve.testing.fake_models import DOWNLOAD_BYTES, FakeModels
from layerserve.testing.fake_run import FakeRun, PlannedFailure
from layerserve.v1 import (
    training_pb2,
)
from layerserve.v1.scoring_pb2 import ScoreRequest, ScoreResponse
from layerserve.v1.tensor_pb2 import ModelSpec


class FakeRuns(FakeModels):
    """Runs, which send their events without training."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: dict[str, FakeRun] = {}
        self._run_failure: PlannedFailure | None = None
        self._drops: deque[int] = deque()
        self._free = threading.Event()
        self._free.set()
        self._stopped = threading.Event()
        self._run_ids = itertools.count(1)

    def fail_training(self, reason: str, epoch: int = 1, step: int = 1, *, resumable: bool = False) -> None:
        """Makes the next run fail at a step; with `resumable`, it is interrupted there."""
        self._run_failure = PlannedFailure(reason, epoch, step, resumable)

    def drop_stream(self, after: int) -> None:
        """Makes the next stream of events break after this number: of WatchRun, or of Train after the upload."""
        self._drops.append(after)

    def hold_training(self) -> None:
        """Makes runs wait before their next step until `release_training`."""
        self._free.clear()

    def release_training(self) -> None:
        self._free.set()

    def train_logs(self, epoch: int) -> dict[str, float]:
        return {"loss": 1.0 / epoch}

    def Train(
        self, requests: Iterator[training_pb2.TrainRequest], context: Any
    ) -> Iterator[training_pb2.TrainResponse]:
        for event in self._execute("Train", requests, context):
            yield training_pb2.TrainResponse(event=event)

    def Evaluate(
        self, requests: Iterator[training_pb2.EvaluateRequest], context: Any
    ) -> Iterator[training_pb2.EvaluateResponse]:
        for event in self._execute("Evaluate", requests, context):
            yield training_pb2.EvaluateResponse(event=event)

    def _execute(self, method: str, requests: Iterator[Any], context: Any) -> Iterator[training_pb2.TrainEvent]:
        spec = next(requests).spec
        with self.answering(method, spec, context):
            base = self.find(spec.model)
            found = self._found(spec.idempotency_key)
            if found is not None:
                accepted = training_pb2.RunAccepted(base=found.base, found=True, repeatable=True)
                yield training_pb2.TrainEvent(run_id=found.id, accepted=accepted, time=found.events[0].time)
                yield from self._watch(found, 1, context)
                return
            run = FakeRun(f"run-{next(self._run_ids)}", spec, base.reference())
            self.runs[run.id] = run
            repeatable = bool(spec.idempotency_key)
            run.tell(accepted=training_pb2.RunAccepted(base=base.reference(), repeatable=repeatable))
            yield run.events[0]
            try:
                for request in requests:
                    if request.HasField("digest"):
                        run.check(request.digest)
                    else:
                        run.receive(request.chunk)
                run.close_data()
            except LayerserveError as error:
                run.abandon(str(error))
                raise
            run.tell(queued=training_pb2.RunQueued(ahead=0))
            self._start(run, base)
            yield from self._watch(run, 1, context)

    def Score(self, request: ScoreRequest, context: Any) -> ScoreResponse:
        """Begins a run of one step, whose result is an empty file."""
        base = self.find(request.model)
        if (found := self._found(request.idempotency_key)) is not None:
            return ScoreResponse(run=found.describe())
        data = [training_pb2.DataArray(dataset=request.dataset)]
        spec = training_pb2.EvaluateSpec(data=data, idempotency_key=request.idempotency_key)
        run = FakeRun(f"run-{next(self._run_ids)}", spec, base.reference())
        run.kind = training_pb2.RUN_KIND_SCORING
        run.files[request.to] = b""
        self.runs[run.id] = run
        run.tell(accepted=training_pb2.RunAccepted(base=base.reference()))
        run.tell(queued=training_pb2.RunQueued(ahead=0))
        self._start(run, base)
        return ScoreResponse(run=run.describe())

    def _found(self, key: str) -> FakeRun | None:
        """Returns the run that has all data of a call with an idempotency key."""
        runs = [run for run in self.runs.values() if key and run.spec.idempotency_key == key and len(run.events) > 1]
        return next((run for run in runs if run.events[1].HasField("queued")), None)

    def _start(self, run: FakeRun, base: FakeModel) -> None:
        failure, self._run_failure = self._run_failure, None

        def publish() -> ModelSpec | None:
            if not isinstance(run.spec, training_pb2.TrainSpec) or (
                run.spec.HasField("publish") and not run.spec.publish
            ):
                return None
            return self._publish_run(run, base, run.spec.publish_label)

        threading.Thread(
            target=run.execute, args=(self.train_logs, failure, self._free.wait, publish), daemon=True
        ).start()

    def _publish_run(self, run: FakeRun, base: FakeModel, label: str) -> ModelSpec:
        version = max(model.version for model in self.models if model.name == base.name) + 1
        labels = (label,) if label else ()
        self.models.append(
            FakeModel(
                base.name,
                base.function,
                base.inputs,
                base.outputs,
                version,
                labels,
                base.layers,
                base.file,
                training_run=run.id,
            )
        )
        return ModelSpec(name=base.name, version=version)

    def _watch(self, run: FakeRun, sequence: int, context: Any) -> Iterator[training_pb2.TrainEvent]:
        limit = self._drops.popleft() if self._drops else None
        events = run.watch(sequence, lambda: context.is_active() and not self._stopped.is_set())
        yield from itertools.islice(events, limit)
        if limit is not None or self._stopped.is_set():
            raise Unavailable("the connection was dropped")

    def _run(self, run_id: str) -> FakeRun:
        try:
            return self.runs[run_id]
        except KeyError:
            raise RunNotFound(f"unknown run {run_id!r}") from None

    def WatchRun(self, request: training_pb2.WatchRunRequest, context: Any) -> Iterator[training_pb2.WatchRunResponse]:
        for event in self._watch(self._run(request.run_id), request.from_sequence, context):
            yield training_pb2.WatchRunResponse(event=event)

    def GetRun(self, request: training_pb2.GetRunRequest, context: Any) -> training_pb2.GetRunResponse:
        return training_pb2.GetRunResponse(run=self._run(request.run_id).describe())

    def ListRuns(self, request: training_pb2.ListRunsRequest, context: Any) -> training_pb2.ListRunsResponse:
        runs = [run.describe() for run in self.runs.values() if request.model_name in ("", run.base.name)]
        fits = [
            run
            for run in runs
            if (not request.states or run.state in request.states)
            and request.kind in (0, run.kind)
            and request.metadata.items() <= run.metadata.items()
        ]
        ordered = fits if request.oldest_first else fits[::-1]
        start = int(request.page_token or 0)
        end = start + request.page_size if request.page_size else len(ordered)
        token = str(end) if end < len(ordered) else ""
        return training_pb2.ListRunsResponse(runs=ordered[start:end], next_page_token=token)

    def CancelRun(self, request: training_pb2.CancelRunRequest, context: Any) -> training_pb2.CancelRunResponse:
        run = self._run(request.run_id)
        run.cancel()
        return training_pb2.CancelRunResponse(run=run.describe())

    def ResumeRun(self, request: training_pb2.ResumeRunRequest, context: Any) -> training_pb2.ResumeRunResponse:
        run = self._run(request.run_id)
        if run.resumable or run.state == training_pb2.RUN_STATE_PAUSED:
            run.resume()
            self._start(run, self.find(run.base))
        elif run.ended:
            raise FailedPrecondition(f"run {run.id!r} can't be resumed: it wasn't interrupted")
        else:
            run.pause(False)
        return training_pb2.ResumeRunResponse(run=run.describe())

    def PauseRun(self, request: training_pb2.PauseRunRequest, context: Any) -> training_pb2.PauseRunResponse:
        run = self._run(request.run_id)
        if run.ended:
            raise FailedPrecondition(f"run {run.id!r} can't be paused: it has ended")
        run.pause()
        return training_pb2.PauseRunResponse(run=run.describe())

    def StopRun(self, request: training_pb2.StopRunRequest, context: Any) -> training_pb2.StopRunResponse:
        run = self._run(request.run_id)
        run.stop()
        return training_pb2.StopRunResponse(run=run.describe())

    def UpdateRun(self, request: training_pb2.UpdateRunRequest, context: Any) -> training_pb2.UpdateRunResponse:
        run = self._run(request.run_id)
        run.priority = request.priority if request.HasField("priority") else run.priority
        run.description = request.description if request.HasField("description") else run.description
        run.metadata.update(request.metadata)
        for key in request.remove_metadata:
            run.metadata.pop(key, None)
        return training_pb2.UpdateRunResponse(run=run.describe())

    def PublishRun(self, request: training_pb2.PublishRunRequest, context: Any) -> training_pb2.PublishRunResponse:
        run = self._run(request.run_id)
        if not run.describe().publishable:
            raise FailedPrecondition(f"run {run.id!r} has no result that could be published")
        run.published = self._publish_run(run, self.find(run.base), request.label)
        return training_pb2.PublishRunResponse(run=run.describe())

    def ListRunFiles(
        self, request: training_pb2.ListRunFilesRequest, context: Any
    ) -> training_pb2.ListRunFilesResponse:
        files = self._run(request.run_id).files
        return training_pb2.ListRunFilesResponse(
            files=[training_pb2.RunFile(name=name, bytes=len(files[name])) for name in sorted(files)]
        )

    def DownloadRunFile(
        self, request: training_pb2.DownloadRunFileRequest, context: Any
    ) -> Iterator[training_pb2.DownloadRunFileResponse]:
        data = self._run(request.run_id).files.get(request.name)
        if data is None:
            raise NotFound(f"the run has no file {request.name!r}")
        file = training_pb2.RunFile(name=request.name, bytes=len(data))
        yield training_pb2.DownloadRunFileResponse(file=file)
        for start in range(0, len(data), DOWNLOAD_BYTES):
            yield training_pb2.DownloadRunFileResponse(data=data[start : start + DOWNLOAD_BYTES])
        yield training_pb2.DownloadRunFileResponse(sha256=hashlib.sha256(data).hexdigest())

    def DeleteRun(self, request: training_pb2.DeleteRunRequest, context: Any) -> training_pb2.DeleteRunResponse:
        if not self._run(request.run_id).ended:
            raise FailedPrecondition(f"run {request.run_id!r} hasn't ended; cancel it first")
        del self.runs[request.run_id]
        return training_pb2.DeleteRunResponse()

    def GetRunSeries(
        self, request: training_pb2.GetRunSeriesRequest, context: Any
    ) -> training_pb2.GetRunSeriesResponse:
        reply = training_pb2.GetRunSeriesResponse()
        for run in map(self._run, request.run_ids):
            found: dict[str, training_pb2.RunSeries] = {}
            for event in run.events:
                kind = "step" if request.by_step else "epoch"
                for log in getattr(event, kind).logs if event.WhichOneof("kind") == kind else ():
                    if not request.names or log.name in request.names:
                        one = found.setdefault(log.name, training_pb2.RunSeries(run_id=run.id, name=log.name))
                        one.positions.append(len(one.positions) + 1)
                        one.values.append(log.value)
                        one.seconds.append(float(len(one.positions)))
            reply.series.extend(found[name] for name in sorted(found))
        return reply
