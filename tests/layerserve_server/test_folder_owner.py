"""Folders that processes own: what a killed one has left is known by its lock, whatever the clock says."""

import fcntl
import os
import subprocess
import sys

import pytest
from layerserve_server import folder_owner
from layerserve_server.folder_owner import FolderOwner, UnfinishedFolder, remove_folder, sweep, unfinished
from left_folders import left_behind

CHILD = """
import sys, time
from pathlib import Path
from layerserve_server.folder_owner import UnfinishedFolder
made = UnfinishedFolder(Path(sys.argv[1]))
print(made.path, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("stamp", [0, 2**33])
def test_a_folder_is_swept_when_its_process_is_gone_and_not_before(stamp, tmp_path):
    """Neither its age, nor one in the future, nor another process with the same number matters."""
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    made = type(tmp_path)(child.stdout.readline().strip())
    for path in (made, made.parent):
        os.utime(path, (stamp, stamp))
    try:
        assert sweep(tmp_path) == []
    finally:
        child.kill()
        child.communicate()
    assert sweep(tmp_path) == [made.parent]
    assert os.listdir(tmp_path) == []


def test_what_is_made_is_moved_and_nothing_else_stays(tmp_path):
    with unfinished(tmp_path / "new" / "parent") as made:
        (made / "file").write_text("whole")
        made.rename(tmp_path / "target")
    assert os.listdir(tmp_path / "target") == ["file"]
    assert os.listdir(tmp_path / "new" / "parent") == []


def test_a_folder_is_removed_whole_though_the_process_is_killed_meanwhile(tmp_path, monkeypatch):
    (run := tmp_path / "run").mkdir()
    (run / "file").write_text("whole")
    (link := tmp_path / "link").symlink_to(run)
    remove_folder(link)
    assert os.listdir(tmp_path) == ["run"]

    def killed(path, **_):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(folder_owner.shutil, "rmtree", killed)
        with pytest.raises(SystemExit):
            remove_folder(run)
    assert not run.exists()
    assert [path.parent for path in sweep(tmp_path)] == [tmp_path]
    assert os.listdir(tmp_path) == []
    remove_folder(run)


def test_folders_of_others_and_links_stay(tmp_path):
    theirs = left_behind(tmp_path / "theirs")
    for name in (".unfinished-theirs", ".publish-1", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / f".unfinished-{'0' * 16}").symlink_to(theirs)
    (tmp_path / f".unfinished-{'1' * 16}").write_text("a file")
    assert sweep(tmp_path) == []
    assert (theirs / "new" / "half").exists()
    assert sweep(tmp_path / "nowhere") == []


def test_a_sweep_between_the_folder_and_its_lock_makes_another_folder(tmp_path, monkeypatch):
    take, swept = folder_owner.try_lock, []

    def late(path):
        if not swept:
            swept.append(path)
            monkeypatch.setattr(folder_owner, "try_lock", take)
            assert sweep(tmp_path) == [path.parent]
        return take(path)

    monkeypatch.setattr(folder_owner, "try_lock", late)
    with unfinished(tmp_path) as made:
        assert made.is_dir()
        assert made.parent != swept[0].parent


def test_the_lock_of_a_folder_that_is_gone_is_no_ownership(tmp_path, monkeypatch):
    take = folder_owner.try_lock

    def removed(path):
        file = take(path)
        path.unlink()
        return file

    monkeypatch.setattr(folder_owner, "try_lock", removed)
    owner = FolderOwner(tmp_path)
    assert not owner.acquire()
    assert not owner.held


def test_without_locks_things_are_made_and_nothing_is_swept(tmp_path, monkeypatch):
    def missing(file, kind):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    folder = UnfinishedFolder(tmp_path)
    assert sweep(tmp_path) == []
    folder.remove()
    assert os.listdir(tmp_path) == []
