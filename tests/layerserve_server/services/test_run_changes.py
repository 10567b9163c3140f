"""Runs that pause, end early, change, are found by a key, and meet newer versions, through a real port."""

from __future__ import annotations

import errno
import json
import os
import threading
from unittest.mock import Mock

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from layerserve.v1 import management_pb2, management_pb2_grpc
from layerserve.v1 import training_pb2 as pb
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.run_folder import control
from layerserve_server.training.runs import ending
from tokens import bearer, write_tokens
from trainers import Trainer, X, kinds, messages, spec

PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION


class Changer(Trainer):
    """Calls that change runs."""

    def call(self, method, run_id, **fields):
        request = getattr(pb, f"{method}Request")(run_id=run_id, **fields)
        return getattr(self.stub, method)(request, timeout=30).run

    def pause(self, run_id):
        return self.call("PauseRun", run_id)

    def stop(self, run_id):
        return self.call("StopRun", run_id)

    def events_until(self, run_id, kind):
        """The kinds of a run's events up to the first of a kind."""
        found = []
        for event in self.watching(run_id):
            found.append(event.WhichOneof("kind"))
            if found[-1] == kind:
                return found
        raise AssertionError(found)

    def queue(self, behaviour="train", **fields):
        """Queues a run and gives its id."""
        call = self.stub.Train(messages(spec(behaviour, **fields)), timeout=60)
        return [next(call).event for _ in ("accepted", "queued")][-1].run_id

    def listed(self, **fields):
        return self.stub.ListRuns(pb.ListRunsRequest(**fields), timeout=30)


@pytest.fixture
def trainer(put, start, connect, tmp_path):
    put("double")
    app = start(max_queued_runs=2)
    return Changer(app, connect(app), tmp_path)


def refused(ask, *arguments, **fields):
    with pytest.raises(grpc.RpcError) as caught:
        ask(*arguments, **fields)
    return caught.value.code(), caught.value.details()


# Pausing.


def test_a_run_that_trains_pauses_frees_its_slot_and_goes_on(trainer):
    _, run_id = trainer.begin(spec("wait"))
    trainer.pause(run_id)
    assert trainer.events_until(run_id, "paused") == ["accepted", "queued", "started", "step", "paused"]
    paused = trainer.run(run_id)
    assert (paused.state, paused.reason, paused.steps_done) == (pb.RUN_STATE_PAUSED, "", 1)
    assert trainer.pause(run_id).state == pb.RUN_STATE_PAUSED
    sample = trainer.app.metrics.registry.get_sample_value
    assert [sample("layerserve_training_runs", {"state": state}) for state in ("paused", "running")] == [1, 0]
    # The only slot is free.
    assert kinds(trainer.train(spec()))[-1] == "finished"
    assert refused(trainer.delete, run_id)[0] is PRECONDITION
    assert trainer.resume(run_id).state == pb.RUN_STATE_QUEUED
    trainer.go(run_id)
    # The pause isn't the end of the events.
    assert kinds(trainer.watch(run_id))[-4:] == ["started", "step", "epoch", "finished"]
    assert trainer.run(run_id).published.version == 3


def test_a_run_that_waits_leaves_the_queue_and_comes_back(trainer):
    _, first = trainer.begin(spec("wait"))
    waiting, other = trainer.queue(), trainer.queue()
    assert trainer.pause(waiting).state == pb.RUN_STATE_PAUSED
    trainer.go(first)
    assert kinds(trainer.watch(other))[-1] == "finished"
    assert trainer.run(waiting).state == pb.RUN_STATE_PAUSED
    trainer.resume(waiting)
    assert kinds(trainer.watch(waiting))[-1] == "finished"


def test_a_run_that_receives_data_pauses_when_all_has_come(trainer):
    go = threading.Event()

    def slowly():
        one, *rest = messages(spec())
        yield one
        assert go.wait(30)
        yield from rest

    call = trainer.stub.Train(slowly(), timeout=60)
    run_id = next(call).event.run_id
    assert trainer.pause(run_id).state == pb.RUN_STATE_QUEUED
    go.set()
    assert kinds([next(call).event]) == ["paused"]
    trainer.resume(run_id)
    assert kinds(response.event for response in call)[-1] == "finished"


