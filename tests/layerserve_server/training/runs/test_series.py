"""Series of logs are read from events on disk, thinned out on the way."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from clocks import replace_time
from layerserve_server.errors import InvalidRequestError
from layerserve_server.training import event_log, events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from layerserve_server.training.request import DataArray, Role, RunRequest
from layerserve_server.training.run_kind import RunKind
from layerserve_server.training.runs import run, series
from layerserve_server.training.runs.remaining import remaining_seconds
from layerserve_server.training.runs.run import Run
from layerserve_server.training.runs.series import Series, SeriesReader


@pytest.fixture
def write(tmp_path):
    """Writes events, and returns the log of them."""
    writer = EventWriter(tmp_path)

    def add(*all_of):
        for what in all_of:
            writer.write(what)
        return EventLog.read(tmp_path)

    yield add
    writer.close()


def epoch(number, **logs):
    return events.Epoch(number, 9, logs, 0.1)


def step(number, at, **logs):
    return events.Step(number, 9, at, 4, logs)


def read(log, *names, count=100, by_step=False):
    found = SeriesReader(names, count, by_step=by_step).read(log)
    return {name: [(position, value) for position, value, _ in one.chosen()] for name, one in found.items()}


@pytest.mark.parametrize("points", [0, 1, 2, 9, 10, 11, 19, 20, 21, 39, 40, 41, 1000, 12345])
def test_a_long_series_keeps_its_ends_and_equal_distances(points):
    one = Series(10)
    for position in range(1, points + 1):
        one.add(position, position / 2, position * 3.0)
        assert len(one.points) < 20
    chosen = one.chosen()
    positions = [position for position, _, _ in chosen]
    assert len(chosen) == min(10, points) if points <= 10 else 5 < len(chosen) <= 10
    assert positions[:1] == [1][:points]
    assert positions[-1:] == ([points] if points else [])
    assert positions == sorted(set(positions))
    assert all((value, seconds) == (position / 2, position * 3.0) for position, value, seconds in chosen)
    gaps = [after - before for before, after in pairwise(positions[:-1])]
    assert not gaps or max(gaps) <= 2 * min(gaps)


def test_epochs_and_steps_are_series(write):
    log = write(
        events.Started(9, 4, 16),
        step(1, 2, loss=5.0),
        epoch(1, loss=4.0, val_loss=4.5),
        step(2, 1, loss=3.0),
        epoch(2, loss=math.inf, val_loss=math.nan),
    )
    found = read(log)
    assert list(found) == ["loss", "val_loss"]
    assert found["loss"] == [(1, 4.0), (2, math.inf)]
    assert found["val_loss"][0] == (1, 4.5)
    assert math.isnan(found["val_loss"][1][1])
    assert read(log, "loss", "other", by_step=True) == {"loss": [(2, 5.0), (5, 3.0)]}


def test_what_a_resumed_run_repeats_counts_once(write):
    log = write(
        events.Started(9, 4, 16),
        *(one for number in (1, 2, 3) for one in (step(number, 4, loss=number), epoch(number, loss=number))),
        events.Resumed(2, 3),
        events.Started(9, 4, 16),
        step(2, 4, loss=20),
        epoch(2, loss=20),
    )
    assert read(log) == {"loss": [(1, 1), (2, 20)]}
    assert read(log, by_step=True) == {"loss": [(4, 1), (8, 20)]}


def test_times_are_counted_from_the_start(write, monkeypatch):
    now = iter([100.0, 101.5, 110.0])
    replace_time(monkeypatch, events, time=lambda: next(now))
    log = write(events.Started(9, 4, 16), epoch(1, loss=1.0), epoch(2, loss=1.0))
    (one,) = SeriesReader((), 10, by_step=False).read(log).values()
    assert [seconds for _, _, seconds in one.chosen()] == [1.5, 10.0]


def test_events_that_are_not_in_memory_are_read(write, monkeypatch):
    monkeypatch.setattr(event_log, "KEPT_BYTES", 1000)
    log = write(events.Started(500, 4, 16), *(epoch(number, loss=float(number)) for number in range(1, 301)))
    assert len(log.events) < 100
    assert read(log, count=1000)["loss"] == [(number, float(number)) for number in range(1, 301)]


def test_too_many_values_are_refused(write, monkeypatch):
    monkeypatch.setattr(series, "MAX_VALUES", 5)
    log = write(events.Started(9, 4, 16), *(epoch(number, loss=0.0, mae=0.0) for number in (1, 2, 3)))
    with pytest.raises(InvalidRequestError, match="more than 5 values"):
        read(log, count=3)
    reader = SeriesReader(["loss"], 3, by_step=False)
    reader.read(log)
    with pytest.raises(InvalidRequestError, match="more than 5 values"):
        reader.read(log)


def run_of(tmp_path, **settings):
    data = (DataArray(Role.X, "x", "float32", (16, 1)),)
    request, kind = RunRequest("m", 1, data, **settings), RunKind(name="training", slots=1, off="")
    run = Run("20260101-0000-00000000", tmp_path, request, EventLog(tmp_path), kind)
    run.log.refresh()
    return run


def test_the_best_log_is_the_lowest_loss_or_what_the_request_monitors(write, tmp_path, monkeypatch):
    monkeypatch.setattr(event_log, "KEPT_BYTES", 100)
    assert run_of(tmp_path).best is None
    write(epoch(1, loss=3.0, accuracy=0.5), epoch(2, loss=1.0, accuracy=0.9), epoch(3, loss=2.0, accuracy=0.7))
    assert run_of(tmp_path).best == ("loss", 1.0, 2)
    assert run_of(tmp_path, monitor="accuracy", monitor_mode="max").best == ("accuracy", 0.9, 2)
    assert run_of(tmp_path, monitor="accuracy", monitor_mode="min").best == ("accuracy", 0.5, 1)
    # Whether more is better isn't known.
    assert run_of(tmp_path, monitor="accuracy").best == ("loss", 1.0, 2)
    write(epoch(4, loss=math.nan, val_loss=7.0))
    assert run_of(tmp_path).best == ("val_loss", 7.0, 4)


def test_the_remaining_time_follows_from_what_is_done(write, tmp_path, monkeypatch):
    clock = [100.0]
    for module in (events, run):
        replace_time(monkeypatch, module, time=lambda: clock[0])
    write(events.Queued(0), events.Started(10, 4, 16))
    assert remaining_seconds(run_of(tmp_path)) is None
    clock[0] = 130.0
    write(epoch(1, loss=1.0), epoch(2, loss=1.0), step(3, 4, loss=1.0))
    assert remaining_seconds(run_of(tmp_path)) == pytest.approx(70.0)
    write(events.Cancelled(3))
    assert remaining_seconds(run_of(tmp_path)) is None
