"""The sweep service through a real port, with training processes that need no engine.

The seed of a trial decides how good it is.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import threading
import time

import grpc
import numpy as np
import pytest
from layerserve.v1 import sweeps_pb2 as pb
from layerserve.v1 import sweeps_pb2_grpc, tensor_pb2, training_pb2, training_pb2_grpc
from layerserve_server.errors import UnknownDatasetError
from layerserve_server.extensions.sweeps import service
from layerserve_server.extensions.sweeps import sweep as sweep_module
from layerserve_server.extensions.sweeps.plan import Method, Plan
from layerserve_server.extensions.sweeps.registry import MAX_CREATING, Sweeps
from layerserve_server.extensions.sweeps.sweep import Sweep, SweepState
from layerserve_server.services import training
from layerserve_server.training.request import RunRequest
from layerserve_server.training.runs.run import new_id
from tokens import bearer, write_tokens

FILES = [
    training_pb2.DataArray(role=training_pb2.DATA_ROLE_X, path="x.npy"),
    training_pb2.DataArray(role=training_pb2.DATA_ROLE_Y, path="x.npy"),
]


def spec(seeds, method=pb.SWEEP_METHOD_GRID, trials=0, parallel=0, **fields):
    fields.setdefault("compile", training_pb2.CompileSettings(optimizer='"sgd"', loss='"mse"'))
    fields = {"data": FILES, "description": "search", "monitor": "loss", **fields}
    train = training_pb2.TrainSpec(model=tensor_pb2.ModelSpec(name="double"), **fields)
    dimension = pb.Dimension(name="seed", values=json.dumps(seeds))
    return pb.SweepSpec(train=train, dimensions=[dimension], method=method, trials=trials, parallel=parallel, seed=1)


class Sweeper:
    """Calls of one server, which can be stopped and started again."""

    def __init__(self, start, connect, tmp_path):
        self._start, self._connect = start, connect
        self.state = tmp_path / "models" / ".layerserve"
        np.save(tmp_path / "x.npy", np.ones((6, 2), np.float32))
        self.options = {"data_root": tmp_path, "training_slots": 2}
        self.restart()

    def restart(self):
        self.app = self._start(**self.options)
        channel = self._connect(self.app)
        self.stub = sweeps_pb2_grpc.SweepServiceStub(channel)
        self.runs = training_pb2_grpc.TrainingServiceStub(channel)

    def create(self, sweep_spec):
        return self.stub.CreateSweep(pb.CreateSweepRequest(spec=sweep_spec), timeout=60).sweep.id

    def get(self, sweep_id):
        return self.stub.GetSweep(pb.GetSweepRequest(sweep_id=sweep_id), timeout=30).sweep

    def ended(self, sweep_id):
        end = time.monotonic() + 180
        while (sweep := self.get(sweep_id)).state == pb.SWEEP_STATE_RUNNING:
            assert time.monotonic() < end
            time.sleep(0.02)
        return sweep

    def offset(self):
        """Version that answers, and the seed of the run that made it."""
        with self.app.repository.leases.lease("double") as version:
            return version.version, version.model.offset

    def hold(self):
        """Keeps all trials after their first epoch, until `release`."""
        self.state.mkdir(exist_ok=True)
        (self.state / "hold").touch()

    def release(self):
        (self.state / "hold").unlink()


@pytest.fixture
def sweeper(put, start, connect, tmp_path):
    put("double")
    return Sweeper(start, connect, tmp_path)


def sweeps_of(app) -> Sweeps:
    """The sweeps of a server."""
    return next(part.start.__self__ for part in app._parts if isinstance(getattr(part.start, "__self__", None), Sweeps))


def seeds_of(sweep):
    return {trial.number: json.loads(trial.settings[0].value) for trial in sweep.trials}


def test_the_best_trial_of_a_grid_is_published_though_one_was_killed(sweeper, monkeypatch):
    sweep = sweeper.ended(sweeper.create(spec([5, 13, 3, 9], epochs=2, publish_label="best")))
    assert sweep.state == pb.SWEEP_STATE_FINISHED
    assert sorted(seeds_of(sweep).values()) == [3, 5, 9, 13]
    assert {trial.state for trial in sweep.trials} == {pb.TRIAL_STATE_FINISHED}
    for trial in sweep.trials:
        seed = seeds_of(sweep)[trial.number]
        assert (trial.value, list(trial.history), list(trial.epochs)) == (seed + 0.5, [seed + 1.0, seed + 0.5], [1, 2])
        run = sweeper.runs.GetRun(training_pb2.GetRunRequest(run_id=trial.run_id)).run
        assert (run.sweep_id, run.trial, run.seed, run.resumed) == (sweep.id, trial.number, seed, int(seed == 13))
        assert trial.seconds == sweeper.app.runs.table.get(trial.run_id).seconds > 0
        assert not run.HasField("published")
    assert seeds_of(sweep)[sweep.best] == 3
    assert (sweep.published.version, sweeper.offset()) == (2, (2, 3.0))
    newest = sweeper.app.repository.catalogue.describe("double")[0]
    assert (newest.training_run, newest.labels) == (sweep.id, ("best",))
    # Nothing of the trials' models is left.
    assert not list(sweeper.state.glob("runs/*/result"))
    assert not list(sweeper.state.glob("sweeps/*/best-*"))


def test_a_sweep_continues_after_a_restart_without_a_second_run_of_a_trial(sweeper, wait_until):
    sweeper.hold()
    sweep_id = sweeper.create(spec([5, 3, 9, 7, 4], parallel=2))
    wait_until(lambda: sum(bool(trial.history) for trial in sweeper.get(sweep_id).trials) == 2)
    before = sweeper.get(sweep_id)
    sweeper.app.stop()
    sweeper.release()
    sweeper.restart()
    sweep = sweeper.ended(sweep_id)
    assert sweep.state == pb.SWEEP_STATE_FINISHED
    assert sorted(seeds_of(sweep).values()) == [3, 4, 5, 7, 9]
    assert seeds_of(before).items() <= seeds_of(sweep).items()
    assert {trial.run_id for trial in before.trials} <= {trial.run_id for trial in sweep.trials}
    runs = sweeper.runs.ListRuns(training_pb2.ListRunsRequest()).runs
    assert sorted(run.trial for run in runs) == [0, 1, 2, 3, 4]
    assert sweeper.offset() == (2, 3.0)


def test_a_cancelled_sweep_publishes_nothing_and_can_be_deleted(sweeper, wait_until):
    sweeper.hold()
    sweep_id = sweeper.create(spec([5, 3, 9, 7], parallel=2))
    wait_until(lambda: sum(bool(trial.history) for trial in sweeper.get(sweep_id).trials) == 2)
    with pytest.raises(grpc.RpcError, match="hasn't ended; cancel it first"):
        sweeper.stub.DeleteSweep(pb.DeleteSweepRequest(sweep_id=sweep_id))
    sweeper.stub.CancelSweep(pb.CancelSweepRequest(sweep_id=sweep_id))
    sweep = sweeper.ended(sweep_id)
    assert (sweep.state, len(sweep.trials)) == (pb.SWEEP_STATE_CANCELLED, 2)
    assert {trial.state for trial in sweep.trials} == {pb.TRIAL_STATE_CANCELLED}
    assert sweeper.offset()[0] == 1
    assert [one.id for one in sweeper.stub.ListSweeps(pb.ListSweepsRequest(model_name="double")).sweeps] == [sweep_id]
    sweeper.stub.DeleteSweep(pb.DeleteSweepRequest(sweep_id=sweep_id))
    with pytest.raises(grpc.RpcError, match="no sweep"):
        sweeper.get(sweep_id)
    assert not list((sweeper.state / "sweeps").iterdir())


def test_a_sweep_can_be_deleted_while_its_end_is_written(sweeper, monkeypatch, caplog):
    """Callers see the end before the file has it. What is written after the deletion would leave part of the folder."""
    deleted, replace = threading.Event(), sweep_module.replace_file

    def replace_late(path, text, **options):
        if json.loads(text)["state"] != "running":
            deleted.wait(0.5)
        replace(path, text, **options)

    monkeypatch.setattr(sweep_module, "replace_file", replace_late)
    sweep_id = sweeper.create(spec([5]))
    sweeper.ended(sweep_id)
    sweeper.stub.DeleteSweep(pb.DeleteSweepRequest(sweep_id=sweep_id))
    deleted.set()
    sweeper.app.stop()
    assert not list((sweeper.state / "sweeps").iterdir())
    assert "internal error" not in caplog.text


def test_a_sweep_whose_trials_all_fail_has_failed(sweeper, tmp_path):
    shutil.copy(tmp_path / "x.npy", tmp_path / "gone.npy")
    files = [training_pb2.DataArray(role=array.role, path="gone.npy") for array in FILES]
    sweeper.hold()
    sweep_id = sweeper.create(spec([5, 3, 4], data=files, parallel=1))
    (tmp_path / "gone.npy").unlink()
    sweeper.release()
    sweep = sweeper.ended(sweep_id)
    failed = [trial for trial in sweep.trials if trial.state == pb.TRIAL_STATE_FAILED]
    assert len(sweep.trials) == 3
    assert len(failed) >= 2
    # The first one was begun before: its process may fail instead.
    assert all("gone.npy" in trial.reason for trial in failed if trial.number)


def test_a_call_that_is_made_again_finds_its_sweep_also_after_a_restart(sweeper):
    keyed = spec([5, 3], idempotency_key="k")
    sweep_id = sweeper.create(keyed)
    assert sweeper.create(keyed) == sweep_id
    sweeper.ended(sweep_id)
    assert sweeper.create(keyed) == sweep_id
    # A key of a sweep is none of its runs.
    runs = sweeper.runs.ListRuns(training_pb2.ListRunsRequest()).runs
    assert {run.idempotency_key for run in runs} == {""}
    with pytest.raises(grpc.RpcError, match=f"the key of sweep '{sweep_id}', with another request; .* in dimensions"):
        sweeper.create(spec([5, 4], idempotency_key="k"))
    sweeper.app.stop()
    sweeper.restart()
    assert sweeper.create(keyed) == sweep_id
    assert sweeper.create(spec([5, 3])) != sweep_id


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"method": 9}, "method: got 9"),
        ({"trials": -1}, "trials: got -1"),
        ({"trials": 20_000}, "trials: got 20000, expected at most 10000"),
        ({"train": {"idempotency_key": "a b"}}, "idempotency_key: got 'a b', expected 1 to 128 letters"),
        ({"train": {"on_conflict": 2}}, "on_conflict: got 'rebase' for a sweep, expected 'refuse'"),
        ({"train": {"from_checkpoint": "run/last"}}, "from_checkpoint: only Train and Evaluate can go on from a"),
        ({"dimensions": [pb.Dimension(name="seed")]}, "expected exactly one of values and a range"),
        ({"dimensions": [pb.Dimension(name="seed", values="{}")]}, "expected a list of values"),
        ({"dimensions": [pb.Dimension(name="seed", values="[")]}, "dimension 'seed'"),
        ({"dimensions": [pb.Dimension(name="seed", values="[1]")] * 51}, "dimensions: got 51"),
        ({"dimensions": [pb.Dimension(name="seed", values="[")] * 51}, "dimensions: got 51"),
        ({"dimensions": [pb.Dimension(name="loss", values='["mse", "msee"]')]}, "unknown loss 'msee'"),
    ],
)
def test_requests_that_are_refused(sweeper, changes, text):
    whole = spec([1, 2])
    for name in changes.keys() - {"train"}:
        whole.ClearField(name)
    whole.MergeFrom(pb.SweepSpec(**changes))
    with pytest.raises(grpc.RpcError) as refused:
        sweeper.create(whole)
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert text in refused.value.details()


def test_data_has_to_be_on_the_server(sweeper):
    sent = [
        training_pb2.DataArray(role=array.role, dtype=tensor_pb2.DATA_TYPE_FLOAT32, shape=[6, 2]) for array in FILES
    ]
    with pytest.raises(grpc.RpcError, match="got an array to send, expected one on the server"):
        sweeper.create(spec([1], data=sent))


def test_what_begins_as_its_dataset_is_deleted_ends(sweeper, monkeypatch, wait_until):
    def deleted(*_):
        raise UnknownDatasetError("dataset '0' has been deleted")

    for module in (service, training):
        monkeypatch.setattr(module, "use_datasets", deleted)
    sweeper.hold()
    with pytest.raises(grpc.RpcError, match="dataset '0' has been deleted"):
        sweeper.create(spec([5]))
    (left,) = sweeper.stub.ListSweeps(pb.ListSweepsRequest(), timeout=30).sweeps
    with pytest.raises(grpc.RpcError, match="dataset '0' has been deleted"):
        list(sweeper.runs.Train(iter([training_pb2.TrainRequest(spec=spec([5]).train)]), timeout=30))
    sweeper.release()
    assert sweeper.ended(left.id).state == pb.SWEEP_STATE_CANCELLED
    (run,) = [run for run in sweeper.app.runs.table.list() if not run.request.part_of]
    assert run.log.last.reason == "dataset '0' has been deleted"


def test_sweeps_are_refused_while_others_are_tried_and_at_the_end(sweeper):
    def refused():
        with pytest.raises(grpc.RpcError) as caught:
            sweeper.create(spec([1]))
        return caught.value.code(), caught.value.details()

    registry, status = sweeps_of(sweeper.app), grpc.StatusCode
    registry._creating = set(range(MAX_CREATING))
    assert refused() == (status.RESOURCE_EXHAUSTED, "other sweeps are being tried")
    registry._creating, registry._stopping = set(), True
    assert refused()[0] is status.UNAVAILABLE
    registry._stopping = False


def test_a_state_folder_that_can_not_be_written_is_left_as_it_was(sweeper, monkeypatch, wait_until):
    def fails(*_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    sweeper.hold()
    sweep_id = sweeper.create(spec([5]))
    wait_until(lambda: any(trial.history for trial in sweeper.get(sweep_id).trials))
    before = {name: sorted((sweeper.state / name).iterdir()) for name in ("sweeps", "runs")}
    monkeypatch.setattr(Sweep, "save", fails)
    monkeypatch.setattr(RunRequest, "write", fails)
    train = training_pb2.TrainRequest(spec=spec([5]).train)
    for text, call in (
        ("the sweep's folder", lambda: sweeper.stub.CancelSweep(pb.CancelSweepRequest(sweep_id=sweep_id), timeout=30)),
        ("the folder of sweeps", lambda: sweeper.create(spec([5]))),
        ("the folder of runs", lambda: list(sweeper.runs.Train(iter([train]), timeout=30))),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert refused.value.details() == f"{text} can't be written: Read-only file system"
    monkeypatch.undo()
    assert {name: sorted((sweeper.state / name).iterdir()) for name in ("sweeps", "runs")} == before
    assert sweeps_of(sweeper.app)._creating == set()
    assert sweeper.app.runs.table._creating == set()
    sweeper.release()


def test_sweeps_are_not_listed_before_it_is_known_who_may_see_them(put, make_server, starting, hold, connect, tmp_path):
    """Their model has named its callers since they began."""
    (put("double").parents[1] / "layerserve.toml").write_text('callers = ["ann"]')
    folder = tmp_path / "models" / ".layerserve" / "sweeps" / new_id()
    folder.mkdir(parents=True)
    plan = Plan((), Method.GRID, 1, 1, 1, "loss", larger_is_better=False)
    sweep = Sweep(folder.name, folder, plan, RunRequest(model="double", version=1, data=()), time.time())
    sweep.state = SweepState.FINISHED
    for part in (sweep.request, plan):
        part.write(folder)
    sweep.save()
    app = make_server(tokens=write_tokens(tmp_path / "tokens.toml"))
    scan = hold(app.repository.scan)
    app.repository.scan = scan
    me = bearer("all")
    with starting(app, scan) as finish:
        stub = sweeps_pb2_grpc.SweepServiceStub(connect(app))
        for call, request in (
            (stub.ListSweeps, pb.ListSweepsRequest()),
            (stub.GetSweep, pb.GetSweepRequest(sweep_id=sweep.id)),
            (stub.CancelSweep, pb.CancelSweepRequest(sweep_id=sweep.id)),
        ):
            with pytest.raises(grpc.RpcError) as refused:
                call(request, metadata=me, timeout=30)
            assert refused.value.code() is grpc.StatusCode.UNAVAILABLE, refused.value.details()
        finish()
        assert not stub.ListSweeps(pb.ListSweepsRequest(), metadata=me, timeout=30).sweeps
