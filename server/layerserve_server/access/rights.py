"""The rights, and the one table that names the right of every method and HTTP route."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

#: Strings, since the hash of an Enum's member is computed in Python, and each call looks one up.
Right: TypeAlias = Literal[
    "predict", "read", "train", "manage", "open", "any", "read, train or manage", "train or manage"
]

#: The rights that a caller may be given.
RIGHTS: tuple[Right, ...] = get_args(Right)[:4]
#: What callers have who were given one of these rights. With the last two, what the caller may do depends on the owner
#: of the run, sweep or dataset (see `ownership`).
ALTERNATIVES: Mapping[Right, tuple[Right, ...]] = {
    "any": RIGHTS,
    "read, train or manage": ("read", "train", "manage"),
    "train or manage": ("train", "manage"),
}

_SERVICES: dict[str, dict[Right, str]] = {
    "layerserve.v1.PredictionService": {"predict": "Predict PredictStream"},
    "layerserve.v1.GraphService": {"read": "GetNodeShapes"},
    "layerserve.v1.ModelService": {
        # Clients ask for the inputs of a model before they predict or train.
        "any": "GetModel",
        "read": "ListModels GetModelStatistics DownloadModel",
    },
    "layerserve.v1.ServerService": {"read": "GetServer"},
    "layerserve.v1.TrainingService": {
        "train": "Train Evaluate EstimateRun",
        "train or manage": "PauseRun ResumeRun StopRun CancelRun UpdateRun PublishRun DeleteRun",
        "read, train or manage": "WatchRun GetRun GetRunSeries ListRuns ListRunFiles DownloadRunFile",
    },
    "layerserve.v1.DatasetService": {
        "train": "UploadDataset MakeDataset",
        "train or manage": "DeleteDataset",
        "read, train or manage": "ListDatasets GetDataset",
    },
    "layerserve.v1.CheckpointService": {
        "train or manage": "PublishCheckpoint PredictCheckpoint DeleteCheckpoint",
        "read, train or manage": "ListCheckpoints DownloadCheckpoint",
    },
    "layerserve.v1.OnlineTrainingService": {"train": "TrainOnline"},
    "layerserve.v1.SweepService": {
        "train": "CreateSweep",
        "train or manage": "CancelSweep DeleteSweep",
        "read, train or manage": "GetSweep ListSweeps",
    },
    "grpc.health.v1.Health": {"open": "Check List Watch"},
    "grpc.reflection.v1.ServerReflection": {"read": "ServerReflectionInfo"},
    "grpc.reflection.v1alpha.ServerReflection": {"read": "ServerReflectionInfo"},
    "inference.GRPCInferenceService": {
        # As Triton's health: without a model. That a model is ready would also reveal that it exists.
        "open": "ServerLive ServerReady",
        "any": "ModelReady ServerMetadata ModelMetadata ModelConfig",
        "predict": "ModelInfer ModelStreamInfer",
        "read": "ModelStatistics RepositoryIndex",
        "manage": (
            "RepositoryModelLoad RepositoryModelUnload TraceSetting LogSettings "
            "SystemSharedMemoryStatus SystemSharedMemoryRegister SystemSharedMemoryUnregister "
            "CudaSharedMemoryStatus CudaSharedMemoryRegister CudaSharedMemoryUnregister"
        ),
    },
    "tensorflow.serving.PredictionService": {
        "any": "GetModelMetadata",
        "predict": "Predict Classify Regress MultiInference",
    },
    "tensorflow.serving.ModelService": {"any": "GetModelStatus", "manage": "HandleReloadConfigRequest"},
}

#: The right of each method, by full name.
METHODS: Mapping[str, Right] = {
    f"/{service}/{method}": right
    for service, rights in _SERVICES.items()
    for right, methods in rights.items()
    for method in methods.split()
}
#: Services of which every method needs the right "manage", also those that a later release adds.
MANAGING = ("/layerserve.v1.ManagementService/",)
#: The right of each HTTP route, by path. A part in braces stands for any name.
HTTP: Mapping[str, Right] = {
    "/": "open",
    "/healthz": "open",
    "/readyz": "open",
    "/metrics": "read",
    "/monitoring/prometheus/metrics": "read",
}


def with_alternatives(given: Iterable[Right]) -> frozenset[Right]:
    """Returns the rights that a caller was given, with "open" and those that any of several rights include."""
    rights = frozenset((*given, "open"))
    return rights.union(right for right, alternatives in ALTERNATIVES.items() if not rights.isdisjoint(alternatives))


class MissingRightError(ValueError):
    """Methods or routes have no right in the table."""


def right_of(method: str) -> Right | None:
    """Returns the right that a method needs; None for one that isn't in the table."""
    return METHODS.get(method) or ("manage" if method.startswith(MANAGING) else None)


def check_table(methods: Iterable[str], routes: Iterable[str] = ()) -> None:
    """Raises MissingRightError if a gRPC method or an HTTP route isn't in the table."""
    missing = [method for method in methods if right_of(method) is None]
    missing += [route for route in routes if route not in HTTP]
    if missing:
        raise MissingRightError(
            f"{', '.join(sorted(missing))}: got no right in access/rights.py, expected one for each"
        )


def read_rights(text: str) -> frozenset[Right]:
    """Returns the rights in a comma-separated list. Raises ValueError if there is no such right."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RIGHTS:
            raise ValueError(f"right '{name}': expected one of {', '.join(RIGHTS)}")
    return frozenset(right for right in RIGHTS if right in names)
