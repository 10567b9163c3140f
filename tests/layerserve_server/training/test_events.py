"""Events: what is left in the file, and what is found of it."""

from __future__ import annotations

import os
from collections import deque

import pytest
from layerserve_server.training import events
from layerserve_server.training.events import EventLog
from open_files import open_below

STEP = events.Step(1, 1, 1, 9, {"loss": 0.5})


def log_of(folder, *happened):
    for what in happened:
        events.append(folder, what)
    return EventLog.read(folder)


def test_what_is_left_out_of_an_event_is_nothing():
    assert events.Failed("why") == events.Failed("why", 0, 0, resumable=False)
    assert events.Cancelled() == events.Cancelled(0)
    assert events.Resumed() == events.Resumed(0, 0)
    assert events.Finished(1, {}, 0.5).withheld == ""


def test_appending_leaves_nothing_open_and_the_file_to_be_read_by_all(tmp_path):
    before = os.umask(0o022)
    try:
        for _ in range(3):
            events.append(tmp_path, events.Log("a"))
    finally:
        os.umask(before)
    assert open_below(tmp_path) == []
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o644


def test_an_event_that_can_not_be_written_is_still_told(tmp_path):
    log = EventLog(tmp_path)
    log.put(events.Log("first"))
    log.put(events.Cancelled(1))
    assert [(event.sequence, event.what) for event in log.since(0)] == [
        (0, events.Log("first")),
        (1, events.Cancelled(1)),
    ]
    assert log.ended
    assert log.since(2) == []


def test_what_happened_is_found_by_its_kind(tmp_path):
    log = log_of(tmp_path, events.Queued(3), STEP, events.Queued(1), events.Log("a"))
    assert log.newest(events.Queued) == events.Queued(1)
    assert log.newest(events.Epoch) is None
    assert log.time_of(events.Queued) == log.events[0].time
    assert log.time_of(events.Log, events.Step) == log.events[1].time
    assert log.time_of(events.Finished) is None
    assert log.backwards() == [events.Log("a"), events.Queued(1), STEP, events.Queued(3)]
    assert log.copy() == log.events
    assert log.copy() is not log.events
    assert (log.last, EventLog(tmp_path).last) == (events.Log("a"), None)


def test_what_was_read_isnt_read_again(tmp_path):
    log = log_of(tmp_path, events.Queued(0))
    assert log.refresh() == []
    events.append(tmp_path, STEP)
    assert [event.what for event in log.refresh()] == [STEP]
    assert [event.sequence for event in log.events] == [0, 1]


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (events.Failed("killed"), "interrupted: killed"),
        (events.Cancelled(1), "interrupted: cancelled"),
        (events.Finished(1, {}, 0.5), "interrupted: finished"),
        # Published later, by a call.
        (events.Finished(0, {}, 0.5), "finished, nothing published"),
        (events.Finished(0, {}, 0.5, "no improvement"), "finished, nothing published: no improvement"),
    ],
)
def test_a_run_that_goes_on_says_what_interrupted_it(tmp_path, last, text):
    log = log_of(tmp_path, last, events.Queued(0))
    assert [(event.sequence, event.what) for event in log.events] == [(0, events.Log(text)), (1, events.Queued(0))]


def test_events_are_read_whole_while_others_come(tmp_path):
    """A deque that is added to meanwhile can't be gone through."""

    class Lock:
        held = False

        def __enter__(self):
            Lock.held = True

        def __exit__(self, *_):
            Lock.held = False

    class Events(deque):
        def __iter__(self):
            assert Lock.held
            return super().__iter__()

        def __reversed__(self):
            assert Lock.held
            return super().__reversed__()

    log = EventLog(tmp_path)
    log.put(events.Queued(0))
    log.put(events.Cancelled(1))
    log.events, log._lock = Events(log.events), Lock()
    assert [event.what for event in log.copy()] == [events.Queued(0), events.Cancelled(1)]
    assert log.backwards() == [events.Cancelled(1), events.Queued(0)]
    assert log.newest(events.Queued) == events.Queued(0)
    assert log.newest(events.Failed) is None
    assert log.time_of(events.Queued, events.Failed) == log.copy()[0].time
    assert log.time_of(events.Failed) is None