def test_a_paused_run_stays_paused_when_the_server_restarts(trainer, start, connect, tmp_path):
    _, run_id = trainer.begin(spec("wait"))
    _ = trainer.pause(run_id), trainer.events_until(run_id, "paused")
    # The slot is free now: a run that doesn't wait may end before it is paused.
    other = trainer.queue("wait")
    trainer.pause(other)
    trainer.app.stop()
    app = start()
    trainer = Changer(app, connect(app), tmp_path)
    assert {one.id: one.state for one in trainer.listed().runs} == dict.fromkeys((run_id, other), pb.RUN_STATE_PAUSED)
    trainer.resume(run_id)
    trainer.go(run_id)
    assert kinds(trainer.watch(run_id))[-1] == "finished"
    assert trainer.cancel(other).state == pb.RUN_STATE_CANCELLED


def test_what_can_not_pause_or_stop_is_told_why(trainer):
    finished = trainer.train(spec())[0].run_id
    assert refused(trainer.pause, finished) == (
        PRECONDITION,
        f"run '{finished}' can't be paused: it has ended, its state is finished",
    )
    assert trainer.stop(finished).state == pb.RUN_STATE_FINISHED
    evaluation = pb.EvaluateSpec(model=spec().model, data=spec().data, compile=spec().compile, description="wait")
    requests = [pb.EvaluateRequest(spec=evaluation)]
    requests += [pb.EvaluateRequest(chunk=pb.DataChunk(array=index, data=X.tobytes())) for index in (0, 1)]
    call = trainer.stub.Evaluate(iter(requests), timeout=60)
    run_id = next(call).event.run_id
    for ask in (trainer.pause, trainer.stop):
        code, text = refused(ask, run_id)
        assert (code, "is of kind evaluation, which can't be" in text) == (PRECONDITION, True)
    trainer.cancel(run_id)


def test_no_more_runs_are_paused_than_may_wait(trainer):
    waiting = []
    trainer.begin(spec("wait"))
    for _ in range(3):  # one slot, and two that may wait
        waiting.append(trainer.queue())
        trainer.pause(waiting[-1])
    code, text = refused(trainer.pause, trainer.queue())
    assert (code, text) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "3 training runs are paused, the maximum; resume or cancel one",
    )


@pytest.mark.parametrize("behaviour", ["full", "fuller"])
def test_a_full_disk_pauses_a_run_with_its_reason(trainer, behaviour):
    call = trainer.stub.Train(messages(spec(behaviour)), timeout=60)
    *_, paused = [next(call).event for _ in ("accepted", "queued", "started", "step", "paused")]
    reason = "there is no space left on the server's disk; resume the run when there is"
    assert paused.paused.reason == reason
    run = trainer.run(paused.run_id)
    assert (run.state, run.reason, run.resumable) == (pb.RUN_STATE_PAUSED, reason, False)
    trainer.go(paused.run_id)
    trainer.resume(paused.run_id)
    assert kinds(response.event for response in call)[-1] == "finished"


# Ending early.


def test_a_run_ends_early_and_is_published(trainer):
    _, run_id = trainer.begin(spec("wait"))
    assert trainer.stop(run_id).stopped
    assert kinds(trainer.watch(run_id))[-1] == "finished"
    assert trainer.run(run_id).published.version == 2


def test_a_paused_run_ends_with_its_checkpoint_and_one_that_has_none_is_cancelled(trainer):
    _, run_id = trainer.begin(spec("wait"))
    waiting = trainer.queue()
    assert trainer.stop(waiting).state == pb.RUN_STATE_CANCELLED
    _ = trainer.pause(run_id), trainer.events_until(run_id, "paused")
    assert trainer.stop(run_id).state in (pb.RUN_STATE_QUEUED, pb.RUN_STATE_RUNNING)
    assert kinds(trainer.watch(run_id))[-1] == "finished"
    assert trainer.run(run_id).published.version == 2


# What is known of runs, and lists of them.


