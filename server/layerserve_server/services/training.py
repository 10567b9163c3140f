"""layerserve.v1.TrainingService: runs and their events."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from layergraph.archive.json_text import JsonError, json_value
from layerserve.options.kinds import Callbacks, ClassWeight, Json
from layerserve.options.option import Option
from layerserve.options.training import BUDGET, COMPILE, RUN, Budget
from layerserve.v1 import training_pb2 as pb

from layerserve_server.errors import InvalidRequestError, ServerError, UnavailableError
from layerserve_server.repository.repository import Repository
from layerserve_server.services.downloads import downloaded
from layerserve_server.services.messages import dtype_name, lease, model_spec, parse, timestamp
from layerserve_server.training import events
from layerserve_server.training.events import Event, Logs
from layerserve_server.training.request import DataArray, Kind, Role, RunRequest
from layerserve_server.training.runs.files import RunFile, chunks, listed, opened
from layerserve_server.training.runs.folder import FILES
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Run, RunState
from layerserve_server.training.upload import Upload
from layerserve_server.training.upload_slots import UploadSlots
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.TrainingService/"

ROLES: dict[int, Role] = {
    pb.DATA_ROLE_X: Role.X,
    pb.DATA_ROLE_Y: Role.Y,
    pb.DATA_ROLE_SAMPLE_WEIGHT: Role.SAMPLE_WEIGHT,
    pb.DATA_ROLE_VALIDATION_X: Role.VALIDATION_X,
    pb.DATA_ROLE_VALIDATION_Y: Role.VALIDATION_Y,
    pb.DATA_ROLE_VALIDATION_SAMPLE_WEIGHT: Role.VALIDATION_SAMPLE_WEIGHT,
}
STATES: dict[RunState, pb.RunState.ValueType] = {
    RunState.QUEUED: pb.RUN_STATE_QUEUED,
    RunState.RUNNING: pb.RUN_STATE_RUNNING,
    RunState.FINISHED: pb.RUN_STATE_FINISHED,
    RunState.FAILED: pb.RUN_STATE_FAILED,
    RunState.CANCELLED: pb.RUN_STATE_CANCELLED,
}
KINDS: dict[Kind, pb.RunKind.ValueType] = {
    Kind.TRAINING: pb.RUN_KIND_TRAINING,
    Kind.EVALUATION: pb.RUN_KIND_EVALUATION,
}
#: Runs whose data comes at the same time: of all clients, and of one address. Each has a copy of its model on disk.
MAX_UPLOADS = 64
MAX_PEER_UPLOADS = 32
#: Most characters, values and containers in one another of a field that holds JSON.
MAX_JSON = 4 << 20
MAX_JSON_VALUES = 200_000
MAX_JSON_DEPTH = 64


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """What the server says of every run: threads, device, priority, seconds between checkpoints, where data may lie."""

    threads: int
    device: str
    nice: int
    checkpoint_seconds: float
    data_root: Path | None


class TrainingService:
    """Handlers of the training service."""

    def __init__(self, repository: Repository, runs: Runs, defaults: RunDefaults) -> None:
        self._repository = repository
        self._runs = runs
        self._defaults = defaults
        self._uploads = UploadSlots(MAX_UPLOADS, MAX_PEER_UPLOADS)

    def routes(self) -> Routes:
        """Its methods."""
        return Routes(
            unary={
                SERVICE + "GetRun": self.get_run,
                SERVICE + "ListRuns": self.list_runs,
                SERVICE + "CancelRun": self.cancel_run,
                SERVICE + "ResumeRun": self.resume_run,
                SERVICE + "DeleteRun": self.delete_run,
                SERVICE + "ListRunFiles": self.list_run_files,
            },
            server_streams={
                SERVICE + "WatchRun": self.watch_run,
                SERVICE + "DownloadRunFile": self.download_run_file,
            },
            both_streams={SERVICE + "Train": self.train, SERVICE + "Evaluate": self.evaluate},
        )

    def train(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Makes a run, takes its data, and sends its events until it ends."""
        return self._carry_out(stream, pb.TrainRequest, pb.TrainResponse, _training_request)

    def evaluate(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """As `train`, for a run that evaluates."""
        return self._carry_out(stream, pb.EvaluateRequest, pb.EvaluateResponse, _evaluation_request)

    async def _carry_out(
        self,
        stream: Stream,
        kind: type[pb.TrainRequest] | type[pb.EvaluateRequest],
        reply: type[pb.TrainResponse] | type[pb.EvaluateResponse],
        read: Callable[[Any, str, int, RunDefaults], RunRequest],
    ) -> AsyncGenerator[bytes, None]:
        message = parse(kind, await stream.first())
        if message.WhichOneof("part") != "spec":
            raise InvalidRequestError("the first message of the stream must be the spec")

        def begin() -> Run:
            with lease(self._repository, message.spec.model) as base:
                stream.about(base.name, base.version)
                return self._runs.begin(read(message.spec, base.name, base.version, self._defaults), base)

        with self._uploads.place(stream.peer):
            run = await stream.blocking(begin)
            accepted = run.log.events[0]
            try:
                yield reply(event=_event(run, accepted)).SerializeToString()
                await self._receive(run, stream, kind)
            except BaseException as error:  # also the end of a generator whose caller has gone
                known = isinstance(error, ServerError)
                reason = str(error) if known else "the upload ended before all data arrived"
                await stream.blocking(lambda: self._runs.abandon(run, reason))
                raise
        async for event in _follow(run, accepted.sequence + 1, stream):
            yield reply(event=event).SerializeToString()

    async def watch_run(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Sends the events of a run from any one on, until it ends."""
        request = parse(pb.WatchRunRequest, await stream.first())
        # An id that isn't known yet is looked for on the disk.
        run = await stream.blocking(lambda: self._runs.get(request.run_id))
        stream.about(run.request.model, run.request.version)
        async for event in _follow(run, request.from_sequence, stream):
            yield pb.WatchRunResponse(event=event).SerializeToString()

    def get_run(self, call: Call) -> None:
        """One run, as it stands."""
        request = parse(pb.GetRunRequest, call.request)
        call.reply(pb.GetRunResponse(run=_run(self._runs.get(request.run_id))).SerializeToString)

    def list_runs(self, call: Call) -> None:
        """All runs, or those of one model, newest first, also those of other servers."""
        request = parse(pb.ListRunsRequest, call.request)
        # In this order: one that is taken over meanwhile is in both, not in none.
        elsewhere = {run.id: _run(run, owner=run.owner) for run in self._runs.list_elsewhere(request.model_name)}
        here = {run.id: _run(run) for run in self._runs.list(request.model_name)}
        runs = sorted((elsewhere | here).values(), key=lambda run: (run.created_time.ToNanoseconds(), run.id))
        call.reply(pb.ListRunsResponse(runs=reversed(runs)).SerializeToString)

    def cancel_run(self, call: Call) -> None:
        """Stops a run."""
        request = parse(pb.CancelRunRequest, call.request)
        call.reply(pb.CancelRunResponse(run=_run(self._runs.cancel(request.run_id))).SerializeToString)

    def resume_run(self, call: Call) -> None:
        """Goes on with a run that was interrupted."""
        request = parse(pb.ResumeRunRequest, call.request)
        call.reply(pb.ResumeRunResponse(run=_run(self._runs.resume(request.run_id))).SerializeToString)

    def delete_run(self, call: Call) -> None:
        """Removes a run that has ended."""
        request = parse(pb.DeleteRunRequest, call.request)
        self._runs.delete(request.run_id)
        call.reply(pb.DeleteRunResponse().SerializeToString)

    def list_run_files(self, call: Call) -> None:
        """What the callbacks of a run have written."""
        request = parse(pb.ListRunFilesRequest, call.request)
        found = listed(self._runs.get(request.run_id).folder / FILES)
        call.reply(pb.ListRunFilesResponse(files=map(_file, found)).SerializeToString)

    async def download_run_file(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """One of these files, in chunks: what it is first, its sha256 last."""
        request = parse(pb.DownloadRunFileRequest, await stream.first())
        run = await stream.blocking(lambda: self._runs.get(request.run_id))
        stream.about(run.request.model, run.request.version)
        described, file = opened(run.folder / FILES, request.name)
        with file:
            head = pb.DownloadRunFileResponse(file=_file(described))
            pieces = chunks(file, described.bytes)
            async for message in downloaded(stream, head, lambda: next(pieces, b"")):
                yield message

    async def _receive(self, run: Run, stream: Stream, kind: type[pb.TrainRequest] | type[pb.EvaluateRequest]) -> None:
        """Takes the run's data. Raises what `Upload` raises where it doesn't come whole."""
        upload = await stream.blocking(lambda: Upload(run.folder, run.request.data))
        with upload:
            async for data in stream.requests():
                if run.log.ended:  # cancelled meanwhile
                    return
                message = parse(kind, data)
                part = message.WhichOneof("part")
                if part == "chunk":
                    await stream.blocking(partial(upload.add, message.chunk.array, message.chunk.data))
                elif part == "digest":
                    upload.check_digest(message.digest.array, message.digest.sha256)
                else:
                    raise InvalidRequestError("every message after the first must be a chunk of data, or a digest")
            upload.check_complete()
        await stream.blocking(lambda: self._runs.enqueue(run))


async def _follow(run: Run, sequence: int, stream: Stream) -> AsyncGenerator[pb.TrainEvent, None]:
    """The run's events from a number on, as they come, to the last one."""
    news = asyncio.Event()
    stream.on_closed(news.set)
    with run.log.watched(lambda: stream.soon(news.set)):
        while True:
            news.clear()
            ended = run.log.ended  # before the events are read: the last one may come while they are
            # Off the event loop: those of a long run are read from its file.
            new = await stream.blocking(partial(run.log.since, sequence))
            for event in new:
                yield _event(run, event)
                sequence = event.sequence + 1
                if isinstance(event.what, events.LAST):
                    return
            if not new and ended:
                return  # It was asked for what comes after the last one.
            if not stream.open():
                raise UnavailableError(f"the server is stopping; attach to run '{run.id}' again after it has restarted")
            if not new:
                await news.wait()


# Convert in.


def _training_request(spec: pb.TrainSpec, model: str, version: int, defaults: RunDefaults) -> RunRequest:
    if spec.publish_choice == pb.PUBLISH_CHOICE_BEST and spec.HasField("publish") and not spec.publish:
        raise InvalidRequestError("publish_choice: given for a run that publishes nothing")
    filled = {"seed": secrets.randbelow(2**31), "checkpoint_seconds": defaults.checkpoint_seconds}
    budget = Budget(**_options(BUDGET, spec))
    return RunRequest(**_common(spec, model, version, defaults), **(filled | _options(RUN, spec)), budget=budget)


def _evaluation_request(spec: pb.EvaluateSpec, model: str, version: int, defaults: RunDefaults) -> RunRequest:
    options = _options((option for option in RUN if option.evaluates), spec)
    return RunRequest(**_common(spec, model, version, defaults), **options, kind=Kind.EVALUATION, publish=False)


def _options(options: Iterable[Option], spec: pb.TrainSpec | pb.EvaluateSpec) -> dict[str, Any]:
    """What a specification says of these options, by name; only what is given."""
    given = ((option, option.read(spec)) for option in options)
    return {option.name: _value(option, value) for option, value in given if value is not None}


def _value(option: Option, value: Any) -> Any:
    if not isinstance(option.kind, Json):
        return value
    read = _json(value, option.name)
    if isinstance(option.kind, Callbacks):
        return _callbacks(read)
    return _class_weight(read) if isinstance(option.kind, ClassWeight) and read is not None else read


def _common(spec: pb.TrainSpec | pb.EvaluateSpec, model: str, version: int, defaults: RunDefaults) -> dict[str, Any]:
    """The part of a request that training and evaluation share."""
    return {
        "model": model,
        "version": version,
        "data": tuple(map(_array, spec.data)),
        "compile": _options(COMPILE, spec),
        "threads": defaults.threads,
        "device": defaults.device,
        "nice": defaults.nice,
        "data_root": str(defaults.data_root or ""),
    }


def _array(array: pb.DataArray) -> DataArray:
    role = ROLES.get(array.role)
    if role is None:
        raise InvalidRequestError(f"data array '{array.name}': got no role, expected one")
    dtype = "" if array.path and not array.dtype else dtype_name(array.dtype, array.name)
    return DataArray(role, array.name, dtype, tuple(array.shape), path=array.path, key=array.key)


def _callbacks(given: Any) -> tuple[Any, ...]:
    if given is not None and not isinstance(given, list):
        raise InvalidRequestError('callbacks: expected a list of names and objects, such as ["TerminateOnNaN"]')
    return tuple(given or ())


def _json(text: str, name: str) -> Any:
    """The value of a field that holds JSON; None where it is empty. Raises InvalidRequestError."""
    if not text:
        return None
    try:
        return json_value(text, most=MAX_JSON, values=MAX_JSON_VALUES, depth=MAX_JSON_DEPTH)
    except JsonError as error:
        raise InvalidRequestError(f"{name}: {text[:80]!r} {error}") from error


def _class_weight(weights: Any) -> dict[int, float]:
    if isinstance(weights, dict):
        try:
            return {int(key): float(weight) for key, weight in weights.items()}
        except (ValueError, TypeError, OverflowError):
            pass
    raise InvalidRequestError('class_weight: expected an object of class numbers and weights, such as {"0": 1.0}')


# Convert out.


def _event(run: Run, event: Event) -> pb.TrainEvent:
    message = pb.TrainEvent(run_id=run.id, sequence=event.sequence, time=timestamp(event.time))
    what = event.what
    if isinstance(what, events.Accepted):
        message.accepted.base.CopyFrom(model_spec(what.model, what.version))
        message.accepted.data_bytes = what.data_bytes
    elif isinstance(what, events.Queued):
        message.queued.ahead = what.ahead
        message.queued.SetInParent()
    elif isinstance(what, events.Started):
        message.started.CopyFrom(
            pb.RunStarted(epochs=what.epochs, steps_per_epoch=what.steps_per_epoch, rows=what.rows)
        )
    elif isinstance(what, events.Step):
        message.step.CopyFrom(
            pb.StepProgress(
                epoch=what.epoch,
                epochs=what.epochs,
                step=what.step,
                steps_per_epoch=what.steps_per_epoch,
                logs=_logs(what.logs),
            )
        )
    elif isinstance(what, events.Epoch):
        message.epoch.CopyFrom(
            pb.EpochEnd(epoch=what.epoch, epochs=what.epochs, logs=_logs(what.logs), seconds=what.seconds)
        )
    elif isinstance(what, events.Log):
        message.log.text = what.text
        message.log.SetInParent()
    elif isinstance(what, events.Finished):
        finished = pb.RunFinished(logs=_logs(what.logs), seconds=what.seconds, withheld=what.withheld)
        message.finished.CopyFrom(finished)
        if what.version:
            message.finished.published.CopyFrom(model_spec(run.request.model, what.version))
    elif isinstance(what, events.Failed):
        failed = pb.RunFailed(reason=what.reason, epoch=what.epoch, step=what.step, resumable=what.resumable)
        message.failed.CopyFrom(failed)
    elif isinstance(what, events.Resumed):
        message.resumed.CopyFrom(pb.RunResumed(epoch=what.epoch, step=what.step))
    else:
        message.cancelled.CopyFrom(pb.RunCancelled(epoch=what.epoch))
    return message


def _file(file: RunFile) -> pb.RunFile:
    return pb.RunFile(name=file.name, bytes=file.bytes, modified_time=timestamp(file.modified_time))


def _logs(logs: Logs) -> list[pb.LogValue]:
    return [pb.LogValue(name=name, value=value) for name, value in logs.items()]


def _run(run: Run, owner: str = "") -> pb.Run:
    request, log = run.request, run.log
    started = log.newest(events.Started)
    failed, finished = log.newest(events.Failed), log.newest(events.Finished)
    message = pb.Run(
        id=run.id,
        state=STATES[run.state],
        base=model_spec(request.model, request.version),
        reason=failed.reason if failed else "",
        epochs_done=run.epochs_done,
        epochs=request.epochs,
        steps_done=0 if log.ended else run.place[1],
        steps_per_epoch=started.steps_per_epoch if started else 0,
        logs=_logs(run.logs),
        seed=request.seed,
        description=request.description,
        kind=KINDS[request.kind],
        resumable=run.resumable,
        resumed=run.resumed,
        priority=request.priority,
        workers=request.workers,
        owner=owner,
    )
    if finished and finished.version:
        message.published.CopyFrom(model_spec(request.model, finished.version))
    for field, seconds in (
        (message.created_time, log.time_of(events.Accepted)),
        (message.started_time, log.time_of(events.Started)),
        (message.ended_time, log.time_of(*events.LAST)),
    ):
        if seconds is not None:
            field.CopyFrom(timestamp(seconds))
    return message
