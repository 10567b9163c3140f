"""Estimates of both clients: what they send of the data, and what they read."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import InvalidArgument, ServerFile, TensorSpec
from layerserve.v1 import tensor_pb2, training_pb2
from layerserve.values.tables import size_text, time_text

X, Y = np.arange(192.0).reshape(64, 3), np.arange(64)


def sent(server):
    return [request for method, request in server.calls if method == "EstimateRun"][-1]


def test_an_estimate_says_what_a_run_would_take(client, server):
    estimate = client.estimates.train("double", X, Y, epochs=3, batch_size=10, freeze="a*")
    assert (estimate.model, estimate.base_version, estimate.problems) == ("double", 1, ())
    assert (estimate.rows, estimate.steps_per_epoch, estimate.steps) == (64, 7, 21)
    assert (estimate.seconds.total, estimate.seconds.step, estimate.wait_seconds) == (21.0, 1.0, 0.0)
    assert (estimate.trainable_parameters, estimate.memory_bytes, estimate.disk_bytes) == (6, 1 << 20, 1 << 10)
    assert (estimate.publication.version, estimate.publication.weights) == (2, "last")
    assert not server.runs
    spec = sent(server).train
    assert (spec.epochs, list(spec.freeze)) == (3, ["a*"])
    rows = dict(estimate.table().rows)
    assert rows["Steps"] == "21: 7 in an epoch of 64 rows"
    assert rows["Time"] == "21 s: steps 21 s"


def test_problems_are_all_listed(client, server):
    server.estimates.problems = ["unknown optimizer 'addam'", "unknown loss 'msee'"]
    estimate = client.estimates.train("double", X, Y, optimizer="addam", loss="msee")
    assert estimate.problems == tuple(server.estimates.problems)
    assert estimate.seconds is estimate.memory_bytes is estimate.publication is None
    assert [text for name, text in estimate.table().rows if name == "Problem"] == server.estimates.problems


def test_shapes_stand_for_arrays(client, server):
    """Nothing of such an array exists: this one would have a terabyte."""
    rows = 10**11
    y = {"y": TensorSpec("", (rows,), "int64")}
    weight = TensorSpec("", (rows,), "float64")
    client.estimates.train("double", TensorSpec("x", (rows, 3), "float64"), y, sample_weight=weight)
    declared = [(list(array.shape), array.dtype, array.role) for array in sent(server).train.data]
    assert declared == [
        ([rows, 3], tensor_pb2.DATA_TYPE_FLOAT32, training_pb2.DATA_ROLE_X),
        ([rows], tensor_pb2.DATA_TYPE_INT64, training_pb2.DATA_ROLE_Y),
        ([rows], tensor_pb2.DATA_TYPE_FLOAT32, training_pb2.DATA_ROLE_SAMPLE_WEIGHT),
    ]
    client.estimates.train(
        "two", [TensorSpec("", (8, 2), "float32"), X[:8, :2]], [TensorSpec("", (8, 2), "float32"), None]
    )
    assert [list(array.shape) for array in sent(server).train.data] == [[8, 2]] * 3
    client.estimates.train("double", ServerFile("x.npy"), ServerFile("y.npy"), validation_data=(X, Y))
    assert [array.path for array in sent(server).train.data][:2] == ["x.npy", "y.npy"]


@pytest.mark.parametrize(
    "spec", [TensorSpec("x", (None, 3), "float32"), TensorSpec("x", (4, 3), "float9")], ids=["rows", "dtype"]
)
def test_a_shape_needs_rows_and_a_known_dtype(client, server, spec):
    with pytest.raises(InvalidArgument, match="expected a known dtype, and a shape with the number of rows"):
        client.estimates.train("double", spec, Y)
    assert not server.calls or server.calls[-1][0] != "EstimateRun"


def test_what_train_refuses_here_is_refused_here(client, server):
    with pytest.raises(InvalidArgument, match="publish: got 'last'"):
        client.estimates.train("double", X, Y, publish="last")
    with pytest.raises(TypeError, match=r"train\(\) got an unexpected keyword argument 'epoch'"):
        client.estimates.train("double", X, Y, epoch=2)


def test_an_evaluation_is_estimated(client, server):
    estimate = client.estimates.evaluate("double", X, Y, batch_size=16, loss="mse")
    assert (estimate.steps, estimate.publication) == (4, None)
    assert sent(server).evaluate.batch_size == 16


def test_sizes_and_times_are_readable():
    assert [size_text(count) for count in (0, 999, 1234, 999_400, 999_600, 5.2e9, 3e15)] == [
        *("0 bytes", "999 bytes", "1.23 kB", "999 kB", "1 MB", "5.2 GB", "3e+03 TB"),
    ]
    assert [time_text(seconds) for seconds in (0.034, 7.21, 59, 119.6, 250, 7500)] == [
        *("0.034 s", "7.2 s", "59 s", "2 min 0 s", "4 min 10 s", "2 h 5 min"),
    ]