def test_priority_description_and_metadata_change(trainer, start, connect, tmp_path):
    _, first = trainer.begin(spec("wait"))
    low, high = trainer.queue(metadata={"a": "1", "b": "2"}), trainer.queue(priority=3)
    changed = trainer.call("UpdateRun", low, priority=5, metadata={"c": "3"}, remove_metadata=["a", "z"])
    assert (changed.priority, dict(changed.metadata), changed.description) == (5, {"b": "2", "c": "3"}, "train")
    trainer.go(first)
    for run_id in (low, high):
        assert kinds(trainer.watch(run_id))[-1] == "finished"
    runs = [trainer.run(run_id) for run_id in (low, high)]
    assert runs[0].started_time.ToNanoseconds() < runs[1].started_time.ToNanoseconds()
    assert trainer.call("UpdateRun", low, description="later").description == "later"
    assert refused(trainer.call, "UpdateRun", low, priority=1) == (
        PRECONDITION,
        f"run '{low}' has ended: its priority can't be changed",
    )
    trainer.app.stop()
    app = start()
    kept = Changer(app, connect(app), tmp_path).run(low)
    assert (kept.priority, dict(kept.metadata), kept.description) == (5, {"b": "2", "c": "3"}, "later")


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ({f"k{index}": "" for index in range(33)}, "metadata: got 33 keys"),
        ({"k" * 65: ""}, "metadata: got key 'kkk"),
        ({"k": "v" * 513}, "metadata: got key 'k' with 513 characters"),
        ({"a b": ""}, "metadata: got key 'a b'"),
        ({"": ""}, "metadata: got key ''"),
    ],
)
def test_metadata_has_limits(trainer, metadata, text):
    code, got = refused(trainer.train, spec(metadata=metadata))
    assert (code, text in got) == (grpc.StatusCode.INVALID_ARGUMENT, True), got


def test_lists_are_filtered_and_come_in_pages_that_new_runs_do_not_move(put, start, connect, tmp_path):
    put("double")
    app = start(max_queued_runs=9)
    trainer = Changer(app, connect(app), tmp_path)
    trainer.begin(spec("wait", publish=False))
    blocking = trainer.listed().runs[0].id
    ids = [trainer.queue(metadata={"n": str(n), "odd": str(n % 2)}) for n in range(4)]
    ids.insert(0, blocking)
    newest = ids[::-1]
    first = trainer.listed(page_size=3)
    assert [run.id for run in first.runs] == newest[:3]
    ids.append(trainer.queue())
    trainer.cancel(ids[-1])
    second = trainer.listed(page_size=3, page_token=first.next_page_token)
    assert ([run.id for run in second.runs], second.next_page_token) == (newest[3:], "")
    oldest = trainer.listed(oldest_first=True, page_size=2)
    assert [run.id for run in oldest.runs] == ids[:2]
    later = trainer.listed(oldest_first=True, page_size=2, page_token=oldest.next_page_token)
    assert [run.id for run in later.runs] == ids[2:4]
    assert [run.id for run in trainer.listed(metadata={"odd": "1"}).runs] == [ids[4], ids[2]]
    assert [run.id for run in trainer.listed(metadata={"odd": "1", "n": "2"}).runs] == []
    asked = [pb.RUN_STATE_CANCELLED, pb.RUN_STATE_RUNNING]
    assert [run.id for run in trainer.listed(states=asked).runs] == [ids[5], blocking]
    assert len(trainer.listed(kind=pb.RUN_KIND_TRAINING, model_name="double").runs) == 6
    for kind in (pb.RUN_KIND_EVALUATION, pb.RUN_KIND_ONLINE):
        assert not trainer.listed(kind=kind).runs
    middle = trainer.run(ids[2]).created_time
    assert [run.id for run in trainer.listed(created_after=middle).runs] == ids[:1:-1]
    assert [run.id for run in trainer.listed(created_before=middle).runs] == ids[1::-1]
    for fields, text in (
        ({"page_size": -1}, "page_size: got -1, expected 0 or more"),
        ({"page_token": "x" * 200}, "page_token: got 'xxx"),
        ({"states": [77]}, "states: got 77"),
        ({"kind": 77}, "kind: got 77, expected a kind of runs"),
        ({"created_after": Timestamp(nanos=-1)}, "created_after: got 0 seconds and -1 nanoseconds, expected a time"),
        ({"created_before": Timestamp(seconds=2**62)}, f"created_before: got {2**62} seconds"),
    ):
        code, got = refused(trainer.listed, **fields)
        assert (code, text in got) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_a_run_has_the_name_of_its_caller_and_counts_for_its_quota_while_it_is_paused(put, start, connect, tmp_path):
    put("double")
    tokens = {"one": "rights = ['train', 'read']\nmax_runs = 1", "two": "rights = ['train', 'read']"}
    app = start(tokens=write_tokens(tmp_path / "tokens.toml", tokens))
    trainer = Changer(app, connect(app), tmp_path)
    stub = trainer.stub
    one, two = {"metadata": bearer("one"), "timeout": 60}, {"metadata": bearer("two"), "timeout": 60}
    call = stub.Train(messages(spec("wait", idempotency_key="k")), **one)
    run_id = next(response.event.run_id for response in call if response.event.HasField("step"))
    stub.PauseRun(pb.PauseRunRequest(run_id=run_id), **one)
    assert any(response.event.HasField("paused") for response in call)
    code, text = refused(lambda: list(stub.Train(messages(spec()), **one)))
    assert (code, "1 queued and running runs" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    # The run itself isn't one too many, neither when it goes on nor for a call that finds it.
    assert next(stub.Train(messages(spec("wait", idempotency_key="k")), **one)).event.accepted.found
    assert stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id), **one).run.caller == "one"
    # Nor is it forgotten by the server.
    trainer.app.stop()
    app = start(tokens=tmp_path / "tokens.toml")
    stub = Changer(app, connect(app), tmp_path).stub
    code, text = refused(lambda: list(stub.Train(messages(spec()), **one)))
    assert (code, "1 queued and running runs" in text) == (grpc.StatusCode.RESOURCE_EXHAUSTED, True)
    # Keys are each caller's own.
    other = next(stub.Train(messages(spec("exit", idempotency_key="k")), **two)).event
    assert not other.accepted.found
    for caller, expected in (("one", run_id), ("two", other.run_id)):
        runs = stub.ListRuns(pb.ListRunsRequest(caller=caller), **two).runs
        assert [run.id for run in runs] == [expected]
    assert refused(lambda: stub.CancelRun(pb.CancelRunRequest(run_id=run_id), **two)) == (
        grpc.StatusCode.PERMISSION_DENIED,
        f"training run '{run_id}': it belongs to another caller",
    )
    stub.CancelRun(pb.CancelRunRequest(run_id=run_id), **one)


