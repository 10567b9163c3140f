"""A sink's process: what it logs, how long it waits after errors, and which of several servers copies."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from types import SimpleNamespace

import pytest
from layerserve_server.extensions.trackers import main as module

SPEC = "mlflow:https://user:secret@tracker"


@pytest.fixture
def closing(monkeypatch):
    """Ends the program after `turns` waits; returns their times in seconds."""
    waits = []

    def after(turns):
        monkeypatch.setattr(module, "_closed", lambda seconds: waits.append(seconds) or len(waits) == turns)
        return waits

    monkeypatch.setattr(os, "nice", lambda by: None)
    return after


def lock_file(notes):
    return notes / f"mlflow-{hashlib.sha256(SPEC.encode()).hexdigest()[:12]}.lock"


def test_errors_are_logged_without_the_setting_and_waits_grow(tmp_path, monkeypatch, closing, caplog):
    turns = iter([ConnectionError("no route"), ConnectionError("no route"), False, OSError("full"), True, True, False])

    def turn():
        one = next(turns)
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(module, "make_sink", lambda spec, folder: None)
    monkeypatch.setattr(module, "Follower", lambda runs, sink, note: SimpleNamespace(reopen=lambda: None, turn=turn))
    waits = closing(5)
    module.main(tmp_path, tmp_path / "notes", SPEC)
    first, second = module.RETRY_SECONDS[:2]
    assert waits == [first, second, module.SECONDS, first, 0.0]
    assert not list(turns), "what is left is copied when the server has closed the input"
    name = lock_file(tmp_path).stem
    assert [record.getMessage() for record in caplog.records] == [
        f"run sink {name}: ConnectionError: no route; trying again in {first:g} s",
        f"run sink {name}: ConnectionError: no route; trying again in {second:g} s",
        f"run sink {name}: OSError: full; trying again in {first:g} s",
    ]
    assert "secret" not in caplog.text


def test_a_sink_that_cannot_be_made_is_tried_again(tmp_path, monkeypatch, closing):
    made, reopened = [], []

    def make(spec, folder):
        made.append(spec)
        if len(made) < 3:
            raise ImportError("mlflow")

    monkeypatch.setattr(module, "make_sink", make)
    monkeypatch.setattr(
        module,
        "Follower",
        lambda runs, sink, note: SimpleNamespace(reopen=lambda: reopened.append(note), turn=lambda: False),
    )
    waits = closing(4)
    module.main(tmp_path, tmp_path / "notes", SPEC)
    assert made == [SPEC] * 3
    assert reopened == [lock_file(tmp_path / "notes").with_suffix(".json")], "once"
    assert waits == [*module.RETRY_SECONDS[:2], module.SECONDS, module.SECONDS]


def test_another_server_s_process_copies(tmp_path, monkeypatch, closing):
    monkeypatch.setattr(module, "make_sink", lambda spec, folder: pytest.fail("the lock is held by another"))
    with lock_file(tmp_path).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waits = closing(3)
        module.main(tmp_path, tmp_path, SPEC)
    assert waits == [module.SECONDS] * 3


def test_a_folder_in_which_nothing_can_be_locked_is_tried_again(tmp_path, monkeypatch, closing, caplog):
    monkeypatch.setattr(module, "make_sink", lambda spec, folder: pytest.fail("another server may copy"))

    def missing(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    waits = closing(2)
    module.main(tmp_path, tmp_path, SPEC)
    assert waits == [module.RETRY_SECONDS[-1]] * 2
    assert "No locks available" in caplog.messages[0]
