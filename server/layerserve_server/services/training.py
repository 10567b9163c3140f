"""Handlers of layerserve.v1.TrainingService: runs, their events and files."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from layergraph.archive.json_text import JsonError, json_value
from layerserve.options.kinds import Callbacks, ClassWeight, Json, Lora, Splits, splits_problem
from layerserve.options.option import Option
from layerserve.options.training import BUDGET, COMPILE, RUN, VIEW, Budget, View
from layerserve.v1 import training_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.access.rights import Right
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import InvalidRequestError, NotTrainableError, ServerError, UnavailableError
from layerserve_server.repository.repository import Repository
from layerserve_server.services.dataset_arrays import use_datasets, with_datasets
from layerserve_server.services.downloads import downloaded
from layerserve_server.services.idempotency import IdempotencyKeys
from layerserve_server.services.messages import dtype_name, model_spec, parse, timestamp
from layerserve_server.services.run_changes import RunChanges, counted
from layerserve_server.services.run_list import page, selected
from layerserve_server.services.starts import base_of, start_of
from layerserve_server.training import events
from layerserve_server.training.budget import text_room
from layerserve_server.training.continuation import Start, merged
from layerserve_server.training.events import Event, Logs
from layerserve_server.training.lora import lora_settings
from layerserve_server.training.request import DataArray, Kind, Role, RunRequest
from layerserve_server.training.runs import trace
from layerserve_server.training.runs.files import RunFile, chunks, listed, opened
from layerserve_server.training.runs.folder import FILES
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.remaining import remaining_seconds
from layerserve_server.training.runs.run import Phase, Run, RunState
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
    RunState.PAUSED: pb.RUN_STATE_PAUSED,
}
KINDS: dict[Kind, pb.RunKind.ValueType] = {
    Kind.TRAINING: pb.RUN_KIND_TRAINING,
    Kind.EVALUATION: pb.RUN_KIND_EVALUATION,
    Kind.ONLINE: pb.RUN_KIND_ONLINE,
}
#: Maximum number of concurrent uploads, in total and per client address. Each run has a copy of its model on disk.
MAX_UPLOADS = 64
MAX_PEER_UPLOADS = 32
#: Maximum length in characters, number of values and nesting depth of JSON fields.
MAX_JSON = 4 << 20
MAX_JSON_VALUES = 200_000
MAX_JSON_DEPTH = 64


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """The server's settings for all runs: compute threads, torch device, niceness, and the fields below."""

    threads: int
    device: str
    nice: int
    #: Default time between checkpoints, in seconds.
    checkpoint_seconds: float
    #: Folder of data files; None if the server reads none.
    data_root: Path | None