# Idempotency keys.


def test_a_repeated_call_finds_its_run_also_after_a_restart(trainer, start, connect, tmp_path):
    keyed = spec("wait", idempotency_key="one")
    _, run_id = trainer.begin(keyed)
    again = trainer.stub.Train(messages(keyed), timeout=60)
    accepted = next(again).event
    assert (accepted.run_id, accepted.accepted.found, accepted.accepted.repeatable) == (run_id, True, True)
    trainer.go(run_id)
    assert kinds(response.event for response in again)[-1] == "finished"
    code, text = refused(trainer.train, spec("wait", idempotency_key="one", epochs=2, priority=1))
    assert code is PRECONDITION
    assert text == (
        f"idempotency_key: got 'one', the key of run '{run_id}', with another request; it differs in epochs, priority"
    )
    trainer.app.stop()
    app = start()
    trainer = Changer(app, connect(app), tmp_path)
    found = trainer.train(keyed)
    assert (found[0].run_id, kinds(found)[-1]) == (run_id, "finished")
    assert len(trainer.listed().runs) == 1
    assert trainer.run(run_id).idempotency_key == "one"


def test_a_key_does_not_lead_to_a_run_that_its_caller_may_not_see_any_more(put, start, connect, tmp_path):
    """Not by way of another model either, if the spec of the first call is lost."""
    for name in ("double", "other"):
        put(name)
    app = start(tokens=write_tokens(tmp_path / "tokens.toml", {"ann": 'rights = ["train"]'}))
    stub = Changer(app, connect(app), tmp_path).stub

    def train(model):
        asked = spec(idempotency_key="k")
        asked.model.name = model
        accepted, *_ = stub.Train(messages(asked), metadata=bearer("ann"), timeout=60)
        return accepted.event

    first = train("double")
    assert train("double").run_id == first.run_id
    (tmp_path / "models" / "double" / "layerserve.toml").write_text('callers = ["bob"]')
    app.repository.scan()
    (app.runs.table.folder / first.run_id / "spec.pb").unlink()
    again = train("other")
    assert (again.run_id != first.run_id, again.accepted.found, again.accepted.base.name) == (True, False, "other")


def test_a_spec_that_the_disk_has_no_room_for_is_not_kept_by_half(trainer, monkeypatch):
    fdopen = os.fdopen

    def full(handle, mode):
        file = fdopen(handle, mode)
        if "spec.pb" in os.readlink(f"/proc/self/fd/{handle}"):
            file.write(b"half")
            file.flush()
            file.write = Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
        return file

    keyed = spec(idempotency_key="full")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdopen", full)
        first = trainer.train(keyed)
    assert not list(trainer.app.runs.table.folder.glob("*/*spec.pb*"))
    assert trainer.train(keyed)[0].run_id == first[0].run_id


