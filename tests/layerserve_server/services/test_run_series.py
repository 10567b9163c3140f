"""GetRunSeries through a real port: what it reads, and what it refuses."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from layerserve.v1 import tensor_pb2, training_pb2_grpc
from layerserve.v1 import training_pb2 as pb
from layerserve.values import tensors

X = np.arange(12, dtype=np.float32).reshape(6, 2)


@pytest.fixture
def stub(put, start, connect):
    put("double")
    return training_pb2_grpc.TrainingServiceStub(connect(start()))


def train(stub, epochs):
    data = [
        pb.DataArray(role=role, dtype=tensors.dtype_enum("float32"), shape=X.shape)
        for role in (pb.DATA_ROLE_X, pb.DATA_ROLE_Y)
    ]
    model = tensor_pb2.ModelSpec(name="double")
    compiled = pb.CompileSettings(optimizer='"sgd"', loss='"mse"')
    spec = pb.TrainSpec(model=model, data=data, description="train", epochs=epochs, compile=compiled)
    messages = [pb.TrainRequest(spec=spec)]
    messages += [pb.TrainRequest(chunk=pb.DataChunk(array=index, data=X.tobytes())) for index in (0, 1)]
    return next(iter([reply.event.run_id for reply in stub.Train(iter(messages), timeout=60)]))


def test_series_of_runs_and_their_best_logs(stub):
    ids = [train(stub, 2), train(stub, 3)]
    reply = stub.GetRunSeries(pb.GetRunSeriesRequest(run_ids=[ids[1], ids[0], ids[1]]), timeout=30)
    assert [(one.run_id, one.name) for one in reply.series] == [(ids[1], "loss"), (ids[0], "loss")]
    assert list(reply.series[0].positions) == [1, 2, 3]
    assert list(reply.series[0].values) == [0.5] * 3
    assert list(reply.series[0].seconds) == sorted(reply.series[0].seconds)
    steps = pb.GetRunSeriesRequest(run_ids=ids[:1], by_step=True, max_points=3, names=["loss"])
    (one,) = stub.GetRunSeries(steps, timeout=30).series
    assert list(one.positions) == [1, 2, 4]
    assert list(one.values) == [1.0, 0.5, 0.5]
    run = stub.GetRun(pb.GetRunRequest(run_id=ids[0]), timeout=30).run
    assert (run.best.name, run.best.value, run.best_epoch) == ("loss", 0.5, 1)
    assert not run.HasField("remaining_seconds")


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (pb.GetRunSeriesRequest(), grpc.StatusCode.INVALID_ARGUMENT, "run_ids: got 0, expected 1 to 100"),
        (pb.GetRunSeriesRequest(run_ids=["a"] * 101), grpc.StatusCode.INVALID_ARGUMENT, "run_ids: got 101"),
        (pb.GetRunSeriesRequest(run_ids=["a"]), grpc.StatusCode.NOT_FOUND, "no training run 'a'"),
        (
            pb.GetRunSeriesRequest(run_ids=["a"], max_points=1),
            grpc.StatusCode.INVALID_ARGUMENT,
            "max_points: got 1, expected 2 to 10000",
        ),
        (
            pb.GetRunSeriesRequest(run_ids=["a"], names=["b"] * 101),
            grpc.StatusCode.INVALID_ARGUMENT,
            "names: got 101, expected 0 to 100",
        ),
    ],
)
def test_what_is_out_of_range_is_refused(stub, request_, code, text):
    with pytest.raises(grpc.RpcError) as refused:
        stub.GetRunSeries(request_, timeout=30)
    assert refused.value.code() is code
    assert text in refused.value.details()
