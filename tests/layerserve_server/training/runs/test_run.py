"""A run as the server sees it: what its events add up to, and whose it is."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from clocks import replace_time
from layerserve_server.training import events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import Event
from layerserve_server.training.process.training_process import TrainingProcess
from layerserve_server.training.request import TRAINING, DataArray, Role, RunRequest
from layerserve_server.training.run_kind import RunKind, RunKinds
from layerserve_server.training.runs import execution
from layerserve_server.training.runs import run as run_module
from layerserve_server.training.runs.execution import TrainingTime
from layerserve_server.training.runs.run import RUN_ID, Phase, Run, RunState, new_id

ACCEPTED, QUEUED, STARTED = events.Accepted("m", 1, 10), events.Queued(0), events.Started(3, 4, 30)
KIND = RunKind(name=TRAINING, slots=1, off="")
REQUEST = RunRequest("m", 1, (DataArray(Role.X, "x", "float32", (30, 2)),), epochs=3)
KILLED = events.Failed("killed", 2, 3, resumable=True)


def step(epoch, number, **logs):
    return events.Step(epoch, 3, number, 4, logs)


def epoch(number, **logs):
    return events.Epoch(number, 3, logs, 0.1)


def run_of(folder, *happened):
    """A run to which these things have happened, one a second."""
    with (folder / "events.jsonl").open("ab") as file:
        for second, what in enumerate(happened):
            file.write(Event(second, 1000.0 + second, what).to_line())
    run = Run("r", folder, REQUEST, EventLog(folder), KIND)
    run.log.refresh()
    return run


@pytest.mark.parametrize(
    ("happened", "state"),
    [
        ((ACCEPTED,), RunState.QUEUED),
        ((ACCEPTED, QUEUED), RunState.QUEUED),
        ((ACCEPTED, QUEUED, STARTED, epoch(1)), RunState.RUNNING),
        ((ACCEPTED, QUEUED, STARTED, KILLED), RunState.FAILED),
        ((ACCEPTED, QUEUED, STARTED, KILLED, QUEUED), RunState.QUEUED),
        ((ACCEPTED, QUEUED, STARTED, KILLED, QUEUED, STARTED), RunState.RUNNING),
        ((ACCEPTED, QUEUED, STARTED, events.Cancelled(1)), RunState.CANCELLED),
        ((ACCEPTED, QUEUED, STARTED, events.Finished(2, {}, 1.0)), RunState.FINISHED),
    ],
)
def test_its_state_is_what_its_events_tell(tmp_path, happened, state):
    assert run_of(tmp_path, *happened).state is state


@pytest.mark.parametrize(
    ("happened", "place", "done"),
    [
        ((ACCEPTED, QUEUED), (0, 0), 0),
        ((STARTED,), (1, 0), 0),
        ((STARTED, step(1, 2)), (1, 2), 0),
        ((STARTED, step(1, 4), epoch(1)), (2, 0), 1),
        ((STARTED, epoch(1), step(2, 1)), (2, 1), 1),
        # There is no epoch after the last one.
        ((STARTED, epoch(3)), (3, 0), 3),
        # What was done behind the checkpoint is done again.
        ((STARTED, epoch(2), step(3, 2), events.Resumed(2, 3)), (2, 3), 1),
        ((STARTED, epoch(2), step(3, 2), events.Resumed(2, 3), epoch(2)), (3, 0), 2),
        ((STARTED, step(1, 2), events.Resumed(0, 0)), (0, 0), 0),
    ],
)
def test_its_place_is_where_training_was_last_seen(tmp_path, happened, place, done):
    run = run_of(tmp_path, *happened)
    assert (run.position, run.epochs_done) == (place, done)


@pytest.mark.parametrize(
    ("happened", "logs"),
    [
        ((STARTED,), {}),
        ((STARTED, epoch(1, loss=2.0), step(2, 1, loss=1.0)), {"loss": 1.0}),
        ((step(2, 1, loss=1.0), epoch(2, loss=0.5), events.Log("text")), {"loss": 0.5}),
        ((epoch(2, loss=0.5), events.Finished(2, {"loss": 0.25}, 1.0)), {"loss": 0.25}),
        ((epoch(2, loss=0.5), events.Finished(2, {}, 1.0)), {"loss": 0.5}),
    ],
)
def test_its_logs_are_the_newest(tmp_path, happened, logs):
    assert run_of(tmp_path, *happened).logs == logs


@pytest.mark.parametrize(
    ("places", "futile"),
    [([], 0), ([(0, 0)], 1), ([(0, 0), (0, 0)], 2), ([(0, 0), (0, 0), (1, 3)], 1), ([(1, 3), (2, 1), (2, 1)], 2)],
)
def test_resuming_at_the_same_place_is_futile(tmp_path, places, futile):
    run = run_of(tmp_path, STARTED, *(events.Resumed(*place) for place in places))
    assert (run.resumed, run.futile) == (len(places), futile)


def test_its_seconds_are_those_of_training(tmp_path):
    """Without the time in the queue, and that between an interruption and the next start."""
    run = run_of(tmp_path, ACCEPTED, QUEUED, STARTED, epoch(1), epoch(2), KILLED, QUEUED, STARTED, epoch(2), epoch(3))
    # From 1002 to 1004, and from 1007 on.
    assert run.seconds == pytest.approx(2 + time.time() - 1007, abs=5)
    events.append(tmp_path, events.Finished(2, {}, 1.0))
    run.log.refresh()
    assert run.seconds == 2 + 2


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_budget_of_time_does_not_depend_on_the_systems_clock(tmp_path, monkeypatch, jump):
    """Else a run would be killed when the clock is set, or go on for ever."""
    wall, clock = [1004.5], [50.0]
    replace_time(monkeypatch, run_module, time=lambda: wall[0])
    replace_time(monkeypatch, execution, monotonic=lambda: clock[0])
    run = run_of(tmp_path, STARTED, epoch(1), KILLED, QUEUED)
    trained = TrainingTime(run)
    assert not run.trains
    clock[0] += 100
    assert trained.seconds == 0
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(Event(4, 1004.0, STARTED).to_line())
    run.log.refresh()
    assert run.trains
    # One second before it was interrupted, and half of one since it started again.
    assert trained.seconds == 1.5
    wall[0] += jump
    clock[0] += 7
    assert trained.seconds == 8.5


def test_a_clock_that_is_set_back_takes_away_the_interval_in_which_it_was(tmp_path, monkeypatch):
    times = [(1000.0, STARTED), (1003.0, epoch(1)), (503.5, epoch(2)), (505.5, epoch(3))]
    with (tmp_path / "events.jsonl").open("ab") as file:
        for number, (at, what) in enumerate(times, start=1):
            file.write(Event(number, at, what).to_line())
    replace_time(monkeypatch, run_module, time=lambda: 100.0)
    assert run_of(tmp_path).seconds == 3 + 0 + 2 + 0


def test_a_run_that_never_trained_has_no_seconds(tmp_path):
    assert run_of(tmp_path, ACCEPTED, QUEUED).seconds == 0
    assert Run("r", tmp_path / "none", REQUEST, EventLog(tmp_path / "none"), KIND).created_time == 0


def test_only_an_interrupted_run_with_its_means_is_resumable(tmp_path):
    run = run_of(tmp_path, STARTED, KILLED)
    assert not run.resumable
    (tmp_path / "base").mkdir()
    assert run.resumable
    events.append(tmp_path, events.Queued(0))
    run.log.refresh()
    assert not run.resumable
    events.append(tmp_path, events.Failed("loss is nan", 1, 1))
    run.log.refresh()
    assert not run.resumable


def test_a_run_may_have_published_before_its_end(tmp_path):
    kind = replace(KIND, publisher=lambda folder, request: SimpleNamespace(version=4, of=(folder, request)))
    run = Run("r", tmp_path, REQUEST, EventLog(tmp_path), kind)
    assert (run.published_version, run.publisher.of) == (4, (tmp_path, REQUEST))
    assert run_of(tmp_path).published_version == 0


def test_a_run_has_one_owner(tmp_path):
    first, second = run_of(tmp_path), run_of(tmp_path)
    assert first.own()
    assert not second.own()
    second.disown()  # it isn't its own
    assert not second.own()
    first.disown()
    first.disown()
    assert second.own()
    assert not first.own()
    second.disown()


def test_a_run_comes_back_from_its_folder(tmp_path):
    REQUEST.write(tmp_path)
    run_of(tmp_path, ACCEPTED, QUEUED)
    run = Run.read(tmp_path, RunKinds([KIND]))
    assert (run.id, run.request, run.kind, run.created_time) == (tmp_path.name, REQUEST, KIND, 1000.0)
    assert run.phase is Phase.RECEIVING
    events.append(tmp_path, events.Cancelled(0))
    assert Run.read(tmp_path, RunKinds([KIND])).phase is Phase.ENDED


@pytest.mark.parametrize("local", [True, False])
def test_only_an_interactive_run_has_its_process_on_the_servers_machine_in_any_case(tmp_path, local):
    """The server is connected with it; that of another run may be in a cluster."""
    made = []
    kind = replace(KIND, interactive=local)
    run = Run("r", tmp_path, REQUEST, EventLog(tmp_path), kind, make_process=made.append)
    assert (isinstance(run.process, TrainingProcess), made) == (local, [] if local else [tmp_path])


def test_ids_are_told_apart_and_sort_by_time():
    ids = {new_id() for _ in range(50)}
    assert len(ids) == 50
    assert all(RUN_ID.fullmatch(id) for id in ids)
    now = time.strftime("%Y%m%d", time.gmtime())
    assert all(now <= id[:8] or id[9:13] == "2359" for id in ids)
