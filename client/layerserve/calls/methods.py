"""The RPCs of the contract. All of an RPC but its types comes from its description in proto/."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.descriptor_pb2 import MethodOptions

from layerserve.v1 import (
    checkpoints_pb2,
    datasets_pb2,
    graph_pb2,
    management_pb2,
    models_pb2,
    online_pb2,
    prediction_pb2,
    server_pb2,
    sweeps_pb2,
    training_pb2,
)


class Message(Protocol):
    """Interface of protobuf messages."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802
    def ByteSize(self) -> int: ...  # noqa: N802
    @staticmethod
    def FromString(s: bytes, /) -> Message: ...  # noqa: N802


Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """An RPC. `repeatable` means that it is unary and changes nothing, so that it may be sent again after a failure."""

    service: str
    name: str
    request: type[Q]
    reply: type[R]
    streams_requests: bool = False
    streams_replies: bool = False
    repeatable: bool = False

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def _described(request: type[Q], reply: type[R]) -> Method[Q, R]:
    """Returns the RPC whose requests are of this type."""
    # Descriptors have no place in the interface of messages.
    described: Any = request
    services = described.DESCRIPTOR.file.services_by_name.values()
    method = next(one for each in services for one in each.methods if one.input_type is described.DESCRIPTOR)
    streams = method.client_streaming, method.server_streaming
    safe = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    service = method.containing_service.full_name
    return Method(service, method.name, request, reply, *streams, repeatable=safe and not any(streams))


PREDICT = _described(prediction_pb2.PredictRequest, prediction_pb2.PredictResponse)
PREDICT_STREAM = _described(prediction_pb2.PredictStreamRequest, prediction_pb2.PredictStreamResponse)

LIST_MODELS = _described(models_pb2.ListModelsRequest, models_pb2.ListModelsResponse)
GET_MODEL = _described(models_pb2.GetModelRequest, models_pb2.GetModelResponse)
GET_MODEL_STATISTICS = _described(models_pb2.GetModelStatisticsRequest, models_pb2.GetModelStatisticsResponse)
DOWNLOAD_MODEL = _described(models_pb2.DownloadModelRequest, models_pb2.DownloadModelResponse)

GET_SERVER = _described(server_pb2.GetServerRequest, server_pb2.GetServerResponse)

GET_NODE_SHAPES = _described(graph_pb2.GetNodeShapesRequest, graph_pb2.GetNodeShapesResponse)

TRAIN = _described(training_pb2.TrainRequest, training_pb2.TrainResponse)
EVALUATE = _described(training_pb2.EvaluateRequest, training_pb2.EvaluateResponse)
ESTIMATE_RUN = _described(training_pb2.EstimateRunRequest, training_pb2.EstimateRunResponse)
WATCH_RUN = _described(training_pb2.WatchRunRequest, training_pb2.WatchRunResponse)
GET_RUN = _described(training_pb2.GetRunRequest, training_pb2.GetRunResponse)
LIST_RUNS = _described(training_pb2.ListRunsRequest, training_pb2.ListRunsResponse)
GET_RUN_SERIES = _described(training_pb2.GetRunSeriesRequest, training_pb2.GetRunSeriesResponse)
CANCEL_RUN = _described(training_pb2.CancelRunRequest, training_pb2.CancelRunResponse)
RESUME_RUN = _described(training_pb2.ResumeRunRequest, training_pb2.ResumeRunResponse)
DELETE_RUN = _described(training_pb2.DeleteRunRequest, training_pb2.DeleteRunResponse)
PAUSE_RUN = _described(training_pb2.PauseRunRequest, training_pb2.PauseRunResponse)
STOP_RUN = _described(training_pb2.StopRunRequest, training_pb2.StopRunResponse)
UPDATE_RUN = _described(training_pb2.UpdateRunRequest, training_pb2.UpdateRunResponse)
PUBLISH_RUN = _described(training_pb2.PublishRunRequest, training_pb2.PublishRunResponse)
LIST_RUN_FILES = _described(training_pb2.ListRunFilesRequest, training_pb2.ListRunFilesResponse)
DOWNLOAD_RUN_FILE = _described(training_pb2.DownloadRunFileRequest, training_pb2.DownloadRunFileResponse)

