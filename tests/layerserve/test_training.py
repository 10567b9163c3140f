"""Training runs of both clients against a real server on a real port."""

from __future__ import annotations

import json

import numpy as np
import pytest
from layerserve import (
    DataLoss,
    EpochEnd,
    InvalidArgument,
    InvalidTensor,
    ModelNotFound,
    Overloaded,
    RunAccepted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunNotFound,
    RunQueued,
    RunStarted,
    StepProgress,
    TensorSpec,
    TrainingCancelled,
    TrainingFailed,
    Unavailable,
    run_feed,
)
from layerserve.testing import FakeRun
from layerserve.v1 import training_pb2

X, Y = np.arange(192.0).reshape(64, 3), np.arange(64)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(run_feed.RunFeed.__init__, "__defaults__", ("", (0.0,) * 3))


def test_a_run_tells_what_happens_and_publishes_a_version(client, server):
    run = client.train("double", X, Y, epochs=2, seed=7, description="for people")
    assert (run.model, run.base_version, run.version, run.state) == ("double", 1, None, "queued")
    events = list(run)
    assert [type(event) for event in events] == [
        RunAccepted,
        RunQueued,
        RunStarted,
        *[StepProgress, StepProgress, EpochEnd] * 2,
        RunFinished,
    ]
    assert [event.sequence for event in events] == list(range(10))
    assert {event.run_id for event in events} == {run.id}
    assert (events[2].epochs, events[2].steps_per_epoch, events[2].rows) == (2, 2, 64)
    assert (events[6].epoch, events[6].epochs, events[6].step, events[6].steps_per_epoch) == (2, 2, 1, 2)
    assert (run.version, run.state) == (2, "finished")
    assert run.history == {"loss": [1.0, 0.5]}
    assert list(run) == []
    assert client.model("double").training_run == run.id


def test_the_server_has_the_data_when_train_returns(client, server):
    server.hold_training()
    x, y = X.copy(), Y.copy()
    run = client.train("double", x, y, validation_data=(X[:2], Y[:2]), sample_weight=np.ones(64))
    x[:], y[:] = -1, -1
    data = server.runs[run.id].data
    assert set(data) == {
        ("x", "x"),
        ("y", "y"),
        ("sample_weight", "y"),
        ("validation_x", "x"),
        ("validation_y", "y"),
    }
    np.testing.assert_array_equal(data["x", "x"], X.astype(np.float32))
    np.testing.assert_array_equal(data["y", "y"], Y)
    assert data["y", "y"].dtype == np.int64
    server.release_training()
    assert run.wait().version == 2


def test_settings_arrive(client, server):
    run = client.train(
        "double",
        X,
        Y,
        epochs=1,
        batch_size=16,
        shuffle=False,
        seed=0,
        optimizer={"class_name": "SGD", "config": {"learning_rate": 0.1}},
        loss="mse",
        loss_weights=[1.0],
        metrics=["mae"],
        weighted_metrics=[],
        class_weight={0: 2.0},
        publish=False,
        validation_split=0.25,
        description="why",
        version=1,
    )
    spec = server.runs[run.id].spec
    assert json.loads(spec.compile.optimizer)["class_name"] == "SGD"
    assert (spec.compile.loss, spec.compile.loss_weights, spec.compile.metrics) == ('"mse"', "[1.0]", '["mae"]')
    assert spec.compile.weighted_metrics == "[]"
    assert (spec.batch_size, spec.shuffle, spec.seed, spec.HasField("seed")) == (16, False, 0, True)
    assert (spec.publish, spec.validation_split, spec.description, spec.model.version) == (False, 0.25, "why", 1)
    assert json.loads(spec.class_weight) == {"0": 2.0}
    assert run.wait().version is None


def test_defaults_are_keras_and_the_files(client, server):
    spec = server.runs[client.train("double", X, Y).id].spec
    assert (spec.epochs, spec.batch_size, spec.shuffle, spec.publish, spec.HasField("seed")) == (
        1,
        32,
        True,
        True,
        False,
    )
    assert spec.compile == training_pb2.CompileSettings()


def test_the_new_version_may_get_a_label(client):
    client.train("double", X, Y, publish_label="candidate").wait()
    assert client.model("double", label="candidate").version == 2


@pytest.mark.parametrize("drops", [[1], [3], [5], [3, 1, 2], [4, 0, 0, 3]])
def test_a_stream_that_breaks_is_taken_up_where_it_broke(client, server, drops):
    server.hold_training()
    for after in drops:
        server.drop_stream(after)
    run = client.train("double", X, Y, epochs=3)
    server.release_training()
    assert [event.sequence for event in run] == list(range(13))
    assert run.history == {"loss": [1.0, 0.5, 1 / 3]}
    assert [method for method, _ in server.calls].count("WatchRun") == len(drops)
    assert [method for method, _ in server.calls].count("Train") == 1


def test_a_server_that_stays_away_is_unavailable(client, server):
    run = client.train("double", X, Y)
    server.stop()
    with pytest.raises(Unavailable):
        run.wait()


