"""The rights, and the right of every method and HTTP route: the contract's methods have theirs in proto/."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, TypeAlias, get_args

from layerserve.calls import methods
from layerserve.v1 import options_pb2

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

#: The rights of the contract's methods, by their number in proto/.
_NUMBERED: Mapping[int, Right] = {
    options_pb2.RIGHT_PREDICT: "predict",
    options_pb2.RIGHT_READ: "read",
    options_pb2.RIGHT_TRAIN: "train",
    options_pb2.RIGHT_MANAGE: "manage",
    options_pb2.RIGHT_ANY: "any",
    options_pb2.RIGHT_READ_TRAIN_OR_MANAGE: "read, train or manage",
    options_pb2.RIGHT_TRAIN_OR_MANAGE: "train or manage",
}


def _described() -> Iterator[tuple[str, Right]]:
    """Yields the methods of the contract that name a right, with it."""
    pool = options_pb2.DESCRIPTOR.pool
    for service in sorted({method.service for method in methods.METHODS}):
        for method in pool.FindServiceByName(service).methods:
            if right := _NUMBERED.get(method.GetOptions().Extensions[options_pb2.right]):
                yield f"/{service}/{method.name}", right


#: Methods that others have defined, by service and right.
_FOREIGN: dict[str, dict[Right, str]] = {
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
    **dict(_described()),
    **{
        f"/{service}/{method}": right
        for service, rights in _FOREIGN.items()
        for right, names in rights.items()
        for method in names.split()
    },
}
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
    return METHODS.get(method)


def check_table(methods: Iterable[str], routes: Iterable[str] = ()) -> None:
    """Raises MissingRightError if a gRPC method or an HTTP route isn't in the table."""
    missing = [method for method in methods if right_of(method) is None]
    missing += [route for route in routes if route not in HTTP]
    if missing:
        raise MissingRightError(
            f"{', '.join(sorted(missing))}: got no right in proto/ or access/rights.py, expected one for each"
        )


def read_rights(text: str) -> frozenset[Right]:
    """Returns the rights in a comma-separated list. Raises ValueError if there is no such right."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in RIGHTS:
            raise ValueError(f"right '{name}': expected one of {', '.join(RIGHTS)}")
    return frozenset(right for right in RIGHTS if right in names)