class TrainingService:
    """Handlers of the training service."""

    def __init__(
        self, repository: Repository, runs: Runs, defaults: RunDefaults, datasets: DatasetStore | None = None
    ) -> None:
        """`datasets` is None if the server keeps none."""
        self._repository = repository
        self._datasets = datasets
        self._runs = runs
        self._defaults = defaults
        self._changes = RunChanges(runs, _run)
        self._keys = IdempotencyKeys(runs)
        self._uploads = UploadSlots(MAX_UPLOADS, MAX_PEER_UPLOADS)

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "GetRun": self.get_run,
                SERVICE + "ListRuns": self.list_runs,
                **{SERVICE + name: handler for name, handler in self._changes.handlers().items()},
                SERVICE + "ListRunFiles": self.list_run_files,
            },
            lists={SERVICE + "ListRuns"},
            server_streams={
                SERVICE + "WatchRun": self.watch_run,
                SERVICE + "DownloadRunFile": self.download_run_file,
            },
            both_streams={SERVICE + "Train": self.train, SERVICE + "Evaluate": self.evaluate},
        )

    def train(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles Train: creates a run, receives its data, and yields its events until it ends.

        Raises as `start_of`, `base_of`, `Quota.run`, `Runs.begin`, `UploadSlots.occupy` and `Upload` do.
        """
        return self._execute(stream, pb.TrainRequest, pb.TrainResponse, training_request)

    def evaluate(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles Evaluate: like `train`, for an evaluation run."""
        return self._execute(stream, pb.EvaluateRequest, pb.EvaluateResponse, evaluation_request)

    async def _execute(
        self,
        stream: Stream,
        kind: type[pb.TrainRequest] | type[pb.EvaluateRequest],
        reply: type[pb.TrainResponse] | type[pb.EvaluateResponse],
        read: Callable[[Any, str, int, RunDefaults, Start | None], RunRequest],
    ) -> AsyncGenerator[bytes, None]:
        message = parse(kind, await stream.first())
        if message.WhichOneof("part") != "spec":
            raise InvalidRequestError("the first message of the stream must be the spec")

        caller = stream.caller.name if stream.caller.named else ""

        def begin() -> Run:
            start = start_of(self._runs, stream.caller, message.spec)
            with base_of(self._repository, stream.caller, message.spec.model, start) as base:
                stream.about(base.name, base.version)
                request = read(message.spec, base.name, base.version, self._defaults, start)
                request = with_datasets(replace(request, caller=caller), self._datasets, stream.caller)
                run = self._runs.begin(request, base, lambda: not stream.listens(), start)
            try:
                use_datasets(request, self._datasets)
            except ServerError as error:
                self._runs.abandon(run, str(error))
                raise
            if stream.trace is not None:
                trace.write(run.folder, stream.trace.headers(stream.metadata))
            return run

        def begin_once() -> tuple[Run, bool]:
            # The run may be of a model on which the caller has no right any more.
            stream.caller.check_model("train", message.spec.model.name)
            return self._keys.begin(caller, message.spec, partial(counted, stream.caller, begin))

        with self._uploads.occupy(stream.peer):
            run, found = await stream.blocking(begin_once)
            accepted = run.log.events[0]
            if found:
                stream.about(run.request.model, run.request.version)
            try:
                yield reply(event=_event(run, accepted, found=found)).SerializeToString()
                if found:
                    async for _ in stream.requests():
                        pass  # sent before the client read that no data is expected
                else:
                    await self._receive(run, stream, kind)
            except BaseException as error:  # including GeneratorExit after a cancellation
                known = isinstance(error, ServerError)
                reason = str(error) if known else "the upload ended before all data was received"
                if not found:
                    await stream.blocking(lambda: self._runs.abandon(run, reason))
                raise
        async for event in _follow(run, accepted.sequence + 1, stream):
            yield reply(event=event).SerializeToString()

    async def watch_run(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles WatchRun: yields a run's events from a sequence number on, to its end. Raises as `Runs.get` does."""
        request = parse(pb.WatchRunRequest, await stream.first())
        # Blocking, since an unknown id is looked up on disk.
        run = await stream.blocking(lambda: self._get(stream.caller, "read", request.run_id))
        stream.about(run.request.model, run.request.version)
        async for event in _follow(run, request.from_sequence, stream):
            yield pb.WatchRunResponse(event=event).SerializeToString()

    def get_run(self, call: Call) -> None:
        """Handles GetRun: replies with a run's state. Raises as `Runs.get` does."""
        request = parse(pb.GetRunRequest, call.request)
        run = self._get(call.caller, "read", request.run_id)
        call.reply(pb.GetRunResponse(run=_run(run)).SerializeToString)

    def list_runs(self, call: Call) -> None:
        """Handles ListRuns: replies with the runs asked for, including other servers'.

        Runs of models that the caller may not read are left out. Raises InvalidRequestError, as `run_list` does.
        """
        request = parse(pb.ListRunsRequest, call.request)
        # In this order: a run that is taken over in between is in both lists, rather than in neither.
        elsewhere = {run.id: run for run in self._runs.list_elsewhere(request.model_name)}
        here = {run.id: run for run in self._runs.list(request.model_name)}
        readable = [run for run in (elsewhere | here).values() if call.caller.may("read", run.request.model)]
        runs, token = page(request, selected(request, readable))
        shown = [_run(run, owner="" if run.id in here else run.owner) for run in runs]
        call.reply(pb.ListRunsResponse(runs=shown, next_page_token=token).SerializeToString)

    def list_run_files(self, call: Call) -> None:
        """Handles ListRunFiles: replies with the files that a run's callbacks have written."""
        request = parse(pb.ListRunFilesRequest, call.request)
        found = listed(self._get(call.caller, "read", request.run_id).folder / FILES)
        call.reply(pb.ListRunFilesResponse(files=map(_file, found)).SerializeToString)

    async def download_run_file(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles DownloadRunFile: yields one of these files. Raises NotFoundError if there is no such file."""
        request = parse(pb.DownloadRunFileRequest, await stream.first())
        run = await stream.blocking(lambda: self._get(stream.caller, "read", request.run_id))
        stream.about(run.request.model, run.request.version)
        described, file = opened(run.folder / FILES, request.name)
        with file:
            head = pb.DownloadRunFileResponse(file=_file(described))
            pieces = chunks(file, described.bytes)
            async for message in downloaded(stream, head, lambda: next(pieces, b"")):
                yield message

    def _get(self, caller: Caller, right: Right, run_id: str) -> Run:
        """Returns a run. One of a model that the caller has no right on doesn't exist for it. Raises as `Runs.get`."""
        return self._runs.get(run_id, partial(caller.may, right))

    async def _receive(self, run: Run, stream: Stream, kind: type[pb.TrainRequest] | type[pb.EvaluateRequest]) -> None:
        """Receives a run's data and queues the run. Raises as `Upload` does if the data is invalid or incomplete."""
        try:
            upload = await stream.blocking(
                lambda: Upload(run.folder, run.request.data, text_room(run.request, run.folder))
            )
        except NotTrainableError:
            if run.phase is Phase.ENDED:  # cancelled meanwhile, which removes the folder of its data
                return
            raise
        with upload:
            async for data in stream.requests():
                if run.log.ended:  # cancelled during the upload
                    return
                message = parse(kind, data)
                part = message.WhichOneof("part")
                if part == "chunk":
                    await stream.blocking(partial(upload.add, message.chunk.array, message.chunk.data))
                elif part == "digest":
                    upload.check_digest(message.digest.array, message.digest.sha256)
                else:
                    raise InvalidRequestError("every message after the first must be a chunk or a digest")
            upload.check_complete()
        await stream.blocking(lambda: self._runs.enqueue(run))


async def _follow(run: Run, sequence: int, stream: Stream) -> AsyncGenerator[pb.TrainEvent, None]:
    """Yields a run's events from a sequence number on as they occur, until the last one."""
    wake = asyncio.Event()
    stream.on_closed(wake.set)
    with run.log.watched(lambda: stream.soon(wake.set)):
        while True:
            wake.clear()
            ended = run.log.ended  # before the events are read, since the last one may be added meanwhile
            # In a pool thread, since those of a long run are read from its file.
            new = await stream.blocking(partial(run.log.since, sequence))
            for event in new:
                yield _event(run, event)
                sequence = event.sequence + 1
                if isinstance(event.what, events.LAST):
                    return
            if not new and ended:
                return  # The sequence number is after the last event.
            if not stream.open():
                raise UnavailableError(f"the server is stopping; attach to run '{run.id}' again after it has restarted")
            if not new:
                await wake.wait()


# Conversion of requests.


def training_request(
    spec: pb.TrainSpec, model: str, version: int, defaults: RunDefaults, start: Start | None = None
) -> RunRequest:
    """Converts the spec of a training run. Raises InvalidRequestError or InvalidTensorError if it is invalid."""
    if spec.publish_choice not in pb.PublishChoice.values():
        raise InvalidRequestError(f"publish_choice: got {spec.publish_choice}, expected one of PublishChoice")
    if spec.publish_choice == pb.PUBLISH_CHOICE_BEST and spec.HasField("publish") and not spec.publish:
        raise InvalidRequestError("publish_choice: given for a run that doesn't publish its result")
    filled = {"seed": secrets.randbelow(2**31), "checkpoint_seconds": defaults.checkpoint_seconds}
    budget = Budget(**read_options(BUDGET, spec))
    view = View(**read_options(VIEW, spec))
    given = read_options(RUN, spec)
    request = RunRequest(
        **common_fields(spec, model, version, defaults),
        data=_data(spec),
        **(filled | given),
        budget=budget,
        view=view,
    )
    return request if start is None else _continued(request, start, given)


def evaluation_request(
    spec: pb.EvaluateSpec, model: str, version: int, defaults: RunDefaults, start: Start | None = None
) -> RunRequest:
    options = read_options((option for option in RUN if option.evaluates), spec)
    request = RunRequest(
        **common_fields(spec, model, version, defaults),
        data=_data(spec),
        **options,
        view=View(**read_options(VIEW, spec)),
        kind=Kind.EVALUATION,
        publish=False,
        sample_losses=spec.sample_losses,
    )
    return request if start is None else _continued(request, start, options)


def _continued(request: RunRequest, start: Start, given: Mapping[str, Any]) -> RunRequest:
    """Returns the request of a run that begins with a checkpoint: what isn't given is as in the checkpoint's run."""
    taken_over = start.taken_over(request.kind, {array.role for array in request.data})
    changes: dict[str, Any] = {name: value for name, value in taken_over.items() if name not in given}
    changes["compile"] = merged(start.request.compile, request.compile)
    return replace(request, version=start.request.version, from_checkpoint=start.name, **changes)


def read_options(options: Iterable[Option], spec: Any) -> dict[str, Any]:
    """Returns the values of the given options of a spec, by name."""
    given = ((option, option.read(spec)) for option in options)
    return {option.name: _value(option, value) for option, value in given if value is not None}


def _value(option: Option, value: Any) -> Any:
    if not isinstance(option.kind, Json):
        return value
    read = parsed_json(value, option.name)
    if isinstance(option.kind, Callbacks):
        return _callbacks(read)
    if isinstance(option.kind, Splits):
        return _splits(read)
    if isinstance(option.kind, Lora):
        return lora_settings(read)
    return _class_weight(read) if isinstance(option.kind, ClassWeight) and read is not None else read


def common_fields(spec: Any, model: str, version: int, defaults: RunDefaults) -> dict[str, Any]:
    """Returns the fields of a request that all specs of runs have in common."""
    return {
        "model": model,
        "version": version,
        "compile": read_options(COMPILE, spec),
        "threads": defaults.threads,
        "device": defaults.device,
        "nice": defaults.nice,
        "data_root": str(defaults.data_root or ""),
    }


def _data(spec: pb.TrainSpec | pb.EvaluateSpec) -> tuple[DataArray, ...]:
    return tuple(map(_array, spec.data))


def _array(array: pb.DataArray) -> DataArray:
    role = ROLES.get(array.role)
    if role is None:
        raise InvalidRequestError(f"data array '{array.name}': got no role, expected one")
    if array.path and array.dataset:
        raise InvalidRequestError(f"data array '{array.name}': got a path and a dataset, expected one of the two")
    dtype = "" if (array.path or array.dataset) and not array.dtype else dtype_name(array.dtype, array.name)
    if array.key and array.columns:
        raise InvalidRequestError(f"data array '{array.name}': got key and columns, expected one of the two")
    return DataArray(
        role,
        array.name,
        dtype,
        tuple(array.shape),
        path=array.path,
        key=array.key,
        columns=tuple(array.columns),
        fill=array.fill if array.HasField("fill") else None,
        dataset=array.dataset,
    )


def _callbacks(given: Any) -> tuple[Any, ...]:
    if given is not None and not isinstance(given, list):
        raise InvalidRequestError('callbacks: expected a list of names and objects, such as ["TerminateOnNaN"]')
    return tuple(given or ())


def parsed_json(text: str, name: str) -> Any:
    """Parses a JSON field; None if it is empty. Raises InvalidRequestError if it is invalid or exceeds a limit."""
    if not text:
        return None
    try:
        return json_value(text, most=MAX_JSON, values=MAX_JSON_VALUES, depth=MAX_JSON_DEPTH)
    except JsonError as error:
        raise InvalidRequestError(f"{name}: {text[:80]!r} {error}") from error


def _splits(splits: Any) -> dict[str, float] | None:
    if splits is None:
        return None
    problem = splits_problem(splits) if isinstance(splits, dict) else "no object"
    if problem:
        raise InvalidRequestError(f"view: got {problem}, expected shares by name, together at most 1")
    return {name: float(share) for name, share in splits.items()}


def _class_weight(weights: Any) -> dict[int, float]:
    if isinstance(weights, dict):
        try:
            return {int(key): float(weight) for key, weight in weights.items()}
        except (ValueError, TypeError, OverflowError):
            pass
    raise InvalidRequestError('class_weight: expected an object with weights by class number, such as {"0": 1.0}')


# Conversion of replies.


def _event(run: Run, event: Event, *, found: bool = False) -> pb.TrainEvent:
    message = pb.TrainEvent(run_id=run.id, sequence=event.sequence, time=timestamp(event.time))
    what = event.what
    if isinstance(what, events.Accepted):
        message.accepted.base.CopyFrom(model_spec(what.model, what.version))
        message.accepted.data_bytes = what.data_bytes
        message.accepted.found = found
        message.accepted.repeatable = bool(run.request.idempotency_key)
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
                logs=log_values(what.logs),
            )
        )
    elif isinstance(what, events.Epoch):
        message.epoch.CopyFrom(
            pb.EpochEnd(epoch=what.epoch, epochs=what.epochs, logs=log_values(what.logs), seconds=what.seconds)
        )
    elif isinstance(what, events.Log):
        message.log.text = what.text
        message.log.SetInParent()
    elif isinstance(what, events.Finished):
        finished = pb.RunFinished(logs=log_values(what.logs), seconds=what.seconds, withheld=what.withheld)
        message.finished.CopyFrom(finished)
        if what.version:
            message.finished.published.CopyFrom(model_spec(run.request.model, what.version))
    elif isinstance(what, events.Failed):
        failed = pb.RunFailed(reason=what.reason, epoch=what.epoch, step=what.step, resumable=what.resumable)
        message.failed.CopyFrom(failed)
    elif isinstance(what, events.Paused):
        message.paused.CopyFrom(pb.RunPaused(epoch=what.epoch, step=what.step, reason=what.reason))
    elif isinstance(what, events.Resumed):
        message.resumed.CopyFrom(pb.RunResumed(epoch=what.epoch, step=what.step))
    elif isinstance(what, events.Checkpoint):
        kept = pb.CheckpointKept(checkpoint_id=what.id, epoch=what.epoch, step=what.step, bytes=what.bytes)
        message.checkpoint.CopyFrom(kept)
    else:
        message.cancelled.CopyFrom(pb.RunCancelled(epoch=what.epoch))
    return message


def _reason(run: Run) -> str:
    """Returns why a run failed or is paused; empty if it did neither, or a call has paused it."""
    if run.state is RunState.PAUSED:
        paused = run.log.newest(events.Paused)
        return paused.reason if paused else ""
    failed = run.log.newest(events.Failed)
    return failed.reason if failed else ""


def _file(file: RunFile) -> pb.RunFile:
    return pb.RunFile(name=file.name, bytes=file.bytes, modified_time=timestamp(file.modified_time))


def log_values(logs: Logs) -> list[pb.LogValue]:
    return [pb.LogValue(name=name, value=value) for name, value in logs.items()]


def _run(run: Run, owner: str = "") -> pb.Run:
    request, log = run.request, run.log
    started = log.newest(events.Started)
    finished = log.newest(events.Finished)
    parent, _, checkpoint = (request.from_checkpoint or "").partition("/")
    message = pb.Run(
        id=run.id,
        state=STATES[run.state],
        base=model_spec(request.model, request.version),
        reason=_reason(run),
        epochs_done=run.epochs_done,
        # A run that goes on from a checkpoint counts the epochs before it, too.
        epochs=started.epochs if started else request.epochs,
        steps_done=0 if log.ended else run.position[1],
        steps_per_epoch=started.steps_per_epoch if started else 0,
        logs=log_values(run.logs),
        seed=request.seed,
        description=run.description,
        kind=KINDS[request.kind],
        resumable=run.resumable,
        resumed=run.resumed,
        priority=run.priority,
        workers=request.workers,
        owner=owner,
        parent=parent,
        from_checkpoint=checkpoint,
        remaining_seconds=remaining_seconds(run),
        metadata=run.metadata,
        caller=request.caller,
        withheld=finished.withheld if finished else "",
        publishable=run.publishable,
        stopped=run.control.stop,
        idempotency_key=request.idempotency_key or "",
        sweep_id=request.sweep,
        trial=request.trial,
    )
    if (best := run.best) is not None:
        message.best.name, message.best.value, message.best_epoch = best
    if version := run.published_version:
        message.published.CopyFrom(model_spec(request.model, version))
    for field, seconds in (
        (message.created_time, log.time_of(events.Accepted)),
        (message.started_time, log.time_of(events.Started)),
        (message.ended_time, log.time_of(*events.LAST)),
    ):
        if seconds is not None:
            field.CopyFrom(timestamp(seconds))
    return message
