"""Calls of the training service of a server in this process, whose runs `fake_trainer` executes."""

from __future__ import annotations

import numpy as np
from layerserve.v1 import tensor_pb2, training_pb2_grpc
from layerserve.v1 import training_pb2 as pb
from layerserve.values import tensors

X = np.arange(12, dtype=np.float32).reshape(6, 2)


def spec(behaviour="train", arrays=(), **fields):
    data = list(arrays) or [
        pb.DataArray(role=pb.DATA_ROLE_X, dtype=tensors.dtype_enum("float32"), shape=[6, 2]),
        pb.DataArray(role=pb.DATA_ROLE_Y, dtype=tensors.dtype_enum("float32"), shape=[6, 2]),
    ]
    fields.setdefault("compile", pb.CompileSettings(optimizer='"sgd"', loss='"mse"'))
    return pb.TrainSpec(model=tensor_pb2.ModelSpec(name="double"), data=data, description=behaviour, **fields)


def messages(train_spec, chunks=(0, 1, 0, 1)):
    yield pb.TrainRequest(spec=train_spec)
    rows = {}
    for index in chunks:
        start = rows.get(index, 0) % len(X)
        rows[index] = start + 3
        yield pb.TrainRequest(chunk=pb.DataChunk(array=index, data=X[start : start + 3].tobytes()))


def kinds(events):
    return [event.WhichOneof("kind") for event in events]


def wait_for(events, kind, count):
    """Reads events until so many of a kind have come."""
    for event in events:
        count -= event.HasField(kind)
        if not count:
            return True
    return False


class Trainer:
    """Calls of one server."""

    def __init__(self, app, channel, tmp_path):
        self.app, self.channel = app, channel
        self.stub = training_pb2_grpc.TrainingServiceStub(channel)
        self.runs_folder = tmp_path / "models" / ".layerserve" / "runs"
        self.model_folder = tmp_path / "models" / "double"

    def train(self, train_spec, **options):
        return [response.event for response in self.stub.Train(messages(train_spec, **options), timeout=60)]

    def begin(self, train_spec):
        """Starts a run whose process waits for `go`; gives the call, and the run's id once it trains."""
        call = self.stub.Train(messages(train_spec), timeout=60)
        for response in call:
            if response.event.HasField("step"):
                return call, response.event.run_id
        raise AssertionError("the run ended before its first step")

    def run(self, run_id):
        return self.stub.GetRun(pb.GetRunRequest(run_id=run_id), timeout=30).run

    def watch(self, run_id, start=0):
        request = pb.WatchRunRequest(run_id=run_id, from_sequence=start)
        return [response.event for response in self.stub.WatchRun(request, timeout=60)]

    def cancel(self, run_id):
        return self.stub.CancelRun(pb.CancelRunRequest(run_id=run_id), timeout=30).run

    def resume(self, run_id):
        return self.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id), timeout=30).run

    def delete(self, run_id):
        self.stub.DeleteRun(pb.DeleteRunRequest(run_id=run_id), timeout=30)

    def watching(self, run_id):
        """The run's events as they come."""
        call = self.stub.WatchRun(pb.WatchRunRequest(run_id=run_id), timeout=60)
        return (response.event for response in call)

    def run_here(self, run_id):
        """The run as the server's own object, also after its stop."""
        return self.app.runs.table.get(run_id)

    def go(self, run_id):
        (self.runs_folder / run_id / "go").touch()

    def offset(self):
        with self.app.repository.leases.lease("double") as version:
            return version.version, version.model.offset
