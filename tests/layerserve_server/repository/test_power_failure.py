"""Changes of a repository that were answered survive a machine that loses power: bytes and names are on its disk."""

from __future__ import annotations

import hashlib

import pytest
from layerserve_server.disk import replace_file
from layerserve_server.repository.audit import AuditLog
from layerserve_server.repository.changes import Changes
from layerserve_server.repository.control import write_control
from layerserve_server.repository.publishing import publish, remove_label, withdraw, write_label
from layerserve_server.repository.staging import DeclaredFile
from layerserve_server.repository.uploads import Uploads
from synced import Disk


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def disk(root, monkeypatch):
    (root / "known").mkdir(parents=True)
    return Disk(monkeypatch)


def small_file(root):
    replace_file(root / "known" / "small", "{}", flushed=True)
    return [root / "known" / "small"]


def trained(name, **options):
    """Publishes what a run has trained, with a copy of a file beside it."""

    def change(root):
        (root.parent / "result.keras").write_text("trained")
        (root.parent / "golden.npz").write_text("golden")
        beside = {"golden.npz": root.parent / "golden.npz"}
        number = publish(root, name, root.parent / "result.keras", {"run": "r1"}, beside=beside, **options)
        return [root / name / str(number)]

    return change


def trained_again(root):
    return [*trained("known")(root), *trained("known", expected=1)(root)]


def labelled(root):
    write_label(root / "known", "stable", 1)
    return [root / "known" / "labels.json"]


def no_longer_labelled(root):
    write_label(root / "known", "stable", 1)
    remove_label(root / "known", "stable")
    return [root / "known" / "labels.json"]


def pinned(root):
    write_control(root / "known", pinned=3)
    return [root / "known" / "serving.json"]


CHANGES = [small_file, trained("known"), trained("new"), trained_again, labelled, no_longer_labelled, pinned]


@pytest.mark.parametrize(
    "change",
    CHANGES,
    ids=["small file", "version", "new model", "next version", "label", "label removed", "pinned"],
)
def test_what_was_written_is_on_the_disk(disk, root, change):
    written = change(root)
    assert written
    assert disk.lost(*written) == []


@pytest.mark.parametrize("name", ["known", "new"])
def test_an_upload_is_on_the_disk(disk, make, root, tmp_path, name):
    contents = {"model.keras": b'{"offset": 4}', "golden.npz": b"g", "more/notes.txt": b"n", "layerserve.toml": b""}
    repository = make()
    manager = Uploads(repository, Changes(repository, AuditLog(tmp_path / "state")), max_bytes=10_000)
    files = [DeclaredFile(path, len(text), hashlib.sha256(text).hexdigest()) for path, text in contents.items()]
    staged = manager.stage(name, files, "stable", "ann")
    for index, text in enumerate(contents.values()):
        staged.add(index, text)
    staged.complete()
    version, _ = manager.publish(staged, "stable", "ann")
    staged.discard()
    folder = root / name
    inside = {path.relative_to(folder / str(version)).as_posix() for path in (folder / str(version)).rglob("*")}
    assert {"model.keras", "more/notes.txt", "manifest.json"} <= inside
    assert disk.lost(folder / str(version), folder / "labels.json", folder / "layerserve.toml") == []


def test_what_was_removed_does_not_come_back(disk, root):
    paths = [root / "known" / "1", root / "known" / "2"]
    for path in paths:
        path.mkdir()
    withdraw(root, paths)
    assert disk.gone(*paths)


def test_a_disk_that_is_not_flushed_loses_what_was_written(disk, root):
    """The check itself: without the flushes it finds what is missing."""
    path = root / "known" / "small"
    replace_file(path, "{}")
    assert disk.lost(path) == ["small: . before it has that name", "small: its bytes", "small: its name"]
