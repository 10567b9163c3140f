"""Estimates of the fake server."""

from __future__ import annotations

import math
from typing import Any

from layerserve.testing.fake_server import FakeServer
from layerserve.v1 import training_pb2
from layerserve.v1.tensor_pb2 import ModelSpec


class Fake:
    """The estimates of a fake server. Each step takes a second, and nothing else takes time."""

    def __init__(self, server: FakeServer) -> None:
        self._server = server
        #: Problems of the next estimates.
        self.problems: list[str] = []

    def EstimateRun(self, request: training_pb2.EstimateRunRequest, context: Any) -> training_pb2.EstimateRunResponse:
        trains = request.HasField("train")
        spec = request.train if trains else request.evaluate
        base = self._server.find(spec.model)
        reply = training_pb2.EstimateRunResponse(
            base=ModelSpec(name=base.name, version=base.version), problems=self.problems
        )
        if not self.problems:
            reply.rows = spec.data[0].shape[0] if spec.data and spec.data[0].shape else 1
            reply.steps_per_epoch = math.ceil(reply.rows / (spec.batch_size or 32))
            reply.steps = reply.steps_per_epoch * (request.train.epochs or 1)
            reply.trainable_parameters, reply.memory_bytes, reply.disk_bytes = 6, 1 << 20, 1 << 10
            reply.seconds.total = reply.seconds.steps = reply.steps
            reply.seconds.step, reply.wait_seconds = 1.0, 0.0
        if trains and not self.problems and (not request.train.HasField("publish") or request.train.publish):
            reply.publication.version.CopyFrom(ModelSpec(name=base.name, version=base.version + 1))
        return reply