def test_a_run_whose_data_did_not_come_is_begun_anew(trainer, wait_until):
    keyed, gone = spec(idempotency_key="half"), threading.Event()

    def half():
        yield next(messages(keyed))
        assert gone.wait(30)

    call = trainer.stub.Train(half(), timeout=60)
    first = next(call).event.run_id
    # The first call is still there, for what the server knows.
    events = trainer.train(keyed)
    assert not events[0].accepted.found
    assert (kinds(events)[-1], events[0].run_id != first) == ("finished", True)
    failed = trainer.run(first)
    assert (failed.state, failed.reason) == (
        pb.RUN_STATE_FAILED,
        "another call with its idempotency key has begun the run anew",
    )
    gone.set()
    assert trainer.train(keyed)[0].run_id == events[0].run_id


def test_a_key_that_can_not_be_one_is_refused(trainer):
    for key in ("a b", "k" * 129):
        code, text = refused(trainer.train, spec(idempotency_key=key))
        assert (code, text.startswith("idempotency_key: got '")) == (grpc.StatusCode.INVALID_ARGUMENT, True)


def test_calls_with_one_key_begin_one_run_at_a_time(trainer, monkeypatch):
    inside, go = threading.Event(), threading.Event()
    begin = trainer.app.runs.begin

    def slowly(*arguments):
        inside.set()
        assert go.wait(30)
        return begin(*arguments)

    monkeypatch.setattr(trainer.app.runs, "begin", slowly)
    first = trainer.stub.Train(messages(spec(idempotency_key="k")), timeout=60)
    assert inside.wait(30)
    assert refused(trainer.train, spec(idempotency_key="k"))[0] is grpc.StatusCode.UNAVAILABLE
    go.set()
    assert kinds(response.event for response in first)[-1] == "finished"


# Versions that are published meanwhile.


def test_a_result_is_withheld_if_another_version_was_published_and_can_be_published_later(trainer):
    _, run_id = trainer.begin(spec("wait", expected_base_version=1))
    _, *others = trainer.queue(), trainer.queue(expected_base_version=1)
    trainer.go(run_id)
    assert trainer.watch(run_id)[-1].finished.published.version == 2
    event = trainer.watch(others[0])[-1]
    assert event.HasField("finished"), event
    last = event.finished
    assert last.withheld == "model 'double': got version 3 as its newest, expected version 1"
    kept = trainer.run(others[0])
    assert (kept.state, kept.publishable, kept.withheld) == (pb.RUN_STATE_FINISHED, True, last.withheld)
    code, text = refused(trainer.train, spec(expected_base_version=1))
    assert (code, text) == (PRECONDITION, "model 'double': got version 3 as its newest, expected version 1")
    for number in (2, 4, 2**63 - 1):
        assert refused(trainer.call, "PublishRun", kept.id, expected_base_version=number)[0] is PRECONDITION
    assert refused(trainer.train, spec(expected_base_version=4))[0] is PRECONDITION
    published = trainer.call("PublishRun", kept.id, expected_base_version=3, label="best")
    assert (published.published.version, published.publishable) == (4, False)
    assert trainer.app.repository.catalogue.describe_one("double", label="best").version == 4
    assert refused(trainer.call, "PublishRun", kept.id) == (
        PRECONDITION,
        f"run '{kept.id}' has no result that could be published: its state is finished",
    )
    assert kinds(trainer.watch(kept.id))[-2:] == ["log", "finished"]
    audit = [json.loads(line) for line in (trainer.runs_folder.parent / "audit.jsonl").read_text().splitlines()]
    assert audit[-1]["who"] == f"run {kept.id}, called by anyone"


@pytest.mark.parametrize(("behaviour", "version", "withheld"), [("wait", 3, ""), ("worse", 0, "no improvement")])
def test_a_result_is_compared_with_the_version_that_was_published_meanwhile(trainer, put, behaviour, version, withheld):
    rebased = spec(behaviour, expected_base_version=1, on_conflict=pb.CONFLICT_POLICY_REBASE, validation_split=0.5)
    _, run_id = trainer.begin(rebased)
    put("double", version=2, offset=7.0)
    trainer.app.repository.scan()
    trainer.go(run_id)
    finished = trainer.watch(run_id)[-1].finished
    assert (finished.published.version, finished.withheld) == (version, withheld)
    left = {path.name for path in (trainer.runs_folder / run_id).iterdir()}
    assert "rival" not in left
    assert ("result" in left) == bool(withheld)


