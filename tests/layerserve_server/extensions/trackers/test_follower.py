"""Runs are copied to a sink from their files, whatever happens to the sink, to its process and to the runs."""

from __future__ import annotations

import pytest
from damaged_files import DAMAGES, check_goes_on
from layerserve_server.extensions.trackers import follower
from layerserve_server.extensions.trackers.follower import Follower
from layerserve_server.extensions.trackers.sink import MAX_VALUE, parameters, tags
from layerserve_server.training import events
from layerserve_server.training.events import EventWriter
from layerserve_server.training.request import EVALUATION, DataArray, Role, RunRequest
from layerserve_server.training.runs.run import RunState
from left_folders import left_behind

RUN, OTHER = "20260101-0000-00000001", "20260101-0000-00000002"
DATA = (DataArray(Role.X, "x", "float32", (8, 1)),)
REQUEST = RunRequest("m", 3, DATA, compile={"optimizer": "sgd"}, metadata={"team": "a"}, description="d" * 2000)


class Copies:
    """A sink that keeps what it is given, and fails when it is told to."""

    def __init__(self):
        self.begun, self.points, self.ended, self.failures = [], [], [], 0

    def _fail(self):
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the tracker is away")

    def begin(self, run_id, request, known):
        self._fail()
        self.begun.append((run_id, request.model, known))
        return f"copy of {run_id}"

    def add(self, id, points):
        self._fail()
        self.points += [(id, point.by, point.position, dict(point.logs)) for point in points]

    def end(self, id, state, tags):
        self._fail()
        self.ended.append((id, state, dict(tags)))


@pytest.fixture
def sink():
    return Copies()


@pytest.fixture
def follow(tmp_path, sink):
    return lambda: Follower(tmp_path, sink, tmp_path / "note.json")


@pytest.fixture
def write(tmp_path):
    def add(*all_of, run=RUN, request=REQUEST):
        (tmp_path / run).mkdir(exist_ok=True)
        request.write(tmp_path / run)
        writer = EventWriter(tmp_path / run)
        for what in all_of:
            writer.write(what)
        writer.close()

    return add


ACCEPTED, STARTED = events.Accepted("m", 3, 0), events.Started(2, 4, 8)
STEP, EPOCH = events.Step(1, 2, 3, 4, {"loss": 2.0}), events.Epoch(1, 2, {"loss": 1.0}, 0.1)
END = events.Finished(4, {"loss": 0.5}, 1.0)
COPY = f"copy of {RUN}"


def test_a_run_is_copied_as_it_goes_on(sink, follow, write):
    follower = follow()
    assert not follower.turn()
    write(ACCEPTED)
    follower.turn()
    assert sink.begun == [(RUN, "m", "")]
    write(STARTED, STEP, EPOCH)
    follower.turn()
    assert sink.points == [(COPY, "step", 3, {"loss": 2.0}), (COPY, "epoch", 1, {"loss": 1.0})]
    write(events.Step(2, 2, 1, 4, {"loss": 0.7}), END)
    follower.turn()
    assert sink.points[2:] == [(COPY, "step", 5, {"loss": 0.7})]
    assert sink.ended == [(COPY, RunState.FINISHED, {"layerserve.final.loss": "0.5", "layerserve.version": "4"})]
    follower.turn()
    assert len(sink.ended) == 1


def test_what_a_sink_refuses_comes_again_and_nothing_twice(sink, follow, write):
    write(ACCEPTED, STARTED, EPOCH)
    one = follow()
    sink.failures = 2
    for _ in range(2):
        with pytest.raises(ConnectionError):
            one.turn()
    assert sink.points == []
    one.turn()
    write(END)
    sink.failures = 1
    with pytest.raises(ConnectionError):
        one.turn()
    one.turn()
    assert [point[1:3] for point in sink.points] == [("epoch", 1)]
    assert len(sink.ended) == 1


def test_a_process_goes_on_where_the_last_one_was(sink, follow, write):
    write(ACCEPTED, STARTED, EPOCH)
    follow().turn()
    second = follow()
    second.reopen()
    assert sink.begun == [(RUN, "m", ""), (RUN, "m", COPY)]
    write(STEP, END)
    second.turn()
    assert [point[1:3] for point in sink.points] == [("epoch", 1), ("step", 3)]
    third = follow()
    third.reopen()
    third.turn()
    assert len(sink.begun) == 2
    assert len(sink.ended) == 1


def test_a_resumed_run_is_the_same_copy(sink, follow, write):
    write(ACCEPTED, STARTED, events.Failed("killed", resumable=True))
    one = follow()
    one.turn()
    assert sink.ended == [(COPY, RunState.FAILED, {"layerserve.reason": "killed"})]
    for further in ((events.Queued(0), events.Resumed(1, 2)), (EPOCH,), (events.Cancelled(2),)):
        write(*further)
        one.turn()
    assert sink.begun[1:] == [(RUN, "m", COPY)]
    assert sink.ended[1:] == [(COPY, RunState.CANCELLED, {})]


def test_a_run_that_the_sink_refuses_holds_up_no_other(sink, follow, write, monkeypatch):
    write(ACCEPTED, STARTED, EPOCH)
    write(ACCEPTED, run=OTHER)
    add = sink.add
    monkeypatch.setattr(sink, "add", lambda copy, points: 1 / 0 if copy == COPY else add(copy, points))
    one = follow()
    for number in range(1, 2 * follower.TRIES):
        write(STARTED, EPOCH, run=OTHER)
        if number <= follower.TRIES:
            with pytest.raises(ZeroDivisionError):
                one.turn()
        else:
            one.turn()
        assert len(sink.points) == number
    assert one.lost == 1
    # While the sink takes nothing at all, no run is given up.
    monkeypatch.setattr(sink, "add", lambda copy, points: 1 / 0)
    write(STARTED, EPOCH, run=OTHER)
    for _ in range(2 * follower.TRIES):
        with pytest.raises(ZeroDivisionError):
            one.turn()
    assert one.lost == 1


def test_what_is_no_run_is_left_out(tmp_path, sink, follow, write):
    left_behind(tmp_path)
    (tmp_path / RUN).mkdir()
    (tmp_path / RUN / "events.jsonl").write_bytes(events.Event(0, 1.0, ACCEPTED).to_line())
    (tmp_path / "note.json").write_text("{")
    follow().turn()
    assert sink.begun == []


def test_an_evaluation_has_its_logs(sink, follow, write):
    write(ACCEPTED, events.Started(1, 0, 8), END, request=RunRequest("m", 3, DATA, kind=EVALUATION))
    follow().turn()
    assert sink.points == [(COPY, "epoch", 1, {"loss": 0.5})]


def test_parameters_and_tags_are_short_texts():
    found = parameters(REQUEST)
    assert found["optimizer"] == "sgd"
    assert found["epochs"] == "1"
    assert "data" not in found
    assert tags(RUN, REQUEST)["team"] == "a"
    assert all(len(value) <= MAX_VALUE for value in (*found.values(), *tags(RUN, REQUEST).values()))


@pytest.mark.parametrize("damage", DAMAGES)
def test_without_places_that_are_damaged_it_begins_anew(damage, tmp_path, caplog, monkeypatch):
    note = tmp_path / "note.json"
    check_goes_on(note, lambda: Follower(tmp_path, None, note)._places, damage, caplog, monkeypatch, named=True)
