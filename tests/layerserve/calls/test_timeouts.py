"""Deadlines: each method has its own timeout beside the client's."""

from __future__ import annotations

import inspect
import threading
import time

import numpy as np
import pytest
from blocking import both_clients
from layerserve import Client, DeadlineExceeded, PreparedCall, TensorSpec, TrainingRun

#: Methods that make no call.
WITHOUT = {"close", "curves", "plot", "table"}

METHODS = {
    f"{kind.__name__}.{name}": function
    for kind in (Client, TrainingRun)
    for name, function in inspect.getmembers(kind, inspect.isfunction)
    if not name.startswith("_") and name not in WITHOUT
} | {"PreparedCall": PreparedCall.__call__}


@pytest.mark.parametrize("function", METHODS.values(), ids=METHODS)
def test_every_method_takes_a_timeout(function):
    assert "timeout" in inspect.signature(function).parameters


@pytest.fixture
def release(server):
    """A server whose answers to all calls wait."""
    released = threading.Event()
    answering = server.answering

    def slow(method, request, context):
        if method != "Train":
            released.wait(20)
        return answering(method, request, context)

    server.answering = slow
    yield released
    released.set()


CALLS = {
    "models": lambda client: client.models(timeout=0.05),
    "model": lambda client: client.model("double", timeout=0.05),
    "prepare": lambda client: client.prepare("double", timeout=0.05),
    "node_shapes": lambda client: client.node_shapes("double", timeout=0.05),
    "runs": lambda client: client.runs(timeout=0.05),
    "run": lambda client: client.run("run-1", timeout=0.05),
    "predict": lambda client: client.predict("double", [[1, 2, 3]], timeout=0.05),
    "predict_named": lambda client: client.predict_named("double", [[1, 2, 3]], timeout=0.05),
    "download": lambda client: client.download("double", "/nowhere/file", timeout=0.05),
}


@both_clients
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_call_ends_at_its_own_timeout(client, release, call):
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        call(client)
    assert time.monotonic() - began < 10


RUN_CALLS = {
    "info": lambda run, path: run.info(timeout=0.05),
    "cancel": lambda run, path: run.cancel(timeout=0.05),
    "resume": lambda run, path: run.resume(timeout=0.05),
    "files": lambda run, path: run.files(timeout=0.05),
    "download": lambda run, path: run.download("log.csv", path / "log.csv", timeout=0.05),
    "delete": lambda run, path: run.delete(timeout=0.05),
}


@pytest.mark.parametrize("call", RUN_CALLS.values(), ids=RUN_CALLS)
def test_a_call_of_a_run_ends_at_its_own_timeout(client, server, tmp_path, call):
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)))
    run.wait()
    released = threading.Event()
    server._run = lambda run_id: released.wait(20)
    with pytest.raises(DeadlineExceeded):
        call(run, tmp_path)
    released.set()


@both_clients
def test_an_evaluation_ends_at_its_timeout(client, server):
    server.hold_training()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.evaluate("double", np.zeros((4, 3)), np.zeros((4, 3)), timeout=0.3)
    assert time.monotonic() - began < 10
    server.release_training()


def test_streams_have_no_timeout_but_their_own(server):
    """A client's timeout is that of a call; an evaluation may take longer."""
    server.hold_training()
    timer = threading.Timer(0.6, server.release_training)
    timer.start()
    with Client(server.address, timeout=0.3) as client:
        assert client.evaluate("double", np.zeros((4, 3)), np.zeros((4, 3))) == {"loss": 1.0}
    timer.join()


def test_the_clients_timeout_is_the_default(server):
    release = threading.Event()
    x = TensorSpec("x", (None,), "float32")
    server.add_model("slow", lambda a: release.wait(20) and {"x": a["x"]}, [x], [x])
    with Client(server.address, timeout=0.2) as client, pytest.raises(DeadlineExceeded):
        client.predict("slow", [1])
    release.set()


@both_clients
def test_one_waits_for_a_run_as_long_as_one_likes(client, server):
    """The run goes on, and the next wait continues where this one ended."""
    server.hold_training()
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)), epochs=2)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"no reply within 0\."):
            run.wait(timeout=0.3)
        assert 0.2 < time.monotonic() - began < 20
    assert run.info().state in ("queued", "running")
    server.release_training()
    assert run.wait(timeout=20).history == {"loss": [1.0, 0.5]}


@both_clients
def test_a_wait_does_not_outlast_its_timeout_while_the_server_is_away(client, server):
    server.hold_training()
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)))
    server.stop()
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        run.wait(timeout=0.5)
    # The pauses between attempts to reach the server take a minute together.
    assert time.monotonic() - began < 30


def test_training_has_a_timeout_for_its_data_alone(client, server, monkeypatch):
    """It ends when the data have arrived: the run's events have none."""
    # Enough for the data to arrive on a busy machine.
    timer = threading.Timer(2.2, server.release_training)
    server.hold_training()
    run = client.train("double", np.zeros((4, 3)), np.zeros((4, 3)), timeout=2)
    timer.start()
    assert run.wait().version == 2
    timer.join()
    released = threading.Event()
    monkeypatch.setattr(server, "find", lambda spec: released.wait(20) and server.models[0])
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        client.train("double", np.zeros((4, 3)), np.zeros((4, 3)), timeout=0.3)
    assert time.monotonic() - began < 10
    released.set()


@both_clients
def test_many_predictions_have_one_timeout_together(client, server):
    released = threading.Event()
    x = TensorSpec("x", (None,), "float32")
    server.add_model("slow", lambda a: released.wait(20) and {"x": a["x"]}, [x], [x])
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        list(client.predict_many("slow", [[1], [2], [3]], timeout=0.3))
    assert time.monotonic() - began < 10
    released.set()
    assert len(list(client.predict_many("slow", [[1], [2], [3]], timeout=20))) == 3
