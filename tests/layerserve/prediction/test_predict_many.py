"""Many predictions over one stream, with both clients. The fake server answers each two in the wrong order."""

from __future__ import annotations

import numpy as np
import pytest
from blocking import both_clients
from clocks import replace_time
from layerserve import Client, DeadlineExceeded, InvalidTensor, ModelNotFound, Overloaded, Unavailable, UnknownOutput
from layerserve.calls import connection


@both_clients
def test_answers_come_in_the_order_of_the_inputs(client):
    given = [np.full((rows % 3, 3), rows, np.float32) for rows in range(25)]
    results = list(client.predict_many("double", iter(given)))
    assert len(results) == 25
    for x, y in zip(given, results, strict=True):
        np.testing.assert_array_equal(y, 2 * x)


def test_outputs_are_as_those_of_predict(client):
    (result,) = client.predict_many("two", [[[[1, 2]], [[10, 20]]]], ["ids", "sum"])
    assert list(result) == ["ids", "sum"]
    assert list(client.predict_many("double", [])) == []


@both_clients
def test_inputs_are_only_taken_when_somebody_wants_results(client, server):
    client.predict_many("double", iter(()))
    assert server.calls == []


@both_clients
@pytest.mark.parametrize(
    ("model", "inputs", "outputs", "error"),
    [
        ("dooble", lambda: [[[1, 2, 3]]], None, ModelNotFound),
        ("double", lambda: [[[1, 2, 3]]], "z", UnknownOutput),
        ("double", lambda: [[["text", "is", "none"]]], None, InvalidTensor),
        ("double", lambda: map(int, "x"), None, ValueError),
    ],
)
def test_errors_are_typed(client, model, inputs, outputs, error):
    with pytest.raises(error):
        list(client.predict_many(model, inputs(), outputs))


@both_clients
def test_an_error_comes_in_the_place_of_its_input(client):
    seen = []
    results = client.predict_many("double", [[[1, 2, 3]], [[2, 2, 2]], [["text", "is", "none"]]])
    with pytest.raises(InvalidTensor):
        seen.extend(result.tolist() for result in results)
    assert seen == [[[2, 4, 6]], [[4, 4, 4]]]


@both_clients
def test_a_stream_that_the_server_refuses_is_an_error(client, server):
    server.fail_next(Overloaded("all streams are in use"), "PredictStream")
    # grpc.aio may lose the status where a write fails: then the call says that the stream ended.
    asynchronous = not isinstance(client, Client)
    with pytest.raises((Overloaded, Unavailable) if asynchronous else Overloaded):
        list(client.predict_many("double", [[[1, 2, 3]]]))


@both_clients
def test_who_stops_early_closes_the_stream(client):
    for result in client.predict_many("double", ([[n, n, n]] for n in range(10_000))):
        assert result.tolist() == [[0, 0, 0]]
        break
    assert client.predict("double", [[1, 2, 3]]).shape == (1, 3)


def test_a_timeout_is_that_of_all_predictions_together(client, monkeypatch):
    now = [100.0]
    replace_time(monkeypatch, connection, monotonic=lambda: now[0])
    results = iter(client.predict_many("double", [[[1, 2, 3]]] * 9, timeout=5))
    for _ in range(3):
        next(results)
        now[0] += 2
    with pytest.raises(DeadlineExceeded, match="no reply within 5 s"):
        next(results)
