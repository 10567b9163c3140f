"""Messages for the repository that is attacked. Attackers import this often, and so without the engine."""

from __future__ import annotations

import numpy as np
from layerserve.calls import methods
from layerserve.v1 import datasets_pb2
from layerserve.v1 import training_pb2 as pb
from layerserve.v1.graph_pb2 import GetNodeShapesRequest
from layerserve.v1.models_pb2 import DownloadModelRequest
from layerserve.v1.prediction_pb2 import PredictRequest, PredictStreamRequest
from layerserve.v1.tensor_pb2 import DATA_TYPE_FLOAT32, ModelSpec
from layerserve.values.tensors import encode

PREDICT = methods.METHODS["Predict"].path
PREDICT_STREAM = methods.METHODS["PredictStream"].path
DOWNLOAD = methods.METHODS["DownloadModel"].path
TRAIN = methods.METHODS["Train"].path
EVALUATE = methods.METHODS["Evaluate"].path
WATCH_RUN = methods.METHODS["WatchRun"].path
UPLOAD_DATASET = methods.METHODS["UploadDataset"].path
NODE_SHAPES = methods.METHODS["GetNodeShapes"].path
LIST_RUNS = methods.METHODS["ListRuns"].path
LIST_MODELS = methods.METHODS["ListModels"].path
CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
REFLECTION_ALPHA = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
#: ServerReflectionRequest(list_services="").
LIST_SERVICES = b"\x3a\x00"

#: What the honest caller predicts with.
MODEL = "dense"
ROW = np.linspace(-1, 1, 64, dtype=np.float32)[None]


def predict(rows: int = 1, outputs: tuple[str, ...] = ()) -> bytes:
    """A request for `dense`."""
    inputs = [encode(np.repeat(ROW, rows, 0))]
    return PredictRequest(model=ModelSpec(name=MODEL), inputs=inputs, outputs=outputs).SerializeToString()


def predict_wide(rows: int) -> bytes:
    """A request for `wide`, whose answer takes `rows` times 256 KiB."""
    inputs = [encode(np.ones((rows, 1), np.float32))]
    return PredictRequest(model=ModelSpec(name="wide"), inputs=inputs).SerializeToString()


def in_stream(request: bytes) -> bytes:
    """A request as PredictStream takes it."""
    return PredictStreamRequest(request=PredictRequest.FromString(request)).SerializeToString()


def padded(size: int) -> bytes:
    """A request for `dense` that is right and `size` bytes long: most of it is its id."""
    request = PredictRequest.FromString(predict())
    request.id = "x" * (size - len(predict()) - 6)
    return request.SerializeToString()


def download(model: str = "wide") -> bytes:
    return DownloadModelRequest(model=ModelSpec(name=model)).SerializeToString()


def node_shapes() -> bytes:
    """A request for the shapes of `headline`."""
    return GetNodeShapesRequest(model=ModelSpec(name="headline")).SerializeToString()


def training(rows: int = 32, **fields: object) -> pb.TrainSpec:
    """A run on rows of `dense`."""
    data = [
        pb.DataArray(role=role, dtype=DATA_TYPE_FLOAT32, shape=(rows, width))
        for role, width in ((pb.DATA_ROLE_X, 64), (pb.DATA_ROLE_Y, 10))
    ]
    spec = pb.TrainSpec(model=ModelSpec(name=MODEL), data=data, epochs=1, publish=False)
    spec.MergeFrom(pb.TrainSpec(**fields))  # type: ignore[arg-type]
    return spec


def spec_message(spec: pb.TrainSpec) -> bytes:
    return pb.TrainRequest(spec=spec).SerializeToString()


def chunk_message(array: int, data: bytes) -> bytes:
    return pb.TrainRequest(chunk=pb.DataChunk(array=array, data=data)).SerializeToString()


def dataset_declaration(**fields: object) -> bytes:
    """The first message of an upload of a dataset of a kilobyte, which isn't known."""
    given = {"format": datasets_pb2.DATASET_FORMAT_CSV, "bytes": 1000, "sha256": bytes(range(32)), **fields}
    declaration = datasets_pb2.DatasetDeclaration(**given)  # type: ignore[arg-type]
    return datasets_pb2.UploadDatasetRequest(declaration=declaration).SerializeToString()
