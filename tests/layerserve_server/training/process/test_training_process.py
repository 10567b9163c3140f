"""The process of a run: known, told and judged, whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import sys

import pytest
from layerserve_server.training.process.training_process import TrainingProcess

#: Holds the run's lock as a training process does, says so, and ends as it is told to.
CHILD = """
import os, signal, sys
from pathlib import Path
from layerserve_server.training.program.main import _locked
def stop(number, frame):
    (folder / "signal").write_text(str(number))
    os._exit(7)
folder = Path(sys.argv[-1])
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, stop)
with _locked(folder):
    facts = [os.environ["OMP_NUM_THREADS"], os.environ["MKL_NUM_THREADS"], os.environ["LAYERSERVE_SERVER_PID"]]
    facts += [str(os.getsid(0) == os.getpid()), os.environ["PYTHONSAFEPATH"], sys.stdin.read()]
    print("to the log", flush=True)
    print("of errors", file=sys.stderr, flush=True)
    (folder / "here.part").write_text(" ".join(facts))
    (folder / "here.part").rename(folder / "here")
    signal.pause()
"""
COMMAND = (sys.executable, "-c", CHILD)


@pytest.fixture
def started(tmp_path, wait_until):
    process = TrainingProcess(tmp_path)
    process.start(COMMAND, 3)
    wait_until((tmp_path / "here").exists)
    yield process
    if process.wait():
        process.signal(signal.SIGKILL)
        process._started.wait()


def test_a_process_has_its_threads_a_session_and_a_log(tmp_path, started):
    assert (tmp_path / "here").read_text().split() == ["3", "3", str(os.getpid()), "True", "1"]
    assert sorted((tmp_path / "child.log").read_text().splitlines()) == ["of errors", "to the log"]
    assert started.lives
    assert started.pid == started._started.pid
    assert started.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_reaches_the_process_also_from_the_next_server(tmp_path, started, number, wait_until):
    next_server = TrainingProcess(tmp_path)
    assert (next_server.lives, next_server.pid, next_server.wait()) == (True, started.pid, True)
    next_server.signal(number)
    wait_until(lambda: not started.wait())
    assert (tmp_path / "signal").read_text() == str(int(number))
    assert (next_server.lives, next_server.pid, next_server.wait()) == (False, None, False)
    next_server.signal(number)  # nobody is there
    started.signal(number)
    assert started.ended_by_itself
    assert started.death == "the training process ended with status 7; see the run's log"
    assert not next_server.ended_by_itself
    assert next_server.death == "the training process ended for an unknown reason"


def test_a_killed_process_ended_by_a_signal(started, wait_until):
    started.signal(signal.SIGKILL)
    wait_until(lambda: not started.wait())
    assert not started.ended_by_itself
    assert started.death == ("the training process was ended by signal SIGKILL; the system may have run out of memory")
    started.forget()
    assert (started.pid, started.lives) == (None, False)
    assert started.death == "the training process ended for an unknown reason"


def test_the_log_of_a_resumed_run_goes_on(tmp_path, started, wait_until):
    started.signal(signal.SIGKILL)
    wait_until(lambda: not started.wait())
    started.start((sys.executable, "-c", "print('again')"), 1)
    wait_until(lambda: not started.wait())
    assert (tmp_path / "child.log").read_text().endswith("again\n")
    assert "to the log" in (tmp_path / "child.log").read_text()


@pytest.mark.parametrize(
    ("note", "expected"),
    [("12 {host}", 12), ("12 elsewhere", None), ("", None), ("x {host}", None), ("12", None)],
)
def test_a_process_is_known_by_its_note_where_it_holds_the_lock(tmp_path, monkeypatch, note, expected):
    (tmp_path / "child.lock").write_text(note.format(host=socket.gethostname()))
    process = TrainingProcess(tmp_path)
    assert process.pid is None  # the lock is free: the number may be another's by now
    monkeypatch.setattr(TrainingProcess, "lives", True)
    assert process.pid == expected
