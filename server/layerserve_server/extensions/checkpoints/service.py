"""Handlers of layerserve.v1.CheckpointService: the checkpoints that runs keep."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

from layerserve.v1 import checkpoints_pb2 as pb
from layerserve.v1 import tensor_pb2
from layerserve.v1.training_pb2 import LogValue
from layerserve.values import tensors

from layerserve_server.access.ownership import Access
from layerserve_server.access.quota import rows_of
from layerserve_server.disk import locked
from layerserve_server.errors import InvalidRequestError, NotTrainableError, UnknownCheckpointError
from layerserve_server.extensions.checkpoints.models import CheckpointModels, Tensor
from layerserve_server.repository.layout import LABEL
from layerserve_server.repository.repository import Repository
from layerserve_server.services import checkpoint_refs
from layerserve_server.services.downloads import downloaded
from layerserve_server.services.messages import dtype_name, format_name, model_spec, parse, parsed, timestamp
from layerserve_server.services.run_access import find_run
from layerserve_server.training.from_checkpoint import Start
from layerserve_server.training.model import monitored
from layerserve_server.training.run_folder.checkpoints import Checkpoint, KeptCheckpoints, best_of
from layerserve_server.training.run_folder.layout import KEPT
from layerserve_server.training.runs.ending import drop_unused_base
from layerserve_server.training.runs.registry import Runs
from layerserve_server.training.runs.run import Phase, Run
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.CheckpointService/"

#: Size of the pieces of a downloaded file, in bytes.
CHUNK = 256 * 1024
#: Locked while a checkpoint of the run is published.
PUBLISH_LOCK = "publish.lock"


class CheckpointService:
    """Handlers of the checkpoint service."""

    def __init__(self, repository: Repository, runs: Runs, models: CheckpointModels) -> None:
        self._repository = repository
        self._runs = runs
        self._models = models

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "ListCheckpoints": self.list_checkpoints,
                SERVICE + "PublishCheckpoint": self.publish_checkpoint,
                SERVICE + "PredictCheckpoint": self.predict_checkpoint,
                SERVICE + "DeleteCheckpoint": self.delete_checkpoint,
            },
            server_streams={SERVICE + "DownloadCheckpoint": self.download_checkpoint},
        )

    def list_checkpoints(self, call: Call) -> None:
        """Handles ListCheckpoints: replies with the checkpoints of a run. Raises as `find_run` does."""
        request = parse(pb.ListCheckpointsRequest, call.request)
        run = find_run(self._runs, call.caller, Access.READ, request.run_id)

        def work() -> None:
            found = KeptCheckpoints(run.folder / KEPT).list()
            best = {one.id for one in best_of(found)[:1]}
            messages = [self._described(run, one, best=one.id in best) for one in found]
            response = pb.ListCheckpointsResponse(checkpoints=messages, monitor=monitored(run.request))
            call.answer(response.SerializeToString())

        call.in_pool(work)

    def _described(self, run: Run, one: Checkpoint, *, best: bool) -> pb.Checkpoint:
        message = pb.Checkpoint(
            id=one.id,
            epoch=one.epoch,
            step=one.step,
            logs=[LogValue(name=name, value=value) for name, value in one.logs.items()],
            bytes=one.bytes,
            time=timestamp(one.time),
            best=best,
        )
        if version := self._repository.publisher.version_of_run(run.request.model, run.id, one.id):
            message.published.CopyFrom(model_spec(run.request.model, version))
        return message

    async def download_checkpoint(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles DownloadCheckpoint: yields a checkpoint's model file, or its own file.

        Raises as `starts.find` and `CheckpointModels.built` do.
        """
        request = await parsed(stream, pb.DownloadCheckpointRequest, await stream.first())
        run, start = await stream.blocking(
            lambda: checkpoint_refs.find(self._runs, stream.caller, request.run_id, request.checkpoint_id)
        )
        stream.set_metric_labels(run.request.model, run.request.version)
        format = format_name(request.format)
        if request.content not in pb.CheckpointContent.values():
            raise InvalidRequestError(f"content: got {request.content}, expected one of CheckpointContent")
        with contextlib.ExitStack() as resources:
            path = start.file
            if request.content != pb.CHECKPOINT_CONTENT_STATE:
                built = self._models.built(start, format, lambda: not stream.listens())
                path = await stream.blocking(lambda: resources.enter_context(built))
            elif format:
                raise InvalidRequestError("format: got one for the state, expected none")
            try:
                file = resources.enter_context(path.open("rb"))
            except OSError as error:
                raise UnknownCheckpointError(f"checkpoint '{start.name}' can't be read: {error.strerror}") from error
            head = pb.DownloadCheckpointResponse(
                checkpoint=self._described(run, start.checkpoint, best=_is_best(start)),
                file=path.name,
                file_size_bytes=path.stat().st_size,
            )
            async for message in downloaded(stream, head, lambda: file.read(CHUNK)):
                yield message

    def publish_checkpoint(self, call: Call) -> None:
        """Handles PublishCheckpoint. Raises as `starts.find`, `CheckpointModels.built` and `publish_once` do."""
        request = parse(pb.PublishCheckpointRequest, call.request)
        format = format_name(request.format)
        if request.label and not LABEL.fullmatch(request.label):
            raise InvalidRequestError(f"label: got '{request.label[:80]}', expected {LABEL.pattern}")

        def work() -> None:
            run, start = checkpoint_refs.find(self._runs, call.caller, request.run_id, request.checkpoint_id)
            version = self._publish(run, start, format, request.label, call)
            published = model_spec(run.request.model, version)
            call.answer(pb.PublishCheckpointResponse(published=published).SerializeToString())

        call.in_pool(work)

    def _publish(self, run: Run, start: Start, format: str, label: str, call: Call) -> int:
        """Publishes a checkpoint, unless it is published, and sets the label. Returns the version."""
        model, id = run.request.model, start.checkpoint.id
        self._repository.publisher.check_publishable(model, run.request.version)
        with _only_publisher(run), contextlib.ExitStack() as resources:
            # Another server on the repository may have published it.
            self._repository.refresh(model)
            file = Path()
            if not self._repository.publisher.version_of_run(model, run.id, id):
                file = resources.enter_context(self._models.built(start, format, lambda: call.answered, publishes=True))
            base, who = run.request.version, call.caller.name
            return self._repository.publisher.publish_once(
                model, file, run=run.id, base_version=base, label=label, checkpoint=id, who=who
            )

    def predict_checkpoint(self, call: Call) -> None:
        """Handles PredictCheckpoint. Raises as `starts.find`, `Quota.take_rows` and `CheckpointModels.predict` do."""
        request = parse(pb.PredictCheckpointRequest, call.request)
        inputs = [
            Tensor(one.name, dtype_name(one.dtype, one.name), tuple(one.shape), one.data) for one in request.inputs
        ]

        def work() -> None:
            run, start = checkpoint_refs.find(self._runs, call.caller, request.run_id, request.checkpoint_id)
            call.set_metric_labels(run.request.model, run.request.version)
            if (quota := call.caller.quota) is not None:
                quota.take_rows(rows_of(one.shape for one in inputs))
            found = self._models.predict(start, inputs, tuple(request.outputs), lambda: call.answered)
            outputs = [_tensor(one) for one in found]
            response = pb.PredictCheckpointResponse(outputs=outputs, checkpoint_id=start.checkpoint.id)
            call.answer(response.SerializeToString())

        call.in_pool(work)

    def delete_checkpoint(self, call: Call) -> None:
        """Handles DeleteCheckpoint. Raises as `starts.find` does."""
        request = parse(pb.DeleteCheckpointRequest, call.request)

        def work() -> None:
            run, start = checkpoint_refs.find(self._runs, call.caller, request.run_id, request.checkpoint_id)
            try:
                KeptCheckpoints(run.folder / KEPT).remove(start.checkpoint.id)
            except OSError as error:
                raise NotTrainableError(f"the checkpoint can't be removed: {error.strerror}") from error
            if run.phase is Phase.ENDED and not run.resumable:
                drop_unused_base(run)
            call.answer(pb.DeleteCheckpointResponse(checkpoint_id=start.checkpoint.id).SerializeToString())

        call.in_pool(work)


@contextlib.contextmanager
def _only_publisher(run: Run) -> Iterator[None]:
    """Waits within the block until no other call, of any server, publishes a checkpoint of the run."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(run.folder / PUBLISH_LOCK))
        except OSError as error:
            raise UnknownCheckpointError(f"training run '{run.id}' can't be written: {error.strerror}") from error
        yield


def _is_best(start: Start) -> bool:
    return any(one.id == start.checkpoint.id for one in best_of(KeptCheckpoints(start.folder / KEPT).list())[:1])


def _tensor(one: Tensor) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(name=one.name, dtype=tensors.dtype_enum(one.dtype), shape=one.shape, data=one.data)
