"""The fake server, which implements all services in memory."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from layerserve.datasets.fake import FakeDatasets
from layerserve.errors import (
    FailedPrecondition,
    Internal,
    LabelNotFound,
    LayerserveError,
    ModelNotFound,
    NotFound,
    RunNotFound,
    Unauthenticated,
    Unavailable,
    VersionNotFound,
    trailing_metadata,
)
from layerserve.models.health import CHECK, HealthCheckRequest, HealthCheckResponse
from layerserve.models.info import TensorSpec, VersionState
from layerserve.models.node_shapes import LayerNodes
from layerserve.testing.fake_management import FakeManagement
from layerserve.testing.fake_model import FakeModel, Function
from layerserve.testing.fake_run import FakeRun, PlannedFailure
from layerserve.testing.fake_run_reports import FakeRunReports
from layerserve.v1 import (
    datasets_pb2_grpc,
    graph_pb2,
    graph_pb2_grpc,
    management_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
    server_pb2,
    server_pb2_grpc,
    training_pb2,
    training_pb2_grpc,
)
from layerserve.v1.tensor_pb2 import MODEL_FORMAT_KERAS2_H5, MODEL_FORMAT_KERAS3_H5, ModelSpec

#: Size of the pieces of a downloaded file, in bytes; small, so that files in tests have several.
DOWNLOAD_BYTES = 1024


class FakeServer(
    prediction_pb2_grpc.PredictionServiceServicer,
    models_pb2_grpc.ModelServiceServicer,
    graph_pb2_grpc.GraphServiceServicer,
    server_pb2_grpc.ServerServiceServicer,
    FakeRunReports,
    FakeDatasets,
    FakeManagement,
):
    """A server in this process, on a free port of the loopback interface. A context manager.

    `address` is its address, `serving` its health status, `calls` the (method, request) pairs received so far,
    `uploaded` the content of the files of the last upload by path, `datasets` the datasets by id and `upload_cuts` the
    numbers of bytes after which the next uploads of one are cut, `canaries` the shares of canaries by model, `runs` the
    training runs by id, `problems` those of estimates, and `misplaced` what a client's `server` has as such.
    `train_logs` is the function that returns the logs of an epoch, counted from 1. `credentials` are for TLS. With a
    `token`, calls that don't send it fail with Unauthenticated.
    """

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.serving = True
        self.token: str | None = None
        self.misplaced: dict[str, str] = {}
        self.models: list[FakeModel] = []
        self.uploaded: dict[str, bytes] = {}
        self.canaries: dict[str, float] = {}
        self.datasets = {}
        self.dataset_bytes = {}
        self.upload_cuts = []
        self.runs: dict[str, FakeRun] = {}
        self.problems: list[str] = []
        self.calls: list[tuple[str, Any]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self._failures: defaultdict[str, deque[LayerserveError]] = defaultdict(deque)
        self._run_failure: PlannedFailure | None = None
        self._drops: deque[int] = deque()
        self._free = threading.Event()
        self._free.set()
        self._stopped = threading.Event()
        self._run_ids = itertools.count(1)
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=16), options=[("grpc.max_receive_message_length", -1)]
        )
        prediction_pb2_grpc.add_PredictionServiceServicer_to_server(self, self._server)
        models_pb2_grpc.add_ModelServiceServicer_to_server(self, self._server)
        graph_pb2_grpc.add_GraphServiceServicer_to_server(self, self._server)
        server_pb2_grpc.add_ServerServiceServicer_to_server(self, self._server)
        training_pb2_grpc.add_TrainingServiceServicer_to_server(self, self._server)
        management_pb2_grpc.add_ManagementServiceServicer_to_server(self, self._server)
        datasets_pb2_grpc.add_DatasetServiceServicer_to_server(self, self._server)
        check = grpc.unary_unary_rpc_method_handler(
            self._check,
            request_deserializer=HealthCheckRequest.FromString,
            response_serializer=HealthCheckResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(CHECK.service, {CHECK.name: check}),)
        )
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> FakeServer:
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _check(self, request: HealthCheckRequest, context: Any) -> HealthCheckResponse:
        self.metadata.append(dict(context.invocation_metadata()))
        return HealthCheckResponse(self.serving)

    def stop(self) -> None:
        """Stops immediately; open calls are aborted."""
        self._stopped.set()
        ended = self._server.stop(None)
        # After the calls were aborted; otherwise held runs would continue and finish.
        self._free.set()
        ended.wait()

    def add_model(
        self,
        name: str,
        function: Function,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        *,
        version: int = 1,
        labels: Sequence[str] = (),
        layers: Sequence[LayerNodes] | None = None,
        file: bytes = b"",
        state: VersionState = "ready",
        reason: str = "",
        independent_rows: bool = True,
    ) -> FakeModel:
        """Adds a version of a model. `function` maps arrays by input name to arrays by output name.

        `layers` are the layers for GetNodeShapes (default: the input layers), `file` is the content of a download.
        `independent_rows` is whether clients may send rows in several requests.
        """
        model = FakeModel(name, function, inputs, outputs, version, tuple(labels), layers, file, state, reason)
        model.independent_rows = independent_rows
        self.models.append(model)
        return model

    def fail_next(self, error: LayerserveError, method: str = "Predict", times: int = 1) -> None:
        """Makes the next calls of an RPC, given by its name, fail with an error."""
        self._failures[method].extend([error] * times)

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

    @contextmanager
    def _answering(self, method: str, request: Any, context: Any) -> Iterator[None]:
        """Records a call, raises the error planned for it, and sends errors as a server does."""
        self.calls.append((method, request))
        self.metadata.append(dict(context.invocation_metadata()))
        try:
            if self.token is not None and self.metadata[-1].get("authorization") != f"Bearer {self.token}":
                raise Unauthenticated("token: got none or another, expected a valid bearer token")
            if self._failures[method]:
                raise self._failures[method].popleft()
            yield
        except LayerserveError as error:
            self._abort(context, error)
        except Exception as error:
            if context.code() is not None:  # aborted already
                raise
            self._abort(context, Internal(f"{type(error).__name__}: {error}"))

    def _abort(self, context: Any, error: LayerserveError) -> None:
        context.set_trailing_metadata(trailing_metadata(error))
        context.abort(error.status, error.details)

    def _find(self, spec: ModelSpec) -> FakeModel:
        """Returns the version for a reference; without a version or label, the newest that is ready."""
        named = [model for model in self.models if model.name == spec.name]
        if not named:
            raise ModelNotFound(f"unknown model {spec.name!r}")
        if spec.HasField("version"):
            found = [model for model in named if model.version == spec.version]
            if not found:
                raise VersionNotFound(f"model {spec.name!r} has no version {spec.version}")
        elif spec.HasField("label"):
            found = [model for model in named if spec.label in model.labels]
            if not found:
                raise LabelNotFound(f"model {spec.name!r} has no label {spec.label!r}")
        else:
            found = [model for model in named if model.pinned and model.state != "unloaded"]
            found = found or [model for model in named if model.state == "ready"] or named
        return max(found, key=lambda model: model.version)

    def _describe(self, model: FakeModel) -> models_pb2.ModelVersion:
        default = model is self._find(ModelSpec(name=model.name))
        canary = self.canaries.get(model.name, 0.0) if "canary" in model.labels and not default else 0.0
        return model.describe(default and model.state != "unloaded", canary)

    def Predict(  # noqa: N802
        self, request: prediction_pb2.PredictRequest, context: Any
    ) -> prediction_pb2.PredictResponse:
        with self._answering("Predict", request, context):
            return self._find(request.model).predict(request)
        raise AssertionError("an abort raises")

    def PredictStream(  # noqa: N802
        self, requests: Iterator[prediction_pb2.PredictStreamRequest], context: Any
    ) -> Iterator[prediction_pb2.PredictStreamResponse]:
        """Answers requests in pairs, the second one first, since replies of a stream may arrive in any order."""
        with self._answering("PredictStream", None, context):
            while pair := [message.request for message in islice(requests, 2)]:
                yield from map(self._answer, reversed(pair))

    def _answer(self, request: prediction_pb2.PredictRequest) -> prediction_pb2.PredictStreamResponse:
        try:
            return prediction_pb2.PredictStreamResponse(response=self._find(request.model).predict(request))
        except LayerserveError as error:
            metadata = {key: str(value) for key, value in trailing_metadata(error)}
            failed = prediction_pb2.PredictError(
                id=request.id, code=error.status.value[0], message=error.details, metadata=metadata
            )
            return prediction_pb2.PredictStreamResponse(error=failed)

    def ListModels(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:  # noqa: N802
        with self._answering("ListModels", request, context):
            chosen = [model for model in self.models if request.name in ("", model.name)]
            chosen.sort(key=lambda model: (model.name, -model.version))
            return models_pb2.ListModelsResponse(versions=map(self._describe, chosen))
        raise AssertionError("an abort raises")

    def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.GetModelResponse:  # noqa: N802
        with self._answering("GetModel", request, context):
            return models_pb2.GetModelResponse(version=self._describe(self._find(request.model)))
        raise AssertionError("an abort raises")

    def GetModelStatistics(  # noqa: N802
        self, request: models_pb2.GetModelStatisticsRequest, context: Any
    ) -> models_pb2.GetModelStatisticsResponse:
        with self._answering("GetModelStatistics", request, context):
            models = {one.name: one.statistics() for one in self.models if request.name in ("", one.name)}
            response = models_pb2.GetModelStatisticsResponse(models=models.values())
            response.time.GetCurrentTime()
            return response
        raise AssertionError("an abort raises")

    def DownloadModel(  # noqa: N802
        self, request: models_pb2.DownloadModelRequest, context: Any
    ) -> Iterator[models_pb2.DownloadModelResponse]:
        with self._answering("DownloadModel", request, context):
            model = self._find(request.model)
            version = self._describe(model)
            if request.format:
                # Only the name changes; the content is up to the test.
                h5 = request.format in (MODEL_FORMAT_KERAS3_H5, MODEL_FORMAT_KERAS2_H5)
                version.file = "model.h5" if h5 else "model.keras"
            yield models_pb2.DownloadModelResponse(version=version)
            for start in range(0, len(model.file), DOWNLOAD_BYTES):
                yield models_pb2.DownloadModelResponse(data=model.file[start : start + DOWNLOAD_BYTES])
            yield models_pb2.DownloadModelResponse(sha256=hashlib.sha256(model.file).hexdigest())

    def GetNodeShapes(  # noqa: N802
        self, request: graph_pb2.GetNodeShapesRequest, context: Any
    ) -> graph_pb2.GetNodeShapesResponse:
        with self._answering("GetNodeShapes", request, context):
            return self._find(request.model).node_shapes(request.layers)
        raise AssertionError("an abort raises")

    def GetServer(self, request: server_pb2.GetServerRequest, context: Any) -> server_pb2.GetServerResponse:  # noqa: N802
        with self._answering("GetServer", request, context):
            return server_pb2.GetServerResponse(
                version="0.0.0",
                state=server_pb2.SERVER_STATE_SERVING if self.serving else server_pb2.SERVER_STATE_DRAINING,
                start_time=Timestamp(seconds=1_700_000_000),
                host="fake",
                process_id=1,
                workers=1,
                transport="grpcio",
                misplaced=[server_pb2.MisplacedFile(path=path, expected=one) for path, one in self.misplaced.items()],
            )
        raise AssertionError("an abort raises")

    def Train(  # noqa: N802
        self, requests: Iterator[training_pb2.TrainRequest], context: Any
    ) -> Iterator[training_pb2.TrainResponse]:
        for event in self._execute("Train", requests, context):
            yield training_pb2.TrainResponse(event=event)

    def Evaluate(  # noqa: N802
        self, requests: Iterator[training_pb2.EvaluateRequest], context: Any
    ) -> Iterator[training_pb2.EvaluateResponse]:
        for event in self._execute("Evaluate", requests, context):
            yield training_pb2.EvaluateResponse(event=event)

    def _execute(self, method: str, requests: Iterator[Any], context: Any) -> Iterator[training_pb2.TrainEvent]:
        spec = next(requests).spec
        with self._answering(method, spec, context):
            base = self._find(spec.model)
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

    def WatchRun(  # noqa: N802
        self, request: training_pb2.WatchRunRequest, context: Any
    ) -> Iterator[training_pb2.WatchRunResponse]:
        with self._answering("WatchRun", request, context):
            for event in self._watch(self._run(request.run_id), request.from_sequence, context):
                yield training_pb2.WatchRunResponse(event=event)

    def GetRun(self, request: training_pb2.GetRunRequest, context: Any) -> training_pb2.GetRunResponse:  # noqa: N802
        with self._answering("GetRun", request, context):
            return training_pb2.GetRunResponse(run=self._run(request.run_id).describe())
        raise AssertionError("an abort raises")

    def ListRuns(self, request: training_pb2.ListRunsRequest, context: Any) -> training_pb2.ListRunsResponse:  # noqa: N802
        with self._answering("ListRuns", request, context):
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
        raise AssertionError("an abort raises")

    def CancelRun(self, request: training_pb2.CancelRunRequest, context: Any) -> training_pb2.CancelRunResponse:  # noqa: N802
        with self._answering("CancelRun", request, context):
            run = self._run(request.run_id)
            run.cancel()
            return training_pb2.CancelRunResponse(run=run.describe())
        raise AssertionError("an abort raises")

    def ResumeRun(self, request: training_pb2.ResumeRunRequest, context: Any) -> training_pb2.ResumeRunResponse:  # noqa: N802
        with self._answering("ResumeRun", request, context):
            run = self._run(request.run_id)
            if run.resumable or run.state == training_pb2.RUN_STATE_PAUSED:
                run.resume()
                self._start(run, self._find(run.base))
            elif run.ended:
                raise FailedPrecondition(f"run {run.id!r} can't be resumed: it wasn't interrupted")
            else:
                run.pause(False)
            return training_pb2.ResumeRunResponse(run=run.describe())
        raise AssertionError("an abort raises")

    def PauseRun(self, request: training_pb2.PauseRunRequest, context: Any) -> training_pb2.PauseRunResponse:  # noqa: N802
        with self._answering("PauseRun", request, context):
            run = self._run(request.run_id)
            if run.ended:
                raise FailedPrecondition(f"run {run.id!r} can't be paused: it has ended")
            run.pause()
            return training_pb2.PauseRunResponse(run=run.describe())
        raise AssertionError("an abort raises")

    def StopRun(self, request: training_pb2.StopRunRequest, context: Any) -> training_pb2.StopRunResponse:  # noqa: N802
        with self._answering("StopRun", request, context):
            run = self._run(request.run_id)
            run.stop()
            return training_pb2.StopRunResponse(run=run.describe())
        raise AssertionError("an abort raises")

    def UpdateRun(self, request: training_pb2.UpdateRunRequest, context: Any) -> training_pb2.UpdateRunResponse:  # noqa: N802
        with self._answering("UpdateRun", request, context):
            run = self._run(request.run_id)
            run.priority = request.priority if request.HasField("priority") else run.priority
            run.description = request.description if request.HasField("description") else run.description
            run.metadata.update(request.metadata)
            for key in request.remove_metadata:
                run.metadata.pop(key, None)
            return training_pb2.UpdateRunResponse(run=run.describe())
        raise AssertionError("an abort raises")

    def PublishRun(self, request: training_pb2.PublishRunRequest, context: Any) -> training_pb2.PublishRunResponse:  # noqa: N802
        with self._answering("PublishRun", request, context):
            run = self._run(request.run_id)
            if not run.describe().publishable:
                raise FailedPrecondition(f"run {run.id!r} has no result that could be published")
            run.published = self._publish_run(run, self._find(run.base), request.label)
            return training_pb2.PublishRunResponse(run=run.describe())
        raise AssertionError("an abort raises")

    def ListRunFiles(  # noqa: N802
        self, request: training_pb2.ListRunFilesRequest, context: Any
    ) -> training_pb2.ListRunFilesResponse:
        with self._answering("ListRunFiles", request, context):
            files = self._run(request.run_id).files
            return training_pb2.ListRunFilesResponse(
                files=[training_pb2.RunFile(name=name, bytes=len(files[name])) for name in sorted(files)]
            )
        raise AssertionError("an abort raises")

    def DownloadRunFile(  # noqa: N802
        self, request: training_pb2.DownloadRunFileRequest, context: Any
    ) -> Iterator[training_pb2.DownloadRunFileResponse]:
        with self._answering("DownloadRunFile", request, context):
            data = self._run(request.run_id).files.get(request.name)
            if data is None:
                raise NotFound(f"the run has no file {request.name!r}")
            file = training_pb2.RunFile(name=request.name, bytes=len(data))
            yield training_pb2.DownloadRunFileResponse(file=file)
            for start in range(0, len(data), DOWNLOAD_BYTES):
                yield training_pb2.DownloadRunFileResponse(data=data[start : start + DOWNLOAD_BYTES])
            yield training_pb2.DownloadRunFileResponse(sha256=hashlib.sha256(data).hexdigest())

    def DeleteRun(self, request: training_pb2.DeleteRunRequest, context: Any) -> training_pb2.DeleteRunResponse:  # noqa: N802
        with self._answering("DeleteRun", request, context):
            if not self._run(request.run_id).ended:
                raise FailedPrecondition(f"run {request.run_id!r} hasn't ended; cancel it first")
            del self.runs[request.run_id]
            return training_pb2.DeleteRunResponse()
        raise AssertionError("an abort raises")
