"""The callers of restricted models in the state folder: they are there for the next server, whatever happened."""

from __future__ import annotations

import errno
import shutil

import pytest
from layerserve_server.access.reserved import UNREADABLE, Restriction
from layerserve_server.repository import remembered_callers
from layerserve_server.repository.remembered_callers import RememberedCallers

ANN = Restriction(("ann",))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "callers"


def look(kept, restriction=ANN):
    """As a scan does."""
    kept.refresh()
    kept.remember("m", restriction)


def next_server(folder):
    kept = RememberedCallers(folder, writes=True)
    kept.refresh()
    return kept.of("m")


def test_what_could_not_be_written_is_written_later(folder, monkeypatch, caplog):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = RememberedCallers(folder, writes=True)
    with monkeypatch.context() as patch:
        patch.setattr(remembered_callers, "replace_file", full)
        look(kept)
        look(kept)
    assert (kept.of("m"), next_server(folder)) == (ANN, None)
    assert [record.message.rpartition(": ")[2] for record in caplog.records] == ["No space left on device"]
    look(kept)
    assert next_server(folder) == ANN


@pytest.mark.parametrize("lost", ["all", "one"])
def test_what_was_lost_is_written_again(folder, lost):
    kept = RememberedCallers(folder, writes=True)
    look(kept)
    shutil.rmtree(folder) if lost == "all" else (folder / "m.json").unlink()
    look(kept)
    assert next_server(folder) == ANN


@pytest.mark.parametrize("lost", ["all", "one"])
def test_what_was_lost_of_a_model_that_is_gone_is_written_again(folder, lost):
    kept = RememberedCallers(folder, writes=True)
    look(kept)
    shutil.rmtree(folder) if lost == "all" else (folder / "m.json").unlink()
    kept.refresh()
    assert next_server(folder) == ANN


def test_what_could_not_be_read_and_was_lost_stays_closed(folder):
    folder.mkdir()
    (folder / "m.json").write_text("{")
    kept = RememberedCallers(folder, writes=True)
    kept.refresh()
    (folder / "m.json").unlink()
    kept.refresh()
    assert next_server(folder) == UNREADABLE


def test_a_folder_that_can_not_be_read_opens_no_model(folder, caplog):
    # A file in its place: permissions don't stop root.
    folder.write_text("")
    kept = RememberedCallers(folder, writes=True)
    kept.refresh()
    kept.refresh()
    assert (kept.of("m"), kept.of("other")) == (UNREADABLE, UNREADABLE)
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "Not a directory; only callers that manage a model may use it"
    ]
    folder.unlink()
    assert next_server(folder) is None


def test_a_restriction_that_has_ended_is_not_written_again(folder):
    kept = RememberedCallers(folder, writes=True)
    look(kept)
    look(kept, None)
    look(kept, None)
    assert (kept.of("m"), next_server(folder), list(folder.iterdir())) == (None, None, [])


def test_a_worker_keeps_what_could_not_be_written(folder):
    worker = RememberedCallers(folder, writes=False)
    look(worker)
    other = RememberedCallers(folder, writes=True)
    other.remember("n", ANN)
    worker.refresh()
    assert (worker.of("m"), worker.of("n")) == (ANN, ANN)
    other.remember("n", None)
    worker.refresh()
    assert (worker.of("m"), worker.of("n")) == (ANN, None)
    look(worker, None)
    assert worker.of("m") is None
