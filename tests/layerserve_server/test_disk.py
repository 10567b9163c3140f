"""Files that the server writes for itself: damage of one of them is an error that their readers expect."""

import errno
import fcntl
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import suppress

import pytest
from damaged_files import DAMAGES, TEXTS, check_goes_on
from layerserve_server.artifacts.artifacts import Artifacts
from layerserve_server.datasets.dataset import RECORD, SAMPLE, Dataset, Declaration, read_samples
from layerserve_server.datasets.partial_upload import NOTE as UPLOAD
from layerserve_server.datasets.partial_upload import Part, read_note
from layerserve_server.disk import json_object, locked, replace_file, try_lock
from layerserve_server.errors import RefusedChangeError
from layerserve_server.folder_owner import OWNER_LOCK, FolderOwner
from layerserve_server.repository.usage import Usage
from layerserve_server.training.events import Event
from layerserve_server.training.program.main import _locked
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder.digests import data_identity
from layerserve_server.training.run_folder.layout import CHILD_LOCK, DIGESTS
from layerserve_server.training.run_folder.result import OUTCOME, RunResult


@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_object_is_an_error_of_values(text, tmp_path):
    for read in (json_object, RunRequest.from_json, lambda text: Event.from_line(text.encode())):
        with pytest.raises(ValueError, match=r"."):
            read(text)
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=r"."):
        Dataset.read(tmp_path)
    (tmp_path / OUTCOME).write_text(text)
    assert RunResult.read(tmp_path) is None


#: Files that a server can do without, by name: where they are, and what reads them.
OPTIONAL = {
    "digests": (DIGESTS, lambda folder: data_identity(folder, RunRequest("m", 1, ()))),
    "upload": (UPLOAD, lambda folder: read_note(folder).bytes),
    "samples": (SAMPLE, read_samples),
    "usage": ("usage.json", lambda folder: Usage(folder / "usage.json").read()),
    "graphs": ("digests.json", lambda folder: Artifacts(folder.parent, ()).is_whole(folder.name)),
}
#: Whether the log names a file that is damaged; others are made anew without that.
NAMED = {"digests", "upload", "samples", "usage"}


@pytest.mark.parametrize("name", OPTIONAL)
@pytest.mark.parametrize("damage", DAMAGES)
def test_without_a_file_that_is_damaged_a_server_goes_on(name, damage, tmp_path, caplog, monkeypatch):
    file, read = OPTIONAL[name]
    check_goes_on(tmp_path / file, lambda: read(tmp_path), damage, caplog, monkeypatch, named=name in NAMED)


#: Objects of wrong values, by name of the file.
WRONG = [
    ("upload", {"bytes": "5"}),
    ("upload", {"other": 5}),
    ("samples", {"x": 3}),
    ("samples", {"x": {"rows": 1}}),
    ("samples", {"x": {"rows": 1, "data": "?"}}),
    ("samples", {"x": {"rows": 10**30, "data": ""}}),
    ("usage", {"m": 10**400}),
    ("usage", {"m": True}),
]


@pytest.mark.parametrize(("name", "values"), WRONG)
def test_wrong_values_are_left_out(name, values, tmp_path):
    file, read = OPTIONAL[name]
    (tmp_path / file).write_text(json.dumps(values))
    assert not read(tmp_path)


LOCKS = {
    "locked": ("lock", lambda folder: locked(folder / "lock").__enter__()),
    "kept": (f"locks/{'a' * 2}", lambda folder: Artifacts(folder, (), max_bytes=0)._lock("a" * 64)),
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
@pytest.mark.parametrize(
    "take",
    [
        lambda folder: FolderOwner(folder).acquire(),
        lambda folder: Part(folder, Declaration("npz", 1, "0"), "ann"),
    ],
    ids=["run", "upload"],
)
def test_a_file_system_without_locks_is_no_other_server(take, number, tmp_path, monkeypatch):
    def missing(file, kind):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises((OSError, RefusedChangeError), match=re.escape(os.strerror(number))):
        take(tmp_path)


def test_a_lock_that_is_held_is_not_taken(tmp_path):
    held = try_lock(tmp_path / "lock")
    assert try_lock(tmp_path / "lock") is None
    held.close()
    try_lock(tmp_path / "lock").close()


def test_an_object_is_read():
    assert json_object('{"a": [1, NaN]}')["a"][0] == json_object(b'{"a": 1}')["a"] == 1


KILLED = """
import os, sys
from pathlib import Path
from layerserve_server import disk
os.replace = lambda old, new: os.kill(os.getpid(), 9)
disk.replace_file(Path(sys.argv[1]), "new")
"""


def test_a_kill_while_a_file_is_replaced_leaves_one_hidden_file_at_most(tmp_path):
    path = tmp_path / "file"
    replace_file(path, "a longer text before")
    for _ in range(3):
        subprocess.run([sys.executable, "-c", KILLED, path], check=False)
        assert path.read_text() == "a longer text before"
    assert len(os.listdir(tmp_path)) == 2
    replace_file(path, "after")
    assert path.read_text() == "after"
    assert os.listdir(tmp_path) == ["file"]


LEFT = {
    # As of an earlier start as root. Root itself can write it.
    "read-only": lambda path: path.touch(mode=0o400),
    "a folder": lambda path: (path / "below").mkdir(parents=True),
    "a link": lambda path: path.symlink_to(path.with_name("theirs")),
    "a second name": lambda path: path.hardlink_to(path.with_name("theirs")),
    "a pipe": os.mkfifo,
}


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_a_file_is_replaced_whatever_is_left_at_its_hidden_name(left, tmp_path):
    (tmp_path / "theirs").write_text("theirs")
    left(tmp_path / ".file.new")
    replace_file(tmp_path / "file", "new")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["file", "theirs"]


def test_writers_of_one_file_at_a_time_never_mix(tmp_path):
    path, texts = tmp_path / "file", [letter * 5000 for letter in "abcd"]
    seen, done = set(), threading.Event()

    def look():
        while not done.is_set():
            with suppress(FileNotFoundError):
                seen.add(path.read_text())

    looking = threading.Thread(target=look)
    looking.start()
    writers = [
        threading.Thread(target=lambda text=text: [replace_file(path, text) for _ in range(50)]) for text in texts
    ]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    done.set()
    looking.join()
    assert seen <= set(texts)
    assert os.listdir(tmp_path) == ["file"]