def test_a_result_that_can_not_be_compared_is_withheld_with_the_reason(trainer, put, monkeypatch):
    def withheld(most=ending.MAX_COMPARISONS):
        monkeypatch.setattr(ending, "MAX_COMPARISONS", most)
        newest = trainer.app.repository.publisher.newest("double")
        rebased = {"expected_base_version": newest, "on_conflict": pb.CONFLICT_POLICY_REBASE, "validation_split": 0.5}
        _, run_id = trainer.begin(spec("wait", **rebased))
        put("double", version=newest + 1)
        trainer.app.repository.scan()
        trainer.go(run_id)
        return trainer.watch(run_id)[-1].finished.withheld

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert withheld(most=0).endswith("; the result was compared with 0 newer versions one after another")
    monkeypatch.setattr(ending, "copy_version", full)
    text = "version 3 was published meanwhile, and can't be compared with the result: No space left on device"
    assert withheld() == text


def test_a_rebase_needs_something_to_compare_by(trainer):
    for fields, text in (
        ({"on_conflict": pb.CONFLICT_POLICY_REBASE, "validation_split": 0.5}, "given without expected_base_version"),
        ({"on_conflict": pb.CONFLICT_POLICY_REBASE, "expected_base_version": 1}, "rebase requires validation data"),
        ({"expected_base_version": 1, "publish": False}, "given for a run that doesn't publish its result"),
        ({"expected_base_version": -1}, "expected_base_version: got -1"),
        ({"on_conflict": 9, "expected_base_version": 1}, "on_conflict: got 9, expected refuse or rebase"),
    ):
        code, got = refused(trainer.train, spec(**fields))
        assert (code, text in got) == (grpc.StatusCode.INVALID_ARGUMENT, True), got


# Runs of earlier releases.


def test_control_that_is_damaged_counts_as_before(tmp_path):
    file = control.ControlFile(tmp_path)
    assert file.read() == control.RunControl()
    file.set(pause=True)
    for text in ("{", "[]", '{"unknown": 1}'):
        (tmp_path / control.CONTROL).write_text(text)
        assert file.read().pause
    assert not control.ControlFile(tmp_path).read().pause


def test_an_event_that_is_written_in_part_is_an_error(tmp_path, monkeypatch):
    writer = events.EventWriter(tmp_path)
    writer.write(events.Log("one"))
    write = events.os.write
    monkeypatch.setattr(events.os, "write", lambda handle, line: write(handle, line[:5]))
    with pytest.raises(OSError, match="No space left"):
        writer.write(events.Log("two"))
    monkeypatch.undo()
    events.append(tmp_path, events.Log("three"))
    assert [event.what.text for event in EventLog.read(tmp_path).events] == ["one", "three"]


# Models that are deleted meanwhile.


def manage(trainer, method, **fields):
    stub = management_pb2_grpc.ManagementServiceStub(trainer.channel)
    return getattr(stub, method)(getattr(management_pb2, f"{method}Request")(name="double", **fields), timeout=30)


def test_the_result_of_a_run_whose_model_is_deleted_is_withheld(trainer, put):
    call, run_id = trainer.begin(spec("wait"))
    manage(trainer, "UnloadModel")
    code, text = refused(lambda: manage(trainer, "DeleteModel"))
    assert (code, f"'double' is being trained by run '{run_id}': cancel them" in text) == (PRECONDITION, True)
    manage(trainer, "DeleteModel", force=True)
    trainer.go(run_id)
    last = [response.event for response in call][-1]
    withheld = "model 'double' was deleted since its version 1: nothing is published"
    assert (last.WhichOneof("kind"), last.finished.withheld) == ("finished", withheld)
    assert not last.finished.HasField("published")
    assert sorted(os.listdir(trainer.model_folder)) == ["serving.json"]
    # Nor by a call, neither before nor after there is another model of its name.
    for again in ("", ", and another one has its name"):
        code, text = refused(lambda: trainer.call("PublishRun", run_id))
        assert (code, text) == (PRECONDITION, withheld.replace(": nothing", f"{again}: nothing"))
        put("double", version=2)
        trainer.app.repository.scan()
    assert sorted(os.listdir(trainer.model_folder)) == ["2", "serving.json"]
    assert trainer.run(run_id).publishable
