"""Training runs of both clients against a real server on a real port."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from functools import partial

import numpy as np
import pytest
from blocking import both_clients
from layerserve import (
    Checkpoints,
    Client,
    DataLoss,
    EpochEnd,
    FailedPrecondition,
    InvalidArgument,
    InvalidTensor,
    ModelNotFound,
    Overloaded,
    Publish,
    Resources,
    RunAccepted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunNotFound,
    RunPaused,
    RunQueued,
    RunResumed,
    RunStarted,
    ServerFile,
    Split,
    StepProgress,
    TensorSpec,
    TrainingCancelled,
    TrainingFailed,
    Unavailable,
    VersionWarning,
)
from layerserve.testing import FakeRun, FakeServer, fake_runs
from layerserve.training import feed as run_feed
from layerserve.training import run_selection
from layerserve.v1 import training_pb2

X, Y = np.arange(192.0).reshape(64, 3), np.arange(64)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(run_feed.RunFeed.__init__, "__defaults__", ("", (0.0,) * 3))


@both_clients
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


@both_clients
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
    assert spec.budget == training_pb2.Budget()


def test_the_new_version_may_get_a_label(client):
    client.train("double", X, Y, publish=Publish(label="candidate")).wait()
    assert client.model("double", label="candidate").version == 2


@both_clients
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


@both_clients
@pytest.mark.parametrize("drops", [[1], [5], [13, 13], [4, 0, 7]])
def test_events_that_come_again_after_a_break_are_told_once(client, server, drops, monkeypatch):
    """A proxy, or a server of another release, may begin anew instead of where it was asked to."""
    watch = FakeRun.watch

    def watch_again(run, sequence, alive):
        return watch(run, max(0, sequence - 6) if sequence > 1 else sequence, alive)

    monkeypatch.setattr(FakeRun, "watch", watch_again)
    server.hold_training()
    for after in drops:
        server.drop_stream(after)
    run = client.train("double", X, Y, epochs=3)
    server.release_training()
    events = list(run)
    assert [event.sequence for event in events] == list(range(13))
    assert [type(event) for event in events].count(EpochEnd) == 3
    assert (run.history, run.state, run.version) == ({"loss": [1.0, 0.5, 1 / 3]}, "finished", 2)
    assert list(run) == []


def test_a_run_is_watched_from_the_first_event_that_is_not_known(client, server, monkeypatch):
    asked = []
    watch = FakeRun.watch
    monkeypatch.setattr(
        FakeRun, "watch", lambda run, sequence, alive: asked.append(sequence) or watch(run, sequence, alive)
    )
    server.hold_training()
    server.drop_stream(3)
    run = client.train("double", X, Y, epochs=3)
    server.release_training()
    run.wait()
    assert asked[-1] == 4


def test_a_server_is_looked_for_about_a_minute():
    assert sum(run_feed.RECONNECT_DELAYS) == pytest.approx(60, abs=5)
    assert list(run_feed.RECONNECT_DELAYS) == sorted(run_feed.RECONNECT_DELAYS)


@both_clients
def test_a_server_that_stays_away_is_unavailable(client, server):
    server.hold_training()
    run = client.train("double", X, Y)
    server.stop()
    with pytest.raises(Unavailable):
        run.wait()


@both_clients
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


@both_clients
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
        ({"epochs": "3"}, "epochs: got '3', expected a whole number"),
        ({"epochs": math.nan}, "epochs: got nan"),
        ({"batch_size": -1}, "batch_size: got -1"),
        ({"batch_size": True}, "batch_size: got True"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: got 0, expected a whole number from 1"),
        ({"resources": Resources(workers=0)}, "resources.workers: got 0"),
        ({"resources": Resources(priority="high")}, "resources.priority: got 'high', expected a whole number$"),
        ({"seed": -1}, "seed: got -1, expected a whole number from 0"),
        ({"resources": Resources(max_seconds="1h")}, "resources.max_seconds: got '1h', expected seconds"),
        ({"validation_split": "a"}, "validation_split: got 'a', expected a share"),
        ({"validation_split": 1.0}, "validation_split: got 1.0, expected a share"),
        ({"validation_split": 0.5, "validation_data": (X, Y)}, "got both"),
        (
            {"publish": Publish(format="keras4")},
            "publish.format: got 'keras4', expected one of 'keras3', 'keras3_h5', 'keras2', 'keras2_h5'",
        ),
        ({"version": 1, "label": "stable"}, "expected one of the two"),
        ({"loss": print}, "loss: got"),
    ],
)
def test_settings_that_can_mean_nothing_are_refused_before_any_call(client, server, arguments, text):
    with pytest.raises(InvalidArgument, match=text):
        client.train("double", X, Y, **arguments)
    assert server.calls == []


@both_clients
def test_errors_before_the_run_starts_are_raised_by_train(client, server):
    with pytest.raises(ModelNotFound):
        client.train("dooble", X, Y)
    server.fail_next(Overloaded("too many runs wait"), "Train")
    with pytest.raises(Overloaded, match="too many runs wait"):
        client.train("double", X, Y)


@both_clients
def test_a_request_that_is_refused_keeps_its_reason_however_much_data_there_is(client, server):
    for _ in range(10):
        server.fail_next(Overloaded("too many runs wait"), "Train")
        with pytest.raises(Overloaded):
            client.train("double", np.zeros((300_000, 3)), np.zeros(300_000))


@both_clients
def test_a_server_that_gives_the_run_up_while_data_comes_says_why(client, server, monkeypatch):
    def full(run, chunk):
        raise Overloaded("more data than allowed")

    monkeypatch.setattr(FakeRun, "receive", full)
    # asyncio: grpc.aio may lose the status where a write fails, and the run tells its reason instead.
    with pytest.raises((Overloaded, TrainingFailed), match="more data than allowed"):
        client.train("double", np.zeros((300_000, 3)), np.zeros(300_000))


@both_clients
def test_data_that_turns_out_wrong_on_the_way_is_the_callers_error(client, server):
    x = TensorSpec("x", (None, 1), "int32")
    server.add_model("ints", lambda a: {"x": a["x"]}, [x], [x])
    late = np.array([[1.0]] * 300_000 + [[0.5]])
    with pytest.raises(InvalidTensor, match=r"value of 0\.5") as caught:
        client.train("ints", late, np.zeros(300_001))
    assert not isinstance(caught.value, DataLoss)
    assert client.model("ints").version == 1


@both_clients
def test_progress_is_shown_on_standard_error(client, capsys):
    client.train("double", X, Y, epochs=2).wait(progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "epoch 1/2 - 500 ms - loss: 1",
        "epoch 2/2 - 500 ms - loss: 0.5",
        "finished in 1.0 s, published version 2",
    ]


def test_events_of_a_later_release_are_passed_over(client, server):
    server.hold_training()
    run = client.train("double", X, Y)
    server.runs[run.id].tell()  # an event of no kind that is known
    server.release_training()
    assert run.wait().version == 2


# Options of a run.


def test_options_that_are_left_out_are_the_servers(client, server):
    spec = server.runs[client.train("double", X, Y).id].spec
    assert not spec.HasField("checkpoint_seconds")
    assert (spec.callbacks, list(spec.freeze), spec.monitor) == ("", [], "")
    assert (spec.nan_policy, spec.publish_choice) == (training_pb2.NAN_POLICY_STOP, training_pb2.PUBLISH_CHOICE_LAST)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"publish": "worst"}, "publish: got 'worst', expected True, False, 'best' or Publish"),
        ({"on_nan": "panic"}, "on_nan: got 'panic'"),
        ({"steps_per_epoch": 0}, "steps_per_epoch: got 0"),
        ({"resources": Resources(max_memory_bytes=-1)}, "resources.max_memory_bytes: got -1"),
        ({"resources": Resources(max_seconds=math.inf)}, "resources.max_seconds: got inf"),
        ({"checkpoints": Checkpoints(resume_seconds=math.nan)}, "checkpoints.resume_seconds: got nan"),
        ({"validation_split": "test"}, "validation_split: got 'test', expected a share, or split=Split"),
        (
            {"validation_split": 0.5, "split": Split("a", {"a": 0.5})},
            "validation_split: got 0.5 with a split, expected the name of one of its shares",
        ),
        (
            {"validation_split": "a", "split": Split("b", {"a": 0.5, "b": 0.5}), "validation_data": (X, Y)},
            "validation_split and validation_data: got both",
        ),
        ({"callbacks": [print]}, "callbacks: got .*EarlyStopping"),
    ],
)
def test_options_that_can_mean_nothing_are_refused_before_any_call(client, server, arguments, text):
    with pytest.raises(InvalidArgument, match=text):
        client.train("double", X, Y, **arguments)
    assert server.calls == []


# Data.


def test_a_file_of_the_server_is_named_and_not_sent(client, server):
    files = ServerFile("d.npz", "x"), ServerFile("y.npy")
    run = client.train("double", files[0], [files[1]], validation_data=(X, Y)).wait()
    announced = server.runs[run.id].spec.data
    assert [(array.path, array.key) for array in announced] == [("d.npz", "x"), ("y.npy", ""), ("", ""), ("", "")]
    assert set(server.runs[run.id].data) == {("validation_x", "x"), ("validation_y", "y")}


def test_data_that_is_damaged_on_the_way_is_found_out(client, server, monkeypatch):
    receive = FakeRun.receive

    def damaged(run, chunk):
        receive(run, training_pb2.DataChunk(array=chunk.array, data=b"!" + chunk.data[1:]))

    monkeypatch.setattr(FakeRun, "receive", damaged)
    with pytest.raises((DataLoss, TrainingFailed), match="doesn't match its digest"):
        client.train("double", X, Y)


KEPT_BACK = "version 1 is pinned, and stays the default until it is unpinned"


@pytest.fixture
def pinned(monkeypatch):
    """A server whose model is pinned to version 1."""
    accepted, finished = training_pb2.RunAccepted, training_pb2.RunFinished
    for name, made in (("RunAccepted", accepted), ("RunFinished", finished)):
        monkeypatch.setattr(training_pb2, name, partial(made, kept_back=KEPT_BACK))


def test_a_version_that_a_pin_keeps_back_is_warned_of(client, server, pinned, capsys):
    text = f"model 'double': the version that this run publishes won't be the default: {KEPT_BACK}"
    with pytest.warns(VersionWarning, match=f"^{text}$"):
        run = client.train("double", X, Y)
    assert run.kept_back == KEPT_BACK
    run.wait(progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith(f"published version 2; {KEPT_BACK}")
    assert run.kept_back == KEPT_BACK
    # Who gives it a label asks for it by the label.
    client.train("double", X, Y, publish=Publish(label="canary")).wait()


# Going on, and going away.


@both_clients
def test_an_interrupted_run_is_resumed_and_its_epochs_count_once(client, server):
    server.fail_training("killed", epoch=2, step=2, resumable=True)
    run = client.train("double", X, Y, epochs=3)
    with pytest.raises(TrainingFailed, match="killed") as caught:
        run.wait()
    assert caught.value.resumable
    assert run.info().resumable
    assert run.resume().state in ("queued", "running", "finished")
    assert [type(event) for event in run][:3] == [RunQueued, RunResumed, RunStarted]
    assert (run.state, run.version, run.info().resumed) == ("finished", 2, 1)
    assert run.history == {"loss": [1.0, 0.5, 1 / 3]}
    again = client.run(run.id).wait()
    assert again.history == run.history


def test_only_an_interrupted_run_can_be_resumed(client):
    run = client.train("double", X, Y).wait()
    with pytest.raises(FailedPrecondition, match="wasn't interrupted"):
        run.resume()
    assert run.state == "finished"


def test_a_run_is_deleted_when_it_has_ended(client, server):
    server.hold_training()
    run = client.train("double", X, Y)
    with pytest.raises(FailedPrecondition, match="hasn't ended"):
        run.delete()
    server.release_training()
    run.wait().delete()
    assert client.runs() == ()


# Evaluating.


def test_evaluating_gives_the_numbers(client, server):
    assert client.evaluate("double", X, Y, loss="mse", metrics=["mae"], batch_size=7, description="why") == {
        "loss": 1.0
    }
    (info,) = client.runs()
    assert (info.kind, info.version, info.description) == ("evaluation", None, "why")
    spec = server.runs[info.id].spec
    assert (spec.compile.loss, spec.compile.metrics, spec.batch_size) == ('"mse"', '["mae"]', 7)


@both_clients
def test_evaluating_survives_a_stream_that_breaks(client, server):
    server.hold_training()
    server.drop_stream(1)
    server.release_training()
    assert client.evaluate("double", X, Y) == {"loss": 1.0}


def test_evaluating_that_fails_says_why(client, server):
    server.fail_training("no such label")
    with pytest.raises(TrainingFailed, match="no such label"):
        client.evaluate("double", X, Y)
    with pytest.raises(InvalidArgument, match="batch_size"):
        client.evaluate("double", X, Y, batch_size=0)


# Pausing, ending early, changing.


def test_a_run_is_paused_changed_and_goes_on(client, server):
    server.hold_training()
    run = client.train("double", X, Y, epochs=2, metadata={"a": "1", "b": "2"}, resources=Resources(priority=1))
    assert run.pause().state in ("queued", "running")
    changed = run.update(priority=7, metadata={"a": None, "c": "3"}, description="later")
    assert (changed.priority, changed.metadata, changed.description) == (7, {"b": "2", "c": "3"}, "later")
    changed = run.update(priority=8)
    assert (changed.priority, changed.metadata, changed.description) == (8, {"b": "2", "c": "3"}, "later")
    server.release_training()
    events = []
    for event in run:
        events.append(event)
        if isinstance(event, RunPaused):
            assert (event.epoch, event.step) == (1, 0)
            assert run.state == "paused"
            assert run.info().state == "paused"
            run.resume()
    assert (events[-1].version, run.state, run.info().resumed) == (2, "finished", 1)
    assert run.history == {"loss": [1.0, 0.5]}


def test_a_run_is_stopped_and_its_result_is_published_later(client, server):
    server.hold_training()
    run = client.train("double", X, Y, epochs=9, publish=False)
    assert run.stop().stopped
    server.release_training()
    assert run.wait().version is None
    assert run.info().publishable
    info = run.publish(label="best")
    assert (info.version, run.version, client.model("double", label="best").version) == (2, 2, 2)
    with pytest.raises(FailedPrecondition, match="no result"):
        run.publish()
    with pytest.raises(FailedPrecondition, match="has ended"):
        run.pause()


@pytest.mark.parametrize(
    "metadata", [{"a b": "1"}, {"a": "v" * 513}, {f"k{n}": "" for n in range(33)}, ["a"], {"a": 1}]
)
def test_metadata_that_can_not_be_is_refused_before_any_call(client, server, metadata):
    with pytest.raises(InvalidArgument, match=r"metadata: got .*, expected a dict of at most 32 texts"):
        client.train("double", X, Y, metadata=metadata)
    assert server.calls == []


def test_runs_are_filtered_and_read_page_by_page(client, server, monkeypatch):
    ids = [client.train("double", X, Y, metadata={"odd": str(n % 2)}).wait().id for n in range(5)]
    client.evaluate("double", X, Y)
    monkeypatch.setattr(run_selection, "PAGE", 2)
    server.calls.clear()
    assert [info.id for info in client.runs(kind="training", oldest_first=True)] == ids
    assert [name for name, _ in server.calls] == ["ListRuns"] * 3
    assert [info.id for info in client.runs(state=["finished"], metadata={"odd": "1"})] == [ids[3], ids[1]]
    assert [info.id for info in client.runs(kind="training", limit=3)] == ids[:1:-1]
    assert client.runs(state="paused") == ()
    now = datetime.now(timezone.utc)
    client.runs(created_after=now, created_before=now, caller="me")
    request = server.calls[-1][1]
    assert (request.created_after.ToDatetime(timezone.utc), request.caller) == (now, "me")
    for given in ({"state": "gone"}, {"kind": "sweep"}, {"limit": 0}):
        with pytest.raises(InvalidArgument, match=next(iter(given))):
            client.runs(**given)


# Uploads whose stream breaks.


@both_clients
def test_an_upload_whose_stream_breaks_is_sent_again(client, server, monkeypatch):
    broken, receive = [], FakeRun.receive

    def once(run, chunk):
        if not broken:
            broken.append(run.id)
            raise Unavailable("gone")
        receive(run, chunk)

    monkeypatch.setattr(FakeRun, "receive", once)
    run = client.train("double", X, Y).wait()
    assert (run.version, run.id != broken[0], len(server.runs)) == (2, True, 2)
    assert server.runs[run.id].data["x", "x"].shape == X.shape
    keys = {one.spec.idempotency_key for one in server.runs.values()}
    assert [len(key) for key in keys] == [32]


@both_clients
def test_a_run_that_has_its_data_is_found_and_nothing_is_sent_again(client, server):
    server.hold_training()
    server.drop_stream(0)
    run = client.train("double", X, Y, epochs=2)
    server.release_training()
    assert run.wait().history == {"loss": [1.0, 0.5]}
    assert len(server.runs) == 1
    assert len(server.runs[run.id].chunk_sizes) == 2


def test_an_upload_is_not_sent_again_to_a_server_that_would_not_find_its_run(client, server, monkeypatch):
    monkeypatch.setattr(FakeServer, "_found", lambda self, key: None)
    describe = training_pb2.RunAccepted
    monkeypatch.setattr(fake_runs.training_pb2, "RunAccepted", lambda base, repeatable: describe(base=base))
    server.drop_stream(0)
    with pytest.raises(Unavailable):
        client.train("double", X, Y)
    assert len(server.runs) == 1


def test_a_key_finds_the_run_of_an_earlier_call(client, server):
    first = client.train("double", X, Y, idempotency_key="mine").wait()
    again = client.train("double", X, Y, idempotency_key="mine")
    assert (again.id, again.wait().version, len(server.runs)) == (first.id, 2, 1)
    assert client.train("double", X, Y).id != first.id
    with pytest.raises(InvalidArgument, match="idempotency_key: got 'a b', expected 1 to 128 letters"):
        client.train("double", X, Y, idempotency_key="a b")


def test_a_stream_that_ends_before_the_data_are_received_is_an_error(monkeypatch):
    monkeypatch.setattr(FakeServer, "Train", lambda *_: iter(()))
    with FakeServer() as server, Client(server.address) as client:
        server.add_model("double", dict, [TensorSpec("x", (None, 3), "float32")], [TensorSpec("y", (None,), "float32")])
        with pytest.raises(Unavailable, match="the server closed the stream before it received the training data"):
            client.train("double", X, Y)
