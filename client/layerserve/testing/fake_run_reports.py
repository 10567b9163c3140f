"""Estimates and series of runs of the fake server."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

from layerserve.testing.fake_model import FakeModel
from layerserve.testing.fake_run import FakeRun
from layerserve.v1 import training_pb2, training_pb2_grpc
from layerserve.v1.tensor_pb2 import ModelSpec


class FakeRunReports(training_pb2_grpc.TrainingServiceServicer):
    """The methods of the training service about runs that haven't begun, and about many runs together."""

    #: Problems of the next estimates. Without any, each step takes a second, and nothing else takes time.
    problems: list[str]

    def _answering(self, method: str, request: Any, context: Any) -> AbstractContextManager[None]:
        raise NotImplementedError

    def _find(self, spec: ModelSpec) -> FakeModel:
        raise NotImplementedError

    def _run(self, run_id: str) -> FakeRun:
        raise NotImplementedError

    def EstimateRun(  # noqa: N802
        self, request: training_pb2.EstimateRunRequest, context: Any
    ) -> training_pb2.EstimateRunResponse:
        with self._answering("EstimateRun", request, context):
            trains = request.HasField("train")
            spec = request.train if trains else request.evaluate
            base = self._find(spec.model)
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
        raise AssertionError("an abort raises")

    def GetRunSeries(  # noqa: N802
        self, request: training_pb2.GetRunSeriesRequest, context: Any
    ) -> training_pb2.GetRunSeriesResponse:
        with self._answering("GetRunSeries", request, context):
            reply = training_pb2.GetRunSeriesResponse()
            for run in map(self._run, request.run_ids):
                found: dict[str, training_pb2.RunSeries] = {}
                for event in run.events:
                    kind = "step" if request.by_step else "epoch"
                    for log in getattr(event, kind).logs if event.WhichOneof("kind") == kind else ():
                        if not request.names or log.name in request.names:
                            one = found.setdefault(log.name, training_pb2.RunSeries(run_id=run.id, name=log.name))
                            one.positions.append(len(one.positions) + 1)
                            one.values.append(log.value)
                            one.seconds.append(float(len(one.positions)))
                reply.series.extend(found[name] for name in sorted(found))
            return reply
        raise AssertionError("an abort raises")
