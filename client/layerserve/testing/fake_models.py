"""Models of the fake server, and what is asked of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp

from layerserve.errors import (
    LabelNotFound,
    LayerserveError,
    ModelNotFound,
    VersionNotFound,
    trailing_metadata,
)
from layerserve.models.info import VersionState
from layerserve.models.node_shapes import LayerNodes
from layerserve.testing.fake_calls import FakeCalls
from layerserve.testing.fake_model import FakeModel, Function
from layerserve.v1 import (
    explanations_pb2,
    graph_pb2,
    models_pb2,
    prediction_pb2,
    server_pb2,
)
from layerserve.v1.tensor_pb2 import MODEL_FORMAT_KERAS2_H5, MODEL_FORMAT_KERAS3_H5, ModelSpec
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import decode, encode

#: Size of the pieces of a downloaded file, in bytes; small, so that files in tests have several.
DOWNLOAD_BYTES = 1024


class FakeModels(FakeCalls):
    """Versions of models, which compute predictions."""

    def __init__(self) -> None:
        super().__init__()
        self.serving = True
        self.misplaced: dict[str, str] = {}
        self.models: list[FakeModel] = []
        self.canaries: dict[str, float] = {}

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

    def find(self, spec: ModelSpec) -> FakeModel:
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

    def describe(self, model: FakeModel) -> models_pb2.ModelVersion:
        default = model is self.find(ModelSpec(name=model.name))
        canary = self.canaries.get(model.name, 0.0) if "canary" in model.labels and not default else 0.0
        return model.describe(default and model.state != "unloaded", canary)

    def Predict(self, request: prediction_pb2.PredictRequest, context: Any) -> prediction_pb2.PredictResponse:
        return self.find(request.model).predict(request)

    def PredictStream(
        self, requests: Iterator[prediction_pb2.PredictStreamRequest], context: Any
    ) -> Iterator[prediction_pb2.PredictStreamResponse]:
        """Answers requests in pairs, the second one first, since replies of a stream may arrive in any order."""
        with self.answering("PredictStream", None, context):
            while pair := [message.request for message in islice(requests, 2)]:
                yield from map(self._answer, reversed(pair))

    def _answer(self, request: prediction_pb2.PredictRequest) -> prediction_pb2.PredictStreamResponse:
        try:
            return prediction_pb2.PredictStreamResponse(response=self.find(request.model).predict(request))
        except LayerserveError as error:
            metadata = {key: str(value) for key, value in trailing_metadata(error)}
            failed = prediction_pb2.PredictError(
                id=request.id, code=error.status.value[0], message=error.details, metadata=metadata
            )
            return prediction_pb2.PredictStreamResponse(error=failed)

    def Explain(self, request: explanations_pb2.ExplainRequest, context: Any) -> explanations_pb2.ExplainResponse:
        """Explains the sum of all inputs, whatever the model computes: an element adds its distance to the baseline."""
        model = self.find(request.model)
        inputs, baselines = ({one.name: decode(one) for one in given} for given in (request.inputs, request.baselines))
        starts = {name: np.broadcast_to(baselines.get(name, 0), array.shape) for name, array in inputs.items()}
        ends = [sum(one.reshape(len(one), -1).sum(1) for one in given.values()) for given in (inputs, starts)]
        return explanations_pb2.ExplainResponse(
            model=ModelSpec(name=model.name, version=model.version),
            attributions=[encode(inputs[name] - starts[name], name) for name in request.to or inputs],
            outputs=encode(np.asarray(ends[0], "float32")),
            baseline_outputs=encode(np.asarray(ends[1], "float32")),
            convergence_delta=encode(np.zeros(len(ends[0]), "float32")),
        )

    def ListModels(self, request: models_pb2.ListModelsRequest, context: Any) -> models_pb2.ListModelsResponse:
        chosen = [model for model in self.models if request.name in ("", model.name)]
        chosen.sort(key=lambda model: (model.name, -model.version))
        return models_pb2.ListModelsResponse(versions=map(self.describe, chosen))

    def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.GetModelResponse:
        return models_pb2.GetModelResponse(version=self.describe(self.find(request.model)))

    def GetModelStatistics(
        self, request: models_pb2.GetModelStatisticsRequest, context: Any
    ) -> models_pb2.GetModelStatisticsResponse:
        models = {one.name: one.statistics() for one in self.models if request.name in ("", one.name)}
        response = models_pb2.GetModelStatisticsResponse(models=models.values())
        response.time.GetCurrentTime()
        return response

    def DownloadModel(
        self, request: models_pb2.DownloadModelRequest, context: Any
    ) -> Iterator[models_pb2.DownloadModelResponse]:
        model = self.find(request.model)
        version = self.describe(model)
        if request.format:
            # Only the name changes; the content is up to the test.
            h5 = request.format in (MODEL_FORMAT_KERAS3_H5, MODEL_FORMAT_KERAS2_H5)
            version.file = "model.h5" if h5 else "model.keras"
        yield models_pb2.DownloadModelResponse(version=version)
        for start in range(0, len(model.file), DOWNLOAD_BYTES):
            yield models_pb2.DownloadModelResponse(data=model.file[start : start + DOWNLOAD_BYTES])
        yield models_pb2.DownloadModelResponse(sha256=hashlib.sha256(model.file).hexdigest())

    def GetNodeShapes(self, request: graph_pb2.GetNodeShapesRequest, context: Any) -> graph_pb2.GetNodeShapesResponse:
        return self.find(request.model).node_shapes(request.layers)

    def GetServer(self, request: server_pb2.GetServerRequest, context: Any) -> server_pb2.GetServerResponse:
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