def test_a_run_that_fails_gives_its_event_and_then_raises(client, server):
    server.fail_training("loss is NaN", epoch=2, step=1)
    run = client.train("double", X, Y, epochs=3)
    seen = []
    with pytest.raises(TrainingFailed, match="epoch 2, step 1: loss is NaN") as caught:
        seen.extend(event for event in run)  # `extend` keeps what came before the error
    assert (caught.value.run_id, caught.value.reason, caught.value.epoch, caught.value.step) == (
        run.id,
        "loss is NaN",
        2,
        1,
    )
    assert (run.state, run.version, run.history) == ("failed", None, {"loss": [1.0]})
    with pytest.raises(TrainingFailed):
        run.wait()
    assert isinstance(seen[-1], RunFailed)
    assert client.model("double").version == 1


def test_a_run_can_be_cancelled_while_it_is_read(client, server):
    server.hold_training()
    run = client.train("double", X, Y, epochs=100)
    assert run.cancel().state == "running"
    server.release_training()
    events = list(run)
    assert isinstance(events[-1], RunCancelled)
    assert run.state == "cancelled"
    with pytest.raises(TrainingCancelled, match=run.id):
        run.wait()
    assert run.cancel().state == "cancelled"
    assert client.model("double").version == 1


def test_a_run_can_be_attached_to_from_anywhere(client):
    first = client.train("double", X, Y, epochs=2).wait()
    again = client.run(first.id)
    assert (again.model, again.base_version, again.version, again.state) == ("double", 1, 2, "finished")
    assert again.history == {}
    assert again.wait().history == first.history
    with pytest.raises(RunNotFound, match="run-99"):
        client.run("run-99")


def test_runs_are_listed_newest_first(client):
    ids = [client.train("double", X, Y, description=text).wait().id for text in ("one", "two")]
    assert [(info.id, info.description) for info in client.runs()] == [(ids[1], "two"), (ids[0], "one")]
    assert client.runs("two") == ()
    info = client.runs("double")[0]
    assert (info.state, info.base_version, info.version, info.epochs_done, info.epochs, info.logs) == (
        "finished",
        2,
        3,
        1,
        1,
        {"loss": 1.0},
    )
    assert info.created_time is not None
    assert info.started_time is None


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"epochs": 0}, "epochs: got 0, expected a whole number from 1"),
        ({"epochs": 1.5}, "epochs: got 1.5"),
        ({"batch_size": -1}, "batch_size: got -1"),
        ({"validation_split": 1.0}, "validation_split: got 1.0, expected a share"),
        ({"validation_split": 0.5, "validation_data": (X, Y)}, "got both"),
        ({"publish": False, "publish_label": "new"}, "publish=False"),
        ({"version": 1, "label": "stable"}, "expected one of the two"),
        ({"loss": print}, "loss: got"),
    ],
)
def test_settings_that_can_mean_nothing_are_refused_before_any_call(client, server, arguments, text):
    with pytest.raises(InvalidArgument, match=text):
        client.train("double", X, Y, **arguments)
    assert server.calls == []


def test_errors_before_the_run_starts_are_raised_by_train(client, server):
    with pytest.raises(ModelNotFound):
        client.train("dooble", X, Y)
    server.fail_next(Overloaded("too many runs wait"), "Train")
    with pytest.raises(Overloaded, match="too many runs wait"):
        client.train("double", X, Y)


def test_a_request_that_is_refused_keeps_its_reason_however_much_data_there_is(client, server):
    for _ in range(10):
        server.fail_next(Overloaded("too many runs wait"), "Train")
        with pytest.raises(Overloaded):
            client.train("double", np.zeros((300_000, 3)), np.zeros(300_000))


def test_a_server_that_gives_the_run_up_while_data_comes_says_why(client, server, monkeypatch):
    def full(run, chunk):
        raise Overloaded("more data than allowed")

    monkeypatch.setattr(FakeRun, "receive", full)
    # asyncio: grpc.aio may lose the status where a write fails, and the run tells its reason instead.
    with pytest.raises((Overloaded, TrainingFailed), match="more data than allowed"):
        client.train("double", np.zeros((300_000, 3)), np.zeros(300_000))


def test_data_that_turns_out_wrong_on_the_way_is_the_callers_error(client, server):
    x = TensorSpec("x", (None, 1), "int32")
    server.add_model("ints", lambda a: {"x": a["x"]}, [x], [x])
    late = np.array([[1.0]] * 300_000 + [[0.5]])
    with pytest.raises(InvalidTensor, match=r"value of 0\.5") as caught:
        client.train("ints", late, np.zeros(300_001))
    assert not isinstance(caught.value, DataLoss)
    assert client.model("ints").version == 1


def test_progress_is_shown_on_standard_error(client, capsys):
    client.train("double", X, Y, epochs=2).wait(progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "epoch 1/2 - 0.5 s - loss: 1",
        "epoch 2/2 - 0.5 s - loss: 0.5",
        "finished in 1.0 s, published version 2",
    ]


def test_events_of_a_later_release_are_passed_over(client, server):
    server.hold_training()
    run = client.train("double", X, Y)
    server.runs[run.id].tell()  # an event of no kind that is known
    server.release_training()
    assert run.wait().version == 2
