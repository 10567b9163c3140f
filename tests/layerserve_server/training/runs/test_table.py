"""The runs in a folder: what isn't known isn't denied."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from layerserve_server import folder_owner
from layerserve_server.errors import BusyError, UnavailableError, UnknownRunError
from layerserve_server.repository.layout import NOTHING, FoundVersion
from layerserve_server.training import events
from layerserve_server.training.request import TRAINING, RunRequest
from layerserve_server.training.run_kind import RunKind, RunKinds
from layerserve_server.training.runs.table import RunTable, in_excess

OBSERVER = SimpleNamespace(runs_changed=lambda queued, running, paused: None)
KIND = RunKind(name=TRAINING, slots=1, off="off")
ID = "20260101-0000-0123abcd"


def test_runs_of_a_folder_that_can_not_be_read_are_not_denied(tmp_path, caplog):
    (tmp_path / "runs").write_text("no folder")
    table = RunTable(tmp_path / "runs", 10, OBSERVER, RunKinds(()))
    table.scan_first()
    for _ in range(2):
        for ask in (table.list, lambda: table.get(ID), lambda: table.find("", "key", lambda request: True)):
            with pytest.raises(UnavailableError, match="the folder of runs can't be read; see the server's log"):
                ask()
        table.scan()
    assert [record.args[0] for record in caplog.records] == [tmp_path / "runs"], "named once"
    (tmp_path / "runs").unlink()
    (tmp_path / "runs").mkdir()
    table.scan()
    assert table.list() == []
    with pytest.raises(UnknownRunError):
        table.get(ID)


def test_a_folder_that_is_not_there_has_no_runs_which_metrics_say(tmp_path):
    seen = []
    observer = SimpleNamespace(runs_changed=lambda queued, running, paused: seen.append((queued, running, paused)))
    table = RunTable(tmp_path / "runs", 10, observer, RunKinds(()))
    table.scan_first()
    assert table.list() == []
    assert seen == [(0, 0, 0)]


@pytest.mark.parametrize(("known", "error"), [(True, BusyError), (False, UnknownRunError)])
def test_a_run_that_another_call_changes_or_has_removed(tmp_path, known, error):
    table = RunTable(tmp_path / "runs", 10, OBSERVER, RunKinds(()))
    run = SimpleNamespace(id=ID, owned=True)
    table._runs = {ID: run} if known else {}
    with pytest.raises(error, match=f"run '{ID}' (is being changed by another call|was removed)") as caught:
        table.own(run)
    assert getattr(caught.value, "retry_after", None) == (1.0 if known else None)


@pytest.mark.parametrize("killed", [False, True])
def test_a_run_that_is_being_removed_is_not_found_again(tmp_path, monkeypatch, killed):
    """By a scan meanwhile, or by the next server after this one was killed."""
    table = RunTable(tmp_path / "runs", 10, OBSERVER, RunKinds([KIND]))
    table.scan_first()
    (model := tmp_path / "model.keras").write_bytes(b"")
    run = table.create(RunRequest("m", 1, ()), FoundVersion("m", 1, model, NOTHING))
    events.append(run.folder, events.Cancelled())
    run.log.refresh()
    remove, left = shutil.rmtree, []

    def remove_slowly(path, **options):
        left.append(os.listdir(path))
        table.scan()
        if not killed:
            remove(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(folder_owner.shutil, "rmtree", remove_slowly)
        table.remove(run)
    assert left
    assert table.list() == []
    assert bool(os.listdir(tmp_path / "runs")) == killed
    again = RunTable(tmp_path / "runs", 10, OBSERVER, RunKinds([KIND]))
    again.scan_first()
    assert again.list() == []
    assert os.listdir(tmp_path / "runs") == []


def test_no_run_makes_room_for_that_of_another_caller():
    callers = ["ann", "ann", "bob", "ann", "bob", "", "ann"]
    work = [SimpleNamespace(request=SimpleNamespace(caller=caller), age=age) for age, caller in enumerate(callers)]
    assert [one.age for one in in_excess(work, 2)] == [3, 6]
