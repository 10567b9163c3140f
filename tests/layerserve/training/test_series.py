"""Series of several runs with both clients, and the command that plots them."""

from __future__ import annotations

import numpy as np
import pytest
from layerserve import RunNotFound
from layerserve.training.series import RunSeries, SeriesByRun

X, Y = np.arange(192.0).reshape(64, 3), np.arange(64)


@pytest.fixture
def runs(server, client):
    server.train_logs = lambda epoch: {"loss": 1.0 / epoch, "accuracy": epoch / 10}
    return [client.train("double", X, Y, epochs=epochs).wait().id for epochs in (2, 4)]


def test_series_are_arrays_by_run_and_log(client, server, runs):
    found = client.series(runs, ["loss"])
    assert list(found) == runs
    assert [list(series) for series in found.values()] == [["loss"], ["loss"]]
    one = found[runs[1]]["loss"]
    assert one.positions.tolist() == [1, 2, 3, 4]
    assert one.values.tolist() == [1.0, 0.5, 1 / 3, 0.25]
    assert one.positions.dtype == np.int64
    assert one.seconds.shape == (4,)
    assert client.series(runs[:1], by="step", max_points=7)[runs[0]]["accuracy"].positions.tolist() == [1, 2, 3, 4]
    request = server.calls[-1][1]
    assert (request.by_step, request.max_points) == (True, 7)


def test_what_does_not_exist_is_refused(client, runs):
    with pytest.raises(RunNotFound):
        client.series([*runs, "20260101-0000-00000000"])
    with pytest.raises(ValueError, match="expected 'epoch' or 'step'"):
        client.series(runs, by="hour")
    assert client.series(runs, ["other"]) == {run: {} for run in runs}


def test_the_table_has_a_row_for_each_log_that_a_run_has():
    def series(*values):
        return RunSeries(np.arange(1, len(values) + 1), np.array(values), np.zeros(len(values)))

    found = SeriesByRun({"a": {"loss": series(2.0, 0.5, 1.0)}, "b": {"loss": series(3.0), "mae": series()}}, "epoch")
    assert found.table().rows == [("loss", "a", "2", "0.5", "2", "1"), ("loss", "b", "3", "3", "3", "3")]
