"""The training service through a real port, with a training process that needs no engine."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import signal
import socket
import time
from types import SimpleNamespace

import grpc
import pytest
from layerserve.v1 import training_pb2 as pb
from layerserve.values import tensors
from layerserve_server.repository.control import write_control
from layerserve_server.repository.publishing import version_numbers
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.run_folder import upload
from layerserve_server.training.runs.queue import RunQueue
from trainers import Trainer, X, kinds, messages, spec, wait_for


@pytest.fixture
def trainer(put, start, connect, tmp_path):
    put("double")
    app = start()
    return Trainer(app, connect(app), tmp_path)


def test_a_run_goes_from_accepted_to_finished_and_its_version_answers(trainer):
    events = trainer.train(spec("train it", epochs=2, publish_label="best"))
    # An epoch has two steps: a watcher who comes late gets the newest only.
    order = [kind for kind, _ in itertools.groupby(kinds(events))]
    assert order == ["accepted", "queued", "started", "step", "epoch", "step", "epoch", "finished"]
    accepted, finished = events[0].accepted, events[-1].finished
    assert (accepted.base.name, accepted.base.version, accepted.data_bytes) == ("double", 1, 96)
    assert (finished.published.name, finished.published.version) == ("double", 2)
    assert [(log.name, log.value) for log in finished.logs] == [("loss", 0.5)]
    assert trainer.offset() == (2, X.sum())
    newest = trainer.app.repository.catalogue.describe("double")[0]
    assert (newest.training_run, newest.labels) == (events[0].run_id, ("best",))


@pytest.mark.parametrize(
    ("pinned", "settings", "reason"),
    [
        (1, "", "version 1 is pinned, and stays the default until it is unpinned"),
        (None, "default_version = 1", "version 1 stays the default, as the model's settings name it"),
        (None, "", ""),
    ],
)
def test_a_version_that_is_kept_back_is_told_before_and_after_training(trainer, pinned, settings, reason):
    (trainer.model_folder / "layerserve.toml").write_text(settings)
    write_control(trainer.model_folder, pinned=pinned)
    trainer.app.repository.scan()
    events = trainer.train(spec())
    assert (events[0].accepted.kept_back, events[-1].finished.kept_back) == (reason, reason)
    run = trainer.run(events[0].run_id)
    assert (run.published.version, run.kept_back) == (2, reason)
    assert trainer.app.repository.catalogue.describe_one("double").version == (1 if reason else 2)
    events = trainer.train(spec(publish=False))
    assert (events[0].accepted.kept_back, events[-1].finished.kept_back) == ("", "")
    stub = trainer.stub
    run = stub.PublishRun(pb.PublishRunRequest(run_id=events[0].run_id), timeout=30).run
    assert (run.published.version, run.kept_back) == (3, reason)


def test_data_and_base_are_removed_when_the_run_has_ended(trainer):
    run_id = trainer.train(spec())[0].run_id
    left = os.listdir(trainer.runs_folder / run_id)
    assert {"data", "base", "result"}.isdisjoint(left)
    assert {"request.json", "events.jsonl", "outcome.json"} <= set(left)


def test_a_result_that_is_not_published_is_kept(trainer):
    run_id = trainer.train(spec(publish=False))[0].run_id
    assert (trainer.runs_folder / run_id / "result" / "model.keras").is_file()
    assert not (trainer.runs_folder / run_id / "data").exists()


def test_any_number_of_watchers_attach_from_anywhere(trainer):
    call, run_id = trainer.begin(spec("wait"))
    call.cancel()  # the run lives on
    trainer.go(run_id)
    events = trainer.watch(run_id)
    assert [kind for kind in kinds(events) if kind != "step"] == ["accepted", "queued", "started", "epoch", "finished"]
    assert kinds(trainer.watch(run_id)) == ["accepted", "queued", "started", "step", "epoch", "finished"]
    assert kinds(trainer.watch(run_id, events[-2].sequence)) == ["epoch", "finished"]
    assert trainer.watch(run_id, 1000) == []


def test_a_watcher_sees_a_last_event_that_comes_while_events_are_read(trainer, monkeypatch, wait_until):
    _, run_id = trainer.begin(spec("wait"))
    since = EventLog.since

    def read(self, sequence):
        new = since(self, sequence)
        if not new and not self.ended:
            trainer.go(run_id)
            wait_until(lambda: self.ended)
        return new

    monkeypatch.setattr(EventLog, "since", read)
    assert kinds(trainer.watch(run_id))[-1] == "finished"


def test_a_run_that_trains_can_be_cancelled(trainer):
    _, run_id = trainer.begin(spec("wait"))
    trainer.cancel(run_id)
    assert trainer.watch(run_id)[-1].cancelled.epoch == 1
    assert trainer.run(run_id).state == pb.RUN_STATE_CANCELLED
    assert trainer.offset() == (1, 0)
    assert trainer.cancel(run_id).state == pb.RUN_STATE_CANCELLED


def test_a_process_that_does_not_stop_is_killed(put, start, connect, tmp_path):
    put("double")
    app = start(cancel_grace_seconds=0.1)
    trainer = Trainer(app, connect(app), tmp_path)
    _, run_id = trainer.begin(spec("stubborn"))
    trainer.cancel(run_id)
    assert kinds(trainer.watch(run_id))[-1] == "cancelled"


def test_runs_wait_for_a_slot_and_too_many_are_refused(put, start, connect, tmp_path):
    put("double")
    app = start(max_queued_runs=2)
    trainer = Trainer(app, connect(app), tmp_path)
    _, first = trainer.begin(spec("wait"))
    second_call = trainer.stub.Train(messages(spec("train")), timeout=60)
    accepted, queued = next(second_call).event, next(second_call).event
    third_call = trainer.stub.Train(messages(spec("train")), timeout=60)
    third = next(third_call).event.run_id
    assert (queued.queued.ahead, next(third_call).event.queued.ahead) == (1, 2)
    with pytest.raises(grpc.RpcError) as caught:
        trainer.train(spec())
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "3 training runs are queued or running" in caught.value.details()
    listed = trainer.stub.ListRuns(pb.ListRunsRequest(), timeout=30).runs
    assert {run.id for run in listed} == {first, accepted.run_id, third}
    assert trainer.run(accepted.run_id).state == pb.RUN_STATE_QUEUED
    sample = app.metrics.registry.get_sample_value
    assert sample("layerserve_training_runs", {"state": "running"}) == 1
    assert sample("layerserve_training_runs", {"state": "queued"}) == 2
    trainer.go(first)
    for call in (second_call, third_call):
        assert kinds(response.event for response in call)[-1] == "finished"
    assert sample("layerserve_training_runs_ended_total", {"model": "double", "state": "finished"}) == 3


def test_urgent_runs_leave_the_queue_first(trainer):
    _, first = trainer.begin(spec("wait"))
    waiting = []
    for priority in (0, 5, 1):
        call = trainer.stub.Train(messages(spec("train", priority=priority)), timeout=60)
        queued = [next(call).event for _ in ("accepted", "queued")][-1]
        waiting.append((queued.run_id, queued.queued.ahead, call))
    assert [ahead for _, ahead, _ in waiting] == [1, 1, 2]
    trainer.go(first)
    for *_, call in waiting:
        list(call)
    runs = [trainer.run(run_id) for run_id, *_ in waiting]
    order = sorted(runs, key=lambda run: run.started_time.ToNanoseconds())
    assert [run.priority for run in order] == [5, 1, 0]


def test_a_run_that_waits_can_be_cancelled(trainer):
    _, first = trainer.begin(spec("wait"))
    call = trainer.stub.Train(messages(spec("train")), timeout=60)
    waiting = next(call).event.run_id
    next(call)
    trainer.cancel(waiting)
    assert kinds(response.event for response in call) == ["cancelled"]
    trainer.go(first)
    assert kinds(trainer.watch(first))[-1] == "finished"


@pytest.mark.parametrize(
    ("behaviour", "reason", "place"),
    [
        ("nan", "loss is nan in step 2 of epoch 1", (1, 2)),
        ("die", "ended by signal SIGKILL; the system may have run out of memory, for the second time", (1, 2)),
        ("exit", "the training process ended with status 3", (1, 0)),
        ("broken", "published as version 2, which can't be loaded", (0, 0)),
    ],
)
def test_a_run_that_fails_says_why_and_leaves_what_is_served(trainer, behaviour, reason, place):
    events = trainer.train(spec(behaviour))
    assert kinds(events)[-1] == "failed"
    failed = events[-1].failed
    assert reason in failed.reason
    assert (failed.epoch, failed.step) == place
    assert trainer.offset() == (1, 0)
    assert kinds(trainer.train(spec()))[-1] == "finished"


def bad_specs():
    f32 = tensors.dtype_enum("float32")
    x, y = pb.DATA_ROLE_X, pb.DATA_ROLE_Y
    good = pb.DataArray(role=x, dtype=f32, shape=[6, 2])
    nothing = pb.CompileSettings()
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    return {
        "rows": (spec(arrays=[good, pb.DataArray(role=y, dtype=f32, shape=[5, 2])]), invalid, "differ in rows"),
        "labels": (
            spec(arrays=[good, pb.DataArray(role=y, dtype=f32, shape=[6, 3])]),
            invalid,
            "y 'y': got shape (6, 3)",
        ),
        "role": (spec(arrays=[pb.DataArray(dtype=f32, shape=[6, 2])]), invalid, "got no role"),
        "dtype": (spec(arrays=[pb.DataArray(role=x, shape=[6, 2])]), invalid, "got no dtype"),
        "loss": (spec(compile=pb.CompileSettings(optimizer='"sgd"', loss='"msee"')), invalid, "did you mean 'mse'"),
        "json": (spec(compile=pb.CompileSettings(optimizer="sgd")), invalid, "optimizer: 'sgd' isn't valid JSON"),
        "deep json": (spec(compile=pb.CompileSettings(loss="[" * 10**5)), invalid, "is nested more than 64 deep"),
        "class_weight": (spec(class_weight="[1]"), invalid, "class_weight: expected an object"),
        "compile": (
            spec(compile=nothing),
            grpc.StatusCode.FAILED_PRECONDITION,
            "neither the request nor the model file has an optimizer and a loss; set both, such as 'adam' and 'mse'",
        ),
        "half compile": (
            spec(compile=pb.CompileSettings(loss='"mse"')),
            grpc.StatusCode.FAILED_PRECONDITION,
            "neither the request nor the model file has an optimizer; set one",
        ),
    }


@pytest.mark.parametrize("case", bad_specs())
def test_a_spec_that_does_not_fit_starts_no_run(trainer, case):
    train_spec, code, text = bad_specs()[case]
    with pytest.raises(grpc.RpcError) as caught:
        trainer.train(train_spec)
    assert caught.value.code() is code
    assert text in caught.value.details()
    assert list(trainer.stub.ListRuns(pb.ListRunsRequest(), timeout=30).runs) == []


def test_a_server_without_slots_does_not_train(put, start, connect, tmp_path):
    put("double")
    app = start(training_slots=0)
    with pytest.raises(grpc.RpcError) as caught:
        Trainer(app, connect(app), tmp_path).train(spec())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("stream", "code", "text"),
    [
        (lambda: messages(spec(), chunks=(0, 1, 0)), grpc.StatusCode.DATA_LOSS, "y 'y': the stream ended after 3 rows"),
        (lambda: messages(spec(), chunks=(0, 0, 0)), grpc.StatusCode.INVALID_ARGUMENT, "more than the 6 rows"),
        (lambda: messages(spec(), chunks=(2,)), grpc.StatusCode.INVALID_ARGUMENT, "got a chunk for array 2"),
        (lambda: [pb.TrainRequest(spec=spec())] * 2, grpc.StatusCode.INVALID_ARGUMENT, "must be a chunk"),
    ],
)
def test_data_that_does_not_come_as_declared_fails_the_call_and_the_run(trainer, stream, code, text):
    call = trainer.stub.Train(iter(stream()), timeout=60)
    run_id = next(call).event.run_id
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert caught.value.code() is code
    assert text in caught.value.details()
    run = trainer.run(run_id)
    assert run.state == pb.RUN_STATE_FAILED
    assert text in run.reason


def test_the_first_message_must_be_a_spec(trainer):
    for first in ([], [pb.TrainRequest(chunk=pb.DataChunk())]):
        with pytest.raises(grpc.RpcError) as caught:
            list(trainer.stub.Train(iter(first), timeout=30))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_client_that_goes_away_before_its_data_has_come_fails_its_run(trainer):
    def hang():
        yield pb.TrainRequest(spec=spec())
        time.sleep(30)

    call = trainer.stub.Train(hang(), timeout=60)
    run_id = next(call).event.run_id
    call.cancel()
    assert kinds(trainer.watch(run_id))[-1] == "failed"


@pytest.mark.parametrize("method", ["WatchRun", "GetRun", "CancelRun", "ResumeRun", "DeleteRun"])
@pytest.mark.parametrize("run_id", ["", "../x", "20261125-1302-ab12cd34"])
def test_a_run_that_is_not_there_is_not_found(trainer, method, run_id):
    request = getattr(pb, method + "Request")(run_id=run_id)
    call = getattr(trainer.stub, method)
    with pytest.raises(grpc.RpcError) as caught:
        next(call(request, timeout=30)) if method == "WatchRun" else call(request, timeout=30)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert dict(caught.value.trailing_metadata())["layerserve-reason"] == "run_not_found"


# What goes on after an interruption.


@pytest.fixture
def killed(trainer):
    """A run whose process was killed in its second step, and again when it was resumed."""
    return trainer.train(spec("die"))[0].run_id


def test_a_run_whose_process_was_killed_can_be_resumed(trainer, killed):
    run = trainer.run(killed)
    assert (run.state, run.resumable, run.resumed) == (pb.RUN_STATE_FAILED, True, 1)
    (trainer.runs_folder / killed / "go").touch()
    run = trainer.resume(killed)
    assert run.state in (pb.RUN_STATE_QUEUED, pb.RUN_STATE_RUNNING)
    events = trainer.watch(killed)
    assert [kind for kind in kinds(events) if kind != "step"] == [
        *("accepted", "queued", "started", "log", "queued", "resumed", "started", "log"),
        *("queued", "resumed", "started", "epoch", "finished"),
    ]
    said = [event.log.text for event in events if event.HasField("log")]
    death = "interrupted: the training process was ended by signal SIGKILL; the system may have run out of memory"
    assert said == [f"{death}; the run is resumed once", f"{death}, for the second time"]
    assert [event.sequence for event in events] == sorted({event.sequence for event in events})
    run = trainer.run(killed)
    assert (run.state, run.resumable, run.resumed, run.published.version) == (pb.RUN_STATE_FINISHED, False, 2, 2)
    # Of all parts, while the process knows only of its own, for which it said 0.1.
    assert trainer.run_here(killed).seconds <= events[-1].finished.seconds != 0.1
    assert trainer.offset() == (2, X.sum())


@pytest.mark.parametrize("behaviour", ["die-once", "lose-once"])
def test_a_run_whose_process_or_worker_is_killed_goes_on_by_itself(trainer, behaviour):
    events = trainer.train(spec(behaviour))
    assert [kind for kind in kinds(events) if kind != "step"] == [
        *("accepted", "queued", "started", "log", "queued", "resumed", "started", "epoch", "finished"),
    ]
    run = trainer.run(events[0].run_id)
    assert (run.state, run.resumed, run.published.version) == (pb.RUN_STATE_FINISHED, 1, 2)


def test_where_the_policy_says_so_a_killed_run_waits_for_a_call(put, start, connect, tmp_path):
    put("double")
    app = start(training_resume="manual")
    trainer = Trainer(app, connect(app), tmp_path)
    run = trainer.run(trainer.train(spec("die-once"))[0].run_id)
    assert (run.state, run.resumable, run.resumed) == (pb.RUN_STATE_FAILED, True, 0)
    assert run.reason.endswith("SIGKILL; the system may have run out of memory")


def test_a_killed_run_that_can_not_be_queued_again_can_be_resumed_later(trainer, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunQueue, "add_again", full)
    run = trainer.run(trainer.train(spec("die-once"))[0].run_id)
    assert (run.state, run.resumable) == (pb.RUN_STATE_FAILED, True)
    assert run.reason.endswith("; the run can't be resumed: No space left on device")
    monkeypatch.undo()
    trainer.resume(run.id)
    assert kinds(trainer.watch(run.id))[-1] == "finished"


def test_a_run_whose_time_is_spent_ends_early_with_its_result(trainer):
    """As after a call: `wait` goes on to the next epoch only once it is to stop."""
    events = trainer.train(spec("wait", budget=pb.Budget(seconds=0.2)))
    assert kinds(events)[-1] == "finished"
    run = trainer.run(events[0].run_id)
    assert (run.stopped, run.reason) == (True, "its budget of 0.2 seconds is spent")
    assert (run.state, run.published.version) == (pb.RUN_STATE_FINISHED, 2)


def test_a_resumed_run_ends_by_what_happens_to_it_then(trainer, wait_until):
    """Not by what its process said when it was told to stop."""
    _, run_id = trainer.begin(spec("wait"))
    run = trainer.run_here(run_id)
    os.kill(run.process.pid, signal.SIGTERM)
    assert "stopped by a signal that the server didn't send" in trainer.watch(run_id)[-1].failed.reason
    assert trainer.run(run_id).resumable
    trainer.resume(run_id)
    for resumed in (1, 2):
        assert wait_for(trainer.watching(run_id), "resumed", resumed)
        assert wait_for(trainer.watching(run_id), "started", resumed + 1)
        os.kill(run.process.pid, signal.SIGKILL)
    failed = trainer.watch(run_id)[-1].failed
    assert ("SIGKILL" in failed.reason, failed.resumable) == (True, True)


def test_only_a_run_that_was_interrupted_can_be_resumed(trainer):
    for behaviour, code in (("train", "finished"), ("nan", "failed"), ("exit", "failed")):
        run_id = trainer.train(spec(behaviour))[0].run_id
        assert not trainer.run(run_id).resumable
        with pytest.raises(grpc.RpcError, match=f"wasn't interrupted.*{code}") as caught:
            trainer.resume(run_id)
        assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_resuming_a_run_that_is_under_way_does_nothing(trainer):
    _, run_id = trainer.begin(spec("wait"))
    assert trainer.resume(run_id).state == pb.RUN_STATE_RUNNING
    trainer.go(run_id)
    assert "resumed" not in kinds(trainer.watch(run_id))


@pytest.fixture
def interrupted(put, start, connect, tmp_path):
    """A server that was stopped, and its runs: one that trained, and one that waited."""
    put("double")
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    _, training = trainer.begin(spec("wait"))
    call = trainer.stub.Train(messages(spec("train")), timeout=60)
    waiting = [next(call).event for _ in ("accepted", "queued")][-1].run_id
    app.stop()
    trainer.go(training)
    return app, training, waiting


def test_runs_that_a_stop_interrupted_go_on_at_the_next_start(interrupted, start, connect, tmp_path):
    app, training, waiting = interrupted
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    for run_id in (training, waiting):
        assert kinds(trainer.watch(run_id))[-1] == "finished"
    assert trainer.run(training).resumed == 1


def test_a_run_that_gets_no_further_is_not_resumed_for_ever(put, start, connect, tmp_path):
    put("double")
    for attempt in range(5):
        app = start()
        trainer = Trainer(app, connect(app), tmp_path)
        if not attempt:
            _, run_id = trainer.begin(spec("wait"))
        elif attempt < 4:
            assert wait_for(trainer.watching(run_id), "resumed", attempt)
        app.stop()
    run = trainer.run_here(run_id)
    assert (run.resumed, run.resumable) == (3, True)
    assert "3 times without progress" in run.log.last.reason


# Deleting.


def test_a_run_that_has_ended_can_be_deleted(trainer, killed):
    trainer.delete(killed)
    assert not (trainer.runs_folder / killed).exists()
    with pytest.raises(grpc.RpcError) as caught:
        trainer.run(killed)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_run_that_is_under_way_is_not_deleted(trainer):
    _, run_id = trainer.begin(spec("wait"))
    with pytest.raises(grpc.RpcError, match="cancel it first") as caught:
        trainer.delete(run_id)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    trainer.go(run_id)
    assert kinds(trainer.watch(run_id))[-1] == "finished"
    assert trainer.offset() == (2, X.sum())


# Evaluating.


def evaluation(**fields):
    train_spec = spec(**fields)
    settings = pb.CompileSettings(loss='"mse"')
    yield pb.EvaluateRequest(
        spec=pb.EvaluateSpec(
            model=train_spec.model, data=train_spec.data, description=train_spec.description, compile=settings
        )
    )
    for index in (0, 1):
        yield pb.EvaluateRequest(chunk=pb.DataChunk(array=index, data=X.tobytes()))


def test_an_evaluation_is_a_run_that_publishes_nothing(trainer):
    events = [response.event for response in trainer.stub.Evaluate(evaluation(), timeout=60)]
    assert kinds(events)[-1] == "finished"
    assert not events[-1].finished.HasField("published")
    assert trainer.run(events[0].run_id).kind == pb.RUN_KIND_EVALUATION
    assert version_numbers(trainer.model_folder) == [1]


def test_an_evaluation_whose_process_is_killed_begins_again(trainer):
    events = [response.event for response in trainer.stub.Evaluate(evaluation(behaviour="die-once"), timeout=60)]
    assert kinds(events)[-1] == "finished"
    assert [kind for kind in kinds(events) if kind in ("log", "queued")] == ["queued", "log", "queued"]


def test_evaluations_wait_for_one_another(put, start, connect, tmp_path):
    """They have one slot, however many there are for training."""
    put("double")
    app = start(training_slots=3)
    trainer = Trainer(app, connect(app), tmp_path)
    first = trainer.stub.Evaluate(evaluation(behaviour="wait"), timeout=60)
    run_id = next(response.event.run_id for response in first if response.event.HasField("step"))
    second = trainer.stub.Evaluate(evaluation(), timeout=60)
    assert [next(second).event for _ in ("accepted", "queued")][-1].queued.ahead == 1
    trainer.go(run_id)
    assert kinds(response.event for response in second)[-1] == "finished"


def test_an_evaluation_does_not_wait_for_training(trainer):
    _, training = trainer.begin(spec("wait"))
    events = [response.event for response in trainer.stub.Evaluate(evaluation(), timeout=60)]
    assert kinds(events)[-1] == "finished"
    trainer.go(training)
    assert kinds(trainer.watch(training))[-1] == "finished"


# What was sent is what came.


@pytest.mark.parametrize("damaged", [False, True])
def test_data_is_compared_with_its_digest(trainer, damaged):
    def stream():
        yield from messages(spec())
        sent = X.tobytes()
        yield pb.TrainRequest(digest=pb.DataDigest(array=0, sha256=hashlib.sha256(sent[damaged:]).digest()))

    call = trainer.stub.Train(stream(), timeout=60)
    run_id = next(call).event.run_id
    if not damaged:
        assert kinds(response.event for response in call)[-1] == "finished"
        return
    with pytest.raises(grpc.RpcError, match="x 'x': got data with sha256") as caught:
        list(call)
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    assert trainer.run(run_id).state == pb.RUN_STATE_FAILED


# Across servers.


def test_runs_are_found_again_after_a_restart(put, start, connect, tmp_path):
    put("double")
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    finished = trainer.train(spec())
    app.stop()
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    assert trainer.watch(finished[0].run_id)[-1] == finished[-1]
    assert [one.id for one in trainer.stub.ListRuns(pb.ListRunsRequest(), timeout=30).runs][-1] == finished[0].run_id


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("request.json", {"description": 5}),
        ("request.json", {"model": None}),
        ("events.jsonl", {"time": 1e300}),
        ("events.jsonl", {"version": "1"}),
    ],
)
def test_a_run_with_damaged_files_hides_no_other(put, start, connect, tmp_path, caplog, file, damage):
    put("double")
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    whole, damaged = (trainer.train(spec())[0].run_id for _ in range(2))
    app.stop()
    path = app.runs.table.folder / damaged / file
    first, *others = path.read_text().splitlines() if file.endswith("l") else [path.read_text()]
    path.write_text("\n".join([json.dumps({**json.loads(first), **damage}), *others]) + "\n")
    app = start()
    assert [run_id for run_id, _ in listed(Trainer(app, connect(app), tmp_path))] == [whole]
    assert f"can't read a run from its folder: {next(iter(damage))}: got" in caplog.text


def test_a_run_that_cannot_go_on_ends_neither_the_start_nor_other_runs(interrupted, start, connect, tmp_path, caplog):
    app, training, waiting = interrupted
    outcome = app.runs.table.folder / training / "outcome.json"
    outcome.unlink(missing_ok=True)
    outcome.mkdir()
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    assert kinds(trainer.watch(waiting))[-1] == "finished"
    assert "the files of the run are damaged" in trainer.run(training).reason
    assert "can't go on with a run" in caplog.text


def abandon_server(app):
    """What a kill -9 of the server leaves: its locks are free, its training processes live."""
    for run in app.runs.table.list():
        run.disown()
        held = run.process
        run.process = SimpleNamespace(wait=held.wait, pid=held.pid, signal=lambda number: None, survives_stop=False)
    app.runs._endings.conclude = lambda run: None


def test_a_run_whose_process_lives_is_taken_over_and_published(put, start, connect, tmp_path):
    put("double")
    old = start()
    trainer = Trainer(old, connect(old), tmp_path)
    _, run_id = trainer.begin(spec("wait"))
    abandon_server(old)
    app = start()
    trainer = Trainer(app, connect(app), tmp_path)
    assert trainer.run(run_id).state == pb.RUN_STATE_RUNNING
    trainer.go(run_id)
    assert kinds(trainer.watch(run_id))[-1] == "finished"
    assert trainer.offset() == (2, X.sum())


def test_while_a_server_starts_nothing_is_said_of_runs_that_it_has_not_found(
    put, start, make_server, connect, tmp_path, load_fake, starting, hold
):
    put("double")
    app = start()
    run_id = Trainer(app, connect(app), tmp_path).train(spec())[0].run_id
    app.stop()
    load = hold(load_fake)
    app = make_server(load=load)
    with starting(app, load) as finish:
        trainer = Trainer(app, connect(app), tmp_path)
        for ask in (
            lambda: trainer.stub.ListRuns(pb.ListRunsRequest(), timeout=30),
            lambda: trainer.run(run_id),
            lambda: trainer.run("20260101-0000-00000000"),
            lambda: trainer.watch(run_id),
            lambda: trainer.delete(run_id),
            lambda: trainer.train(spec()),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        finish()
        assert [one.id for one in trainer.stub.ListRuns(pb.ListRunsRequest(), timeout=30).runs] == [run_id]


# Two servers on one repository.


@pytest.fixture
def two(put, start, connect, tmp_path):
    """A server, and another one on the same repository."""
    put("double")
    return [Trainer(app, connect(app), tmp_path) for app in (start(), start())]


def listed(trainer):
    return [(run.id, run.owner) for run in trainer.stub.ListRuns(pb.ListRunsRequest(), timeout=30).runs]


def refusal(ask, *arguments):
    with pytest.raises(grpc.RpcError) as caught:
        ask(*arguments)
    reason = dict(caught.value.trailing_metadata())["layerserve-reason"]
    return caught.value.code(), reason, caught.value.details()


def test_a_run_of_another_server_is_listed_with_its_owner_and_is_for_that_one_to_answer(two):
    one, other = two
    _, run_id = one.begin(spec("wait"))
    owner = f"host {socket.gethostname()}, process {os.getpid()}"
    other.app.runs.table.scan()
    assert listed(one) == [(run_id, "")]
    assert listed(other) == [(run_id, owner)]
    assert other.stub.ListRuns(pb.ListRunsRequest(model_name="triple"), timeout=30).runs == []
    for ask in (other.run, other.watch, other.cancel, other.resume, other.delete):
        code, reason, text = refusal(ask, run_id)
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "run_elsewhere")
        assert text == f"run '{run_id}' is owned by another server on this repository: {owner}"
    one.go(run_id)
    assert kinds(one.watch(run_id))[-1] == "finished"


def test_a_run_is_known_to_another_server_as_soon_as_it_is_asked_for(two):
    one, other = two
    _, run_id = one.begin(spec("wait"))
    assert refusal(other.run, run_id)[1] == "run_elsewhere"
    one.go(run_id)
    last = one.watch(run_id)[-1]
    assert other.watch(run_id)[-1] == last
    assert listed(other) == listed(one) == [(run_id, "")]
    one.delete(run_id)
    other.app.runs.table.scan()
    assert refusal(other.run, run_id)[1] == "run_not_found"


def test_the_run_of_a_server_that_is_gone_is_taken_over(two):
    gone, other = two
    _, run_id = gone.begin(spec("wait"))
    other.app.runs.table.scan()
    abandon_server(gone.app)
    other.app.runs.table.scan()
    assert listed(other) == [(run_id, "")]
    other.go(run_id)
    assert kinds(other.watch(run_id))[-1] == "finished"
    other.app.repository.scan()
    assert other.offset() == (2, X.sum())


def test_a_run_that_another_server_has_resumed_is_not_removed(two, wait_until):
    one, other = two
    _, run_id = one.begin(spec("wait"))
    one.app.runs.table.get(run_id).process.signal(signal.SIGTERM)
    assert kinds(one.watch(run_id))[-1] == "failed"
    assert other.run(run_id).resumable
    one.resume(run_id)
    assert refusal(other.delete, run_id)[1] == "run_elsewhere"
    other.app.runs.table.scan()
    assert refusal(other.run, run_id)[1] == "run_elsewhere"
    one.go(run_id)
    assert kinds(one.watch(run_id))[-1] == "finished"
    assert kinds(other.watch(run_id))[-1] == "finished"


def test_a_deleted_run_whose_folder_is_a_link_stays_deleted(trainer, tmp_path):
    run_id = trainer.train(spec())[0].run_id
    folder, elsewhere = trainer.app.runs.table.get(run_id).folder, tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.symlink_to(elsewhere)
    trainer.delete(run_id)
    trainer.app.runs.table.scan()
    assert refusal(trainer.run, run_id)[1] == "run_not_found"
    assert any(elsewhere.iterdir()), "what a link leads to isn't the server's"


def test_only_so_many_ended_runs_are_kept(put, start, connect, tmp_path, wait_until):
    put("double")
    app = start(max_kept_runs=2)
    trainer = Trainer(app, connect(app), tmp_path)
    ids = [trainer.train(spec(publish=False))[0].run_id for _ in range(3)]
    wait_until(lambda: sorted(os.listdir(trainer.runs_folder)) == sorted(ids[1:]))


def test_a_run_that_is_cancelled_before_its_data_come_is_cancelled(trainer, monkeypatch):
    """Its folder for data is removed in that moment."""
    named = upload.array_file

    def cancelled_first(folder, index):
        trainer.app.runs.steering.cancel(folder.name)
        return named(folder, index)

    monkeypatch.setattr(upload, "array_file", cancelled_first)
    events = trainer.train(spec())
    assert kinds(events)[-1] == "cancelled"
