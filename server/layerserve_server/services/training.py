"""Handlers of layerserve.v1.TrainingService: runs, their events and files."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from functools import partial
from typing import Any

from layerserve.v1 import training_pb2 as pb

from layerserve_server.access.caller import Caller
from layerserve_server.access.ownership import Access, access_to, reads_rows
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.errors import (
    ForbiddenError,
    InvalidRequestError,
    NotTrainableError,
    ServerError,
    UnavailableError,
)
from layerserve_server.repository.repository import Repository
from layerserve_server.services.checkpoint_refs import base_of, start_of
from layerserve_server.services.dataset_arrays import use_datasets, with_datasets
from layerserve_server.services.downloads import downloaded
from layerserve_server.services.idempotency import keys_of_runs
from layerserve_server.services.messages import parse, parsed
from layerserve_server.services.open_work import OpenWork
from layerserve_server.services.run_access import find_run, owned
from layerserve_server.services.run_changes import RunChanges
from layerserve_server.services.run_list import page, selected
from layerserve_server.services.run_replies import event_message, existence_message, file_message, run_message
from layerserve_server.services.run_requests import RunDefaults, evaluation_request, training_request
from layerserve_server.services.upload_slots import UploadSlots
from layerserve_server.training import events
from layerserve_server.training.budget import text_room
from layerserve_server.training.from_checkpoint import Start
from layerserve_server.training.request import EVALUATION, TRAINING, RunRequest
from layerserve_server.training.run_folder.files import chunks, listed, opened
from layerserve_server.training.run_folder.layout import FILES
from layerserve_server.training.run_folder.upload import Upload
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.TrainingService/"

#: Maximum number of concurrent uploads. Each run has a copy of its model on disk.
MAX_UPLOADS = 64


class TrainingService:
    """Handlers of the training service."""

    def __init__(
        self,
        repository: Repository,
        runs: Runs,
        work: OpenWork,
        defaults: RunDefaults,
        datasets: DatasetStore | None = None,
    ) -> None:
        """`datasets` is None if the server keeps none."""
        self._repository = repository
        self._datasets = datasets
        self._runs = runs
        self._defaults = defaults
        self._work = work
        self._changes = RunChanges(runs, work, run_message)
        self._keys = keys_of_runs(runs)
        self._uploads = UploadSlots(MAX_UPLOADS)

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
        message = await parsed(stream, kind, await stream.first())
        if message.WhichOneof("part") != "spec":
            raise InvalidRequestError("the first message of the stream must be the spec")

        def begin() -> Run:
            start = start_of(self._runs, stream.caller, message.spec)
            with base_of(self._repository, stream.caller, message.spec.model, start) as base:
                stream.set_metric_labels(base.name, base.version)
                request = read(message.spec, base.name, base.version, self._defaults, start)
                request = with_datasets(owned(request, stream.caller, self._repository), self._datasets, stream.caller)
                run = self._runs.begin(request, base, lambda: not stream.listens(), start)
            try:
                use_datasets(request, self._datasets)
            except ServerError as error:
                self._runs.abandon(run, str(error))
                raise
            if stream.trace is not None:
                stream.trace.begin_run(run.folder, stream.metadata)
            return run

        def begin_once() -> tuple[Run, bool]:
            # The run may be of a model on which the caller has no right any more.
            stream.caller.check_model("train", message.spec.model.name)
            of_kind = TRAINING if kind is pb.TrainRequest else EVALUATION
            key, once = message.spec.idempotency_key, partial(self._work.begin, stream.caller, begin)
            return self._keys.begin(stream.caller, key, of_kind, message.spec, once)

        with self._uploads.occupy(stream):
            run, found = await stream.blocking(begin_once)
            accepted = run.log.events[0]
            if found:
                stream.set_metric_labels(run.request.model, run.request.version)
            try:
                yield reply(event=event_message(run, accepted, found=found)).SerializeToString()
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
        """Handles WatchRun: yields a run's events from a sequence number on, to its end. Raises as `find_run`."""
        request = await parsed(stream, pb.WatchRunRequest, await stream.first())
        # Blocking, since an unknown id is looked up on disk.
        run = await stream.blocking(lambda: self._get(stream.caller, Access.READ, request.run_id))
        stream.set_metric_labels(run.request.model, run.request.version)
        async for event in _follow(run, request.from_sequence, stream):
            yield pb.WatchRunResponse(event=event).SerializeToString()

    def get_run(self, call: Call) -> None:
        """Handles GetRun: replies with a run's state. Raises as `find_run` does."""
        request = parse(pb.GetRunRequest, call.request)
        run = self._get(call.caller, Access.EXISTS, request.run_id)
        call.answer(pb.GetRunResponse(run=self._described(call.caller, run)).SerializeToString())

    def list_runs(self, call: Call) -> None:
        """Handles ListRuns: replies with the runs asked for, including other servers'.

        Runs that don't exist for the caller are left out. Raises InvalidRequestError, as `run_list` does.
        """
        request = parse(pb.ListRunsRequest, call.request)
        table = self._runs.table
        runs = table.list_all(request.model_name).values()
        seen = [run for run in runs if access_to(call.caller, run.request) > Access.NONE]
        # What only its owner reads of a run isn't found out by asking for it, either.
        if request.metadata:
            seen = [run for run in seen if access_to(call.caller, run.request) >= Access.READ]
        found, token = page(request, selected(request, seen))
        shown = [self._described(call.caller, run, run.owner if table.is_elsewhere(run) else "") for run in found]
        call.answer(pb.ListRunsResponse(runs=shown, next_page_token=token).SerializeToString())

    def list_run_files(self, call: Call) -> None:
        """Handles ListRunFiles: replies with the files that a run's callbacks have written."""
        request = parse(pb.ListRunFilesRequest, call.request)
        found = listed(self._get(call.caller, Access.READ, request.run_id).folder / FILES)
        call.answer(pb.ListRunFilesResponse(files=map(file_message, found)).SerializeToString())

    async def download_run_file(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles DownloadRunFile: yields one of these files. Raises NotFoundError if there is no such file."""
        request = await parsed(stream, pb.DownloadRunFileRequest, await stream.first())
        run = await stream.blocking(lambda: self._get(stream.caller, Access.FULL, request.run_id))
        if run.kind.files_have_rows and not reads_rows(stream.caller, run.request.caller):
            raise ForbiddenError(f"training run '{run.id}': its files have rows of another caller's dataset")
        stream.set_metric_labels(run.request.model, run.request.version)
        described, file = opened(run.folder / FILES, request.name)
        with file:
            head = pb.DownloadRunFileResponse(file=file_message(described))
            pieces = chunks(file, described.bytes)
            async for message in downloaded(stream, head, lambda: next(pieces, b"")):
                yield message

    def _get(self, caller: Caller, needed: Access, run_id: str) -> Run:
        """Returns a run. Raises as `find_run` does."""
        return find_run(self._runs, caller, needed, run_id)

    @staticmethod
    def _described(caller: Caller, run: Run, owner: str = "") -> pb.Run:
        """Returns the message about a run, with what the caller may read of it."""
        if access_to(caller, run.request) < Access.READ:
            return existence_message(run)
        return run_message(run, owner)

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
                message = await parsed(stream, kind, data)
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
    with run.log.watchers.watched(lambda: stream.soon(wake.set)):
        while True:
            wake.clear()
            ended = run.log.ended  # before the events are read, since the last one may be added meanwhile
            # In a pool thread, since those of a long run are read from its file.
            new = await stream.blocking(partial(run.log.since, sequence))
            for event in new:
                yield event_message(run, event)
                sequence = event.sequence + 1
                if isinstance(event.what, events.LAST):
                    return
            if not new and ended:
                return  # The sequence number is after the last event.
            if not stream.open():
                raise UnavailableError(f"the server is stopping; attach to run '{run.id}' again after it has restarted")
            if not new:
                await wake.wait()
