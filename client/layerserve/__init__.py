"""Python client of layerserve, a gRPC server of Keras functional models.

    from layerserve import Client

    with Client("localhost:8500") as client:
        probabilities = client.predict("mnist", images)
        shapes = client.node_shapes("mnist")["dense"].output_shape
        run = client.train("mnist", images, labels, epochs=3).wait(progress=True)
        print(run.history["loss"], run.version)

`AsyncClient` is the same client on asyncio. Errors are in `layerserve.errors`, a fake server for tests in
`layerserve.testing`.
"""

from layerserve.async_client import AsyncClient, AsyncPreparedCall, AsyncTrainingRun
from layerserve.async_online import AsyncOnlineSession
from layerserve.checkpoints import Checkpoint
from layerserve.client import Client, PreparedCall, TrainingRun
from layerserve.connection import TLS
from layerserve.dataset_array import DatasetArray
from layerserve.dataset_info import DatasetColumn, DatasetInfo
from layerserve.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    CheckpointNotFound,
    ClientClosed,
    DataLoss,
    DatasetNotFound,
    DeadlineExceeded,
    FailedPrecondition,
    Forbidden,
    Internal,
    InvalidArgument,
    InvalidTensor,
    LabelNotFound,
    LayerNotFound,
    LayerserveError,
    MissingInput,
    ModelMismatch,
    ModelNotFound,
    ModelNotReady,
    NotCompiled,
    NotFound,
    OutOfRange,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    RunElsewhere,
    RunNotFound,
    TakenOver,
    TokenExpired,
    TrainingCancelled,
    TrainingFailed,
    Unauthenticated,
    Unavailable,
    Unimplemented,
    UnknownError,
    UnknownInput,
    UnknownOutput,
    VersionConflict,
    VersionNotFound,
)
from layerserve.estimates import EstimatedPublication, EstimatedSeconds, RunEstimate
from layerserve.events import (
    CheckpointKept,
    EpochEnd,
    LogLine,
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
)
from layerserve.model_changes import ModelChange
from layerserve.model_graph import ModelGraph
from layerserve.model_info import EngineChoice, ModelInfo, TensorSpec
from layerserve.model_statistics import ModelStatistics, Statistics
from layerserve.node_shapes import LayerNode, LayerNodes, NodeShapes, NodeTensor
from layerserve.online import OnlineSession
from layerserve.prediction import Prediction
from layerserve.run_files import RunFile
from layerserve.run_info import RunInfo
from layerserve.run_series import RunSeries
from layerserve.sample_losses import SampleLosses
from layerserve.server_file import ServerFile
from layerserve.sweeps import Range, SweepInfo, Trial
from layerserve.tokens import PlaintextTokenWarning

__all__ = [
    "TLS",
    "Aborted",
    "AlreadyExists",
    "AsyncClient",
    "AsyncOnlineSession",
    "AsyncPreparedCall",
    "AsyncTrainingRun",
    "Cancelled",
    "Checkpoint",
    "CheckpointKept",
    "CheckpointNotFound",
    "Client",
    "ClientClosed",
    "DataLoss",
    "DatasetArray",
    "DatasetColumn",
    "DatasetInfo",
    "DatasetNotFound",
    "DeadlineExceeded",
    "EngineChoice",
    "EpochEnd",
    "EstimatedPublication",
    "EstimatedSeconds",
    "FailedPrecondition",
    "Forbidden",
    "Internal",
    "InvalidArgument",
    "InvalidTensor",
    "LabelNotFound",
    "LayerNode",
    "LayerNodes",
    "LayerNotFound",
    "LayerserveError",
    "LogLine",
    "MissingInput",
    "ModelChange",
    "ModelGraph",
    "ModelInfo",
    "ModelMismatch",
    "ModelNotFound",
    "ModelNotReady",
    "ModelStatistics",
    "NodeShapes",
    "NodeTensor",
    "NotCompiled",
    "NotFound",
    "OnlineSession",
    "OutOfRange",
    "Overloaded",
    "PermissionDenied",
    "PlaintextTokenWarning",
    "Prediction",
    "PreparedCall",
    "QuotaExceeded",
    "Range",
    "RunAccepted",
    "RunCancelled",
    "RunElsewhere",
    "RunEstimate",
    "RunFailed",
    "RunFile",
    "RunFinished",
    "RunInfo",
    "RunNotFound",
    "RunPaused",
    "RunQueued",
    "RunResumed",
    "RunSeries",
    "RunStarted",
    "SampleLosses",
    "ServerFile",
    "Statistics",
    "StepProgress",
    "SweepInfo",
    "TakenOver",
    "TensorSpec",
    "TokenExpired",
    "TrainingCancelled",
    "TrainingEvent",
    "TrainingFailed",
    "TrainingRun",
    "Trial",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "UnknownError",
    "UnknownInput",
    "UnknownOutput",
    "VersionConflict",
    "VersionNotFound",
]
