"""Table of the RPCs that the client calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

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


_PREDICTION = "layerserve.v1.PredictionService"
_MODELS = "layerserve.v1.ModelService"
_GRAPH = "layerserve.v1.GraphService"
_SERVER = "layerserve.v1.ServerService"
_TRAINING = "layerserve.v1.TrainingService"
_DATASETS = "layerserve.v1.DatasetService"
_ONLINE = "layerserve.v1.OnlineTrainingService"
_MANAGEMENT = "layerserve.v1.ManagementService"
_CHECKPOINTS = "layerserve.v1.CheckpointService"
_SWEEPS = "layerserve.v1.SweepService"

PREDICT = Method(_PREDICTION, "Predict", prediction_pb2.PredictRequest, prediction_pb2.PredictResponse, repeatable=True)
PREDICT_STREAM = Method(
    _PREDICTION,
    "PredictStream",
    prediction_pb2.PredictStreamRequest,
    prediction_pb2.PredictStreamResponse,
    streams_requests=True,
    streams_replies=True,
)
LIST_MODELS = Method(
    _MODELS, "ListModels", models_pb2.ListModelsRequest, models_pb2.ListModelsResponse, repeatable=True
)
GET_MODEL = Method(_MODELS, "GetModel", models_pb2.GetModelRequest, models_pb2.GetModelResponse, repeatable=True)
GET_MODEL_STATISTICS = Method(
    _MODELS,
    "GetModelStatistics",
    models_pb2.GetModelStatisticsRequest,
    models_pb2.GetModelStatisticsResponse,
    repeatable=True,
)
DOWNLOAD_MODEL = Method(
    _MODELS,
    "DownloadModel",
    models_pb2.DownloadModelRequest,
    models_pb2.DownloadModelResponse,
    streams_replies=True,
)
GET_SERVER = Method(_SERVER, "GetServer", server_pb2.GetServerRequest, server_pb2.GetServerResponse, repeatable=True)
GET_NODE_SHAPES = Method(
    _GRAPH, "GetNodeShapes", graph_pb2.GetNodeShapesRequest, graph_pb2.GetNodeShapesResponse, repeatable=True
)
TRAIN = Method(
    _TRAINING,
    "Train",
    training_pb2.TrainRequest,
    training_pb2.TrainResponse,
    streams_requests=True,
    streams_replies=True,
)
EVALUATE = Method(
    _TRAINING,
    "Evaluate",
    training_pb2.EvaluateRequest,
    training_pb2.EvaluateResponse,
    streams_requests=True,
    streams_replies=True,
)
ESTIMATE_RUN = Method(
    _TRAINING, "EstimateRun", training_pb2.EstimateRunRequest, training_pb2.EstimateRunResponse, repeatable=True
)
WATCH_RUN = Method(
    _TRAINING,
    "WatchRun",
    training_pb2.WatchRunRequest,
    training_pb2.WatchRunResponse,
    streams_replies=True,
)
GET_RUN = Method(_TRAINING, "GetRun", training_pb2.GetRunRequest, training_pb2.GetRunResponse, repeatable=True)
LIST_RUNS = Method(_TRAINING, "ListRuns", training_pb2.ListRunsRequest, training_pb2.ListRunsResponse, repeatable=True)
GET_RUN_SERIES = Method(
    _TRAINING, "GetRunSeries", training_pb2.GetRunSeriesRequest, training_pb2.GetRunSeriesResponse, repeatable=True
)
CANCEL_RUN = Method(_TRAINING, "CancelRun", training_pb2.CancelRunRequest, training_pb2.CancelRunResponse)
RESUME_RUN = Method(_TRAINING, "ResumeRun", training_pb2.ResumeRunRequest, training_pb2.ResumeRunResponse)
DELETE_RUN = Method(_TRAINING, "DeleteRun", training_pb2.DeleteRunRequest, training_pb2.DeleteRunResponse)
PAUSE_RUN = Method(_TRAINING, "PauseRun", training_pb2.PauseRunRequest, training_pb2.PauseRunResponse)
STOP_RUN = Method(_TRAINING, "StopRun", training_pb2.StopRunRequest, training_pb2.StopRunResponse)
UPDATE_RUN = Method(_TRAINING, "UpdateRun", training_pb2.UpdateRunRequest, training_pb2.UpdateRunResponse)
PUBLISH_RUN = Method(_TRAINING, "PublishRun", training_pb2.PublishRunRequest, training_pb2.PublishRunResponse)
LIST_RUN_FILES = Method(
    _TRAINING, "ListRunFiles", training_pb2.ListRunFilesRequest, training_pb2.ListRunFilesResponse, repeatable=True
)
DOWNLOAD_RUN_FILE = Method(
    _TRAINING,
    "DownloadRunFile",
    training_pb2.DownloadRunFileRequest,
    training_pb2.DownloadRunFileResponse,
    streams_replies=True,
)

UPLOAD_DATASET = Method(
    _DATASETS,
    "UploadDataset",
    datasets_pb2.UploadDatasetRequest,
    datasets_pb2.UploadDatasetResponse,
    streams_requests=True,
    streams_replies=True,
)
MAKE_DATASET = Method(_DATASETS, "MakeDataset", datasets_pb2.MakeDatasetRequest, datasets_pb2.MakeDatasetResponse)
LIST_DATASETS = Method(
    _DATASETS, "ListDatasets", datasets_pb2.ListDatasetsRequest, datasets_pb2.ListDatasetsResponse, repeatable=True
)
GET_DATASET = Method(
    _DATASETS, "GetDataset", datasets_pb2.GetDatasetRequest, datasets_pb2.GetDatasetResponse, repeatable=True
)
DELETE_DATASET = Method(
    _DATASETS, "DeleteDataset", datasets_pb2.DeleteDatasetRequest, datasets_pb2.DeleteDatasetResponse
)
TRAIN_ONLINE = Method(
    _ONLINE,
    "TrainOnline",
    online_pb2.TrainOnlineRequest,
    online_pb2.TrainOnlineResponse,
    streams_requests=True,
    streams_replies=True,
)

UPLOAD_MODEL = Method(
    _MANAGEMENT,
    "UploadModel",
    management_pb2.UploadModelRequest,
    management_pb2.UploadModelResponse,
    streams_requests=True,
    streams_replies=True,
)
LOAD_MODEL = Method(_MANAGEMENT, "LoadModel", management_pb2.LoadModelRequest, management_pb2.LoadModelResponse)
UNLOAD_MODEL = Method(_MANAGEMENT, "UnloadModel", management_pb2.UnloadModelRequest, management_pb2.UnloadModelResponse)
ROLL_BACK = Method(_MANAGEMENT, "RollBack", management_pb2.RollBackRequest, management_pb2.RollBackResponse)
PIN_VERSION = Method(_MANAGEMENT, "PinVersion", management_pb2.PinVersionRequest, management_pb2.PinVersionResponse)
UNPIN_VERSION = Method(
    _MANAGEMENT, "UnpinVersion", management_pb2.UnpinVersionRequest, management_pb2.UnpinVersionResponse
)
SET_LABEL = Method(_MANAGEMENT, "SetLabel", management_pb2.SetLabelRequest, management_pb2.SetLabelResponse)
REMOVE_LABEL = Method(_MANAGEMENT, "RemoveLabel", management_pb2.RemoveLabelRequest, management_pb2.RemoveLabelResponse)
SET_CANARY = Method(_MANAGEMENT, "SetCanary", management_pb2.SetCanaryRequest, management_pb2.SetCanaryResponse)
DELETE_VERSION = Method(
    _MANAGEMENT, "DeleteVersion", management_pb2.DeleteVersionRequest, management_pb2.DeleteVersionResponse
)
DELETE_MODEL = Method(_MANAGEMENT, "DeleteModel", management_pb2.DeleteModelRequest, management_pb2.DeleteModelResponse)

LIST_CHECKPOINTS = Method(
    _CHECKPOINTS,
    "ListCheckpoints",
    checkpoints_pb2.ListCheckpointsRequest,
    checkpoints_pb2.ListCheckpointsResponse,
    repeatable=True,
)
DOWNLOAD_CHECKPOINT = Method(
    _CHECKPOINTS,
    "DownloadCheckpoint",
    checkpoints_pb2.DownloadCheckpointRequest,
    checkpoints_pb2.DownloadCheckpointResponse,
    streams_replies=True,
)
PUBLISH_CHECKPOINT = Method(
    _CHECKPOINTS,
    "PublishCheckpoint",
    checkpoints_pb2.PublishCheckpointRequest,
    checkpoints_pb2.PublishCheckpointResponse,
)
PREDICT_CHECKPOINT = Method(
    _CHECKPOINTS,
    "PredictCheckpoint",
    checkpoints_pb2.PredictCheckpointRequest,
    checkpoints_pb2.PredictCheckpointResponse,
    repeatable=True,
)
DELETE_CHECKPOINT = Method(
    _CHECKPOINTS,
    "DeleteCheckpoint",
    checkpoints_pb2.DeleteCheckpointRequest,
    checkpoints_pb2.DeleteCheckpointResponse,
)

CREATE_SWEEP = Method(_SWEEPS, "CreateSweep", sweeps_pb2.CreateSweepRequest, sweeps_pb2.CreateSweepResponse)
GET_SWEEP = Method(_SWEEPS, "GetSweep", sweeps_pb2.GetSweepRequest, sweeps_pb2.GetSweepResponse, repeatable=True)
LIST_SWEEPS = Method(
    _SWEEPS, "ListSweeps", sweeps_pb2.ListSweepsRequest, sweeps_pb2.ListSweepsResponse, repeatable=True
)
CANCEL_SWEEP = Method(_SWEEPS, "CancelSweep", sweeps_pb2.CancelSweepRequest, sweeps_pb2.CancelSweepResponse)
DELETE_SWEEP = Method(_SWEEPS, "DeleteSweep", sweeps_pb2.DeleteSweepRequest, sweeps_pb2.DeleteSweepResponse)

METHODS: tuple[Method[Message, Message], ...] = (
    PREDICT,
    PREDICT_STREAM,
    LIST_MODELS,
    GET_MODEL,
    GET_MODEL_STATISTICS,
    DOWNLOAD_MODEL,
    GET_SERVER,
    GET_NODE_SHAPES,
    TRAIN,
    EVALUATE,
    ESTIMATE_RUN,
    WATCH_RUN,
    GET_RUN,
    LIST_RUNS,
    GET_RUN_SERIES,
    CANCEL_RUN,
    RESUME_RUN,
    DELETE_RUN,
    PAUSE_RUN,
    STOP_RUN,
    UPDATE_RUN,
    PUBLISH_RUN,
    LIST_RUN_FILES,
    DOWNLOAD_RUN_FILE,
    UPLOAD_DATASET,
    MAKE_DATASET,
    LIST_DATASETS,
    GET_DATASET,
    DELETE_DATASET,
    TRAIN_ONLINE,
    UPLOAD_MODEL,
    LOAD_MODEL,
    UNLOAD_MODEL,
    ROLL_BACK,
    PIN_VERSION,
    UNPIN_VERSION,
    SET_LABEL,
    REMOVE_LABEL,
    SET_CANARY,
    DELETE_VERSION,
    DELETE_MODEL,
    LIST_CHECKPOINTS,
    DOWNLOAD_CHECKPOINT,
    PUBLISH_CHECKPOINT,
    PREDICT_CHECKPOINT,
    DELETE_CHECKPOINT,
    CREATE_SWEEP,
    GET_SWEEP,
    LIST_SWEEPS,
    CANCEL_SWEEP,
    DELETE_SWEEP,
)  # type: ignore[assignment]  # a Method is read-only, so it may be treated as covariant
