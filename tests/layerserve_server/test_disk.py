"""Files that the server writes for itself: damage of one of them is an error that their readers expect."""

import pytest
from layerserve_server.datasets.dataset import RECORD, Dataset
from layerserve_server.disk import json_object, locked
from layerserve_server.kept.folders import KeptFolders
from layerserve_server.training.events import Event
from layerserve_server.training.online.publications import NOTE, read_published
from layerserve_server.training.process.main import _locked
from layerserve_server.training.request import RunRequest
from layerserve_server.training.result import OUTCOME, RunResult
from layerserve_server.training.runs.folder import CHILD_LOCK
from layerserve_server.training.runs.owner import OWNER_LOCK, FolderOwner
from layerserve_server.training.sweeps.plan import PLAN, Plan
from layerserve_server.training.sweeps.sweep import TRIALS, Sweep
from layerserve_server.training.upload import DATA, _alone
from layerserve_server.training.upload import LOCK as UNPACKING

DAMAGED = ("", "\0" * 100, "null", "1", '"x"', "[]", "NaN", "[" * 5000, "1" * 5000)


@pytest.mark.parametrize("text", DAMAGED)
def test_what_is_no_object_is_an_error_of_values(text, tmp_path):
    for read in (json_object, RunRequest.from_json, lambda text: Event.from_line(text.encode())):
        with pytest.raises(ValueError, match=r"."):
            read(text)
    for name, read in ((RECORD, Dataset.read), (PLAN, Plan.read)):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=r"."):
            read(tmp_path)
    (tmp_path / TRIALS).write_text(text)
    for name, read in ((OUTCOME, RunResult.read), (NOTE, read_published)):
        (tmp_path / name).write_text(text)
        assert read(tmp_path) is None
    sweep = Sweep("s", tmp_path, None, None, 0.0)
    with pytest.raises(ValueError, match=r"."):
        sweep.refresh()


LOCKS = {
    "locked": ("lock", lambda folder: locked(folder / "lock").__enter__()),
    "kept": (f"locks/{'a' * 2}", lambda folder: KeptFolders(folder, (), max_bytes=0, making_seconds=0)._lock("a" * 64)),
    "data": (f"{DATA}/{UNPACKING}", lambda folder: _alone(folder).__enter__()),
    "owner": (OWNER_LOCK, lambda folder: FolderOwner(folder).acquire()),
    "process": (CHILD_LOCK, lambda folder: _locked(folder).__enter__()),
}


@pytest.mark.parametrize("name", LOCKS)
def test_what_a_link_in_place_of_a_lock_leads_to_is_not_emptied(name, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    path, lock = LOCKS[name]
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"):
        lock(tmp_path)
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_an_object_is_read():
    assert json_object('{"a": [1, NaN]}')["a"][0] == json_object(b'{"a": 1}')["a"] == 1