UPLOAD_DATASET = _described(datasets_pb2.UploadDatasetRequest, datasets_pb2.UploadDatasetResponse)
MAKE_DATASET = _described(datasets_pb2.MakeDatasetRequest, datasets_pb2.MakeDatasetResponse)
LIST_DATASETS = _described(datasets_pb2.ListDatasetsRequest, datasets_pb2.ListDatasetsResponse)
GET_DATASET = _described(datasets_pb2.GetDatasetRequest, datasets_pb2.GetDatasetResponse)
DELETE_DATASET = _described(datasets_pb2.DeleteDatasetRequest, datasets_pb2.DeleteDatasetResponse)

TRAIN_ONLINE = _described(online_pb2.TrainOnlineRequest, online_pb2.TrainOnlineResponse)

UPLOAD_MODEL = _described(management_pb2.UploadModelRequest, management_pb2.UploadModelResponse)
LOAD_MODEL = _described(management_pb2.LoadModelRequest, management_pb2.LoadModelResponse)
UNLOAD_MODEL = _described(management_pb2.UnloadModelRequest, management_pb2.UnloadModelResponse)
ROLL_BACK = _described(management_pb2.RollBackRequest, management_pb2.RollBackResponse)
PIN_VERSION = _described(management_pb2.PinVersionRequest, management_pb2.PinVersionResponse)
UNPIN_VERSION = _described(management_pb2.UnpinVersionRequest, management_pb2.UnpinVersionResponse)
SET_LABEL = _described(management_pb2.SetLabelRequest, management_pb2.SetLabelResponse)
REMOVE_LABEL = _described(management_pb2.RemoveLabelRequest, management_pb2.RemoveLabelResponse)
SET_CANARY = _described(management_pb2.SetCanaryRequest, management_pb2.SetCanaryResponse)
DELETE_VERSION = _described(management_pb2.DeleteVersionRequest, management_pb2.DeleteVersionResponse)
DELETE_MODEL = _described(management_pb2.DeleteModelRequest, management_pb2.DeleteModelResponse)

LIST_CHECKPOINTS = _described(checkpoints_pb2.ListCheckpointsRequest, checkpoints_pb2.ListCheckpointsResponse)
DOWNLOAD_CHECKPOINT = _described(checkpoints_pb2.DownloadCheckpointRequest, checkpoints_pb2.DownloadCheckpointResponse)
PUBLISH_CHECKPOINT = _described(checkpoints_pb2.PublishCheckpointRequest, checkpoints_pb2.PublishCheckpointResponse)
PREDICT_CHECKPOINT = _described(checkpoints_pb2.PredictCheckpointRequest, checkpoints_pb2.PredictCheckpointResponse)
DELETE_CHECKPOINT = _described(checkpoints_pb2.DeleteCheckpointRequest, checkpoints_pb2.DeleteCheckpointResponse)

CREATE_SWEEP = _described(sweeps_pb2.CreateSweepRequest, sweeps_pb2.CreateSweepResponse)
GET_SWEEP = _described(sweeps_pb2.GetSweepRequest, sweeps_pb2.GetSweepResponse)
LIST_SWEEPS = _described(sweeps_pb2.ListSweepsRequest, sweeps_pb2.ListSweepsResponse)
CANCEL_SWEEP = _described(sweeps_pb2.CancelSweepRequest, sweeps_pb2.CancelSweepResponse)
DELETE_SWEEP = _described(sweeps_pb2.DeleteSweepRequest, sweeps_pb2.DeleteSweepResponse)

METHODS: tuple[Method[Message, Message], ...] = tuple(one for one in [*vars().values()] if isinstance(one, Method))
