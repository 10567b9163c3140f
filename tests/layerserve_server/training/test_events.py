"""Events: what is left in the file, and what is found of it."""

from __future__ import annotations

import math
import os
from collections import deque

import pytest
from layerserve_server.training import event_log, events
from layerserve_server.training.event_log import EventLog
from layerserve_server.training.events import EventWriter
from open_files import open_below

STEP = events.Step(1, 1, 1, 9, {"loss": 0.5})


def log_of(folder, *happened):
    for what in happened:
        events.append(folder, what)
    return EventLog.read(folder)


def step(number):
    return events.Step(1, 1, number, 9, {"loss": math.nan})


EVERY_KIND = [
    events.Accepted("m", 1, 10),
    events.Queued(2),
    events.Started(1, 2, 3),
    events.Step(1, 2, 3, 4, {"loss": 0.5}),
    events.Epoch(1, 2, {"loss": 0.5}, 0.25),
    events.Log("text"),
    events.Resumed(1, 2),
    events.Checkpoint("e1s2", 1, 2, 300),
    events.Paused(1, 2, "the disk is full"),
    events.Finished(3, {"loss": 0.5}, 1.5, "no improvement"),
    events.Failed("reason", 1, 2, resumable=True),
    events.Cancelled(1),
]


def test_every_kind_comes_back_from_the_file(tmp_path):
    writer = EventWriter(tmp_path)
    for what in EVERY_KIND:
        writer.write(what)
    writer.close()
    lines = (tmp_path / "events.jsonl").read_bytes().splitlines()
    read = [events.Event.from_line(line) for line in lines]
    assert [event.what for event in read] == EVERY_KIND
    assert {type(what) for what in EVERY_KIND} == set(events.KINDS.values())
    assert [event.sequence for event in read] == list(range(len(EVERY_KIND)))


def test_of_step_events_in_a_row_only_the_newest_is_kept(tmp_path):
    writer = EventWriter(tmp_path)
    for what in (step(1), step(2), events.Log("a"), step(3), step(4)):
        writer.write(what)
    writer.close()
    log = EventLog(tmp_path)
    log.refresh()
    assert [event.sequence for event in log.events] == [1, 2, 4]
    assert [event.sequence for event in log.since(2)] == [2, 4]


def test_a_writer_goes_on_behind_half_a_line_of_a_killed_one(tmp_path):
    events.append(tmp_path, events.Log("a"))
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"sequence": 1, "ti')
    log = EventLog(tmp_path)
    log.refresh()
    assert len(log.events) == 1
    events.append(tmp_path, events.Failed("killed"))
    log.refresh()
    assert [(event.sequence, event.what) for event in log.events] == [
        (0, events.Log("a")),
        (1, events.Failed("killed")),
    ]


def test_watchers_are_called_for_what_comes_while_they_watch(tmp_path):
    log, called = EventLog(tmp_path), []
    with log.watchers.watched(lambda: called.append(len(log.events))):
        log.refresh()
        assert called == []
        events.append(tmp_path, events.Log("a"))
        log.refresh()
        log.put(events.Log("b"))
        assert called == [1, 2]
    log.put(events.Log("c"))
    assert called == [1, 2]
    assert [event.what for event in log.since(1)] == [events.Log("b"), events.Log("c")]


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


@pytest.mark.parametrize(
    ("damage", "whole"),
    [(lambda text: b"", 0), (lambda text: b"{}\n" + text, 0), (lambda text: text[:3000] + b"\n" + text[3000:], 20)],
    ids=["lost", "invalid", "cut"],
)
def test_of_damaged_events_those_in_memory_are_told(tmp_path, monkeypatch, caplog, damage, whole):
    monkeypatch.setattr(event_log, "KEPT_BYTES", 1000)
    epochs = [events.Epoch(number, 50, {"loss": 0.5}, 0.1) for number in range(1, 51)]
    log = log_of(tmp_path, *epochs, events.Finished(2, {}, 0.5))
    file = tmp_path / "events.jsonl"
    file.write_bytes(damage(file.read_bytes()))
    assert log.copy()[0].sequence > 20
    told, sequence = [], 0
    while new := log.since(sequence):
        told += new
        sequence = new[-1].sequence + 1
    assert [event.what for event in told][-1] == events.Finished(2, {}, 0.5)
    assert len(told) >= whole + 2
    assert len(list(log.all())) >= whole


@pytest.mark.parametrize("left", [None, b"", b'{"sequence": 0, '])
def test_an_event_that_comes_into_a_lost_file_is_told_and_those_before_are_written_again(tmp_path, left):
    log = log_of(tmp_path, events.Queued(0), events.Failed("killed", resumable=True))
    (tmp_path / "events.jsonl").unlink()
    if left is not None:
        (tmp_path / "events.jsonl").write_bytes(left)
    log.write(events.Queued(1))
    assert (log.last, log.ended) == (events.Queued(1), False)
    # The process of the run goes on with the file.
    events.append(tmp_path, events.Started(1, 2, 3))
    log.refresh()
    assert [event.sequence for event in log.events] == [0, 1, 2, 3]
    assert log.last == events.Started(1, 2, 3)
    assert EventLog.read(tmp_path).copy() == log.copy()


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
