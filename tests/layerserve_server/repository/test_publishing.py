"""Publishing: all of a version or nothing, never over another one."""

import errno
import fcntl
import json
import os
import threading

import pytest
from layerserve_server import disk
from layerserve_server.errors import VersionConflictError
from layerserve_server.folder_owner import unfinished
from layerserve_server.repository import publishing
from layerserve_server.repository.publishing import (
    UnreadableFileError,
    check_manifest,
    publish,
    read_labels,
    read_manifest,
    sweep,
    write_label,
)
from layerserve_server.repository.writer import FolderWriter
from left_folders import left_behind
from open_files import open_below


@pytest.fixture
def result(tmp_path):
    def make(text="trained", name="result.keras"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


def test_a_version_appears_with_its_manifest(tmp_path, result):
    root = tmp_path / "models"
    assert publish(root, "m", result(), {"run": "r1", "base_version": 0}) == 1
    assert publish(root, "m", result("again"), {"run": "r2"}) == 2
    assert (root / "m" / "2" / "model.keras").read_text() == "again"
    manifest = read_manifest(root / "m" / "1")
    assert (manifest["run"], manifest["bytes"], manifest["file"]) == ("r1", 7, "model.keras")
    assert check_manifest(root / "m" / "1" / "model.keras", manifest) == ""
    assert sorted(os.listdir(root / "m")) == ["1", "2"]


def test_the_number_is_above_all_others(tmp_path, result):
    root = tmp_path / "models"
    (root / "m" / "41").mkdir(parents=True)
    assert publish(root, "m", result(), {}) == 42
    assert publish(root, "m", result(), {}, above=99) == 100


@pytest.mark.parametrize("number", [errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR])
def test_a_number_that_another_publisher_has_just_taken_is_passed_over(tmp_path, result, monkeypatch, number):
    rename, folder = os.rename, tmp_path / "models" / "m"

    def late(old, new):
        if new.name == "1":
            (folder / "1").mkdir()
            raise OSError(number, "")
        rename(old, new)

    monkeypatch.setattr(publishing.os, "rename", late)
    assert publish(tmp_path / "models", "m", result(), {}) == 2
    assert (folder / "2" / "model.keras").read_text() == "trained"
    assert sorted(os.listdir(folder)) == ["1", "2"]


def test_nothing_is_published_above_a_version_that_is_not_expected(tmp_path, result):
    root = tmp_path / "models"
    publish(root, "m", result(), {})
    assert publish(root, "m", result(), {}, above=6, expected=1) == 7
    file = result("late")
    with pytest.raises(VersionConflictError, match="got version 7 as its newest, expected version 1") as caught:
        publish(root, "m", file, {}, expected=1)
    assert (caught.value.newest, file.read_text(), sorted(os.listdir(root / "m"))) == (7, "late", ["1", "7"])


def test_a_version_that_the_model_never_had_is_not_expected(tmp_path, result):
    """The numbers between would be lost, up to the largest that a version may have."""
    root = tmp_path / "models"
    publish(root, "m", result(), {})
    for expected in (2, 10**18 - 2, 2**63 - 1):
        with pytest.raises(VersionConflictError, match=f"got version 1 as its newest, expected version {expected}"):
            publish(root, "m", result("late"), {}, expected=expected)
    # Version 6 was deleted.
    assert publish(root, "m", result("late"), {}, above=6, expected=6) == 7
    assert sorted(os.listdir(root / "m")) == ["1", "7"]


@pytest.mark.parametrize("before_the_last_look", [False, True])
def test_a_version_that_comes_between_check_and_renaming_is_noticed(
    tmp_path, result, monkeypatch, before_the_last_look
):
    folder = tmp_path / "models" / "m"
    publish(tmp_path / "models", "m", result(), {})

    def other(call):
        def do(*arguments):
            if not (folder / "2").exists():
                (folder / "2").mkdir()
                (folder / "2" / "model.keras").touch()
            return call(*arguments)

        return do

    name = "path.lexists" if before_the_last_look else "rename"
    monkeypatch.setattr(f"os.{name}", other(os.path.lexists if before_the_last_look else os.rename))
    file = result("late")
    with pytest.raises(VersionConflictError, match="got version 2"):
        publish(tmp_path / "models", "m", file, {}, expected=1)
    assert (sorted(os.listdir(folder)), file.read_text()) == (["1", "2"], "late")


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "models", "m", tmp_path / "missing.keras", {})
    assert os.listdir(tmp_path / "models" / "m") == []


def refusing(number, text):
    def refuse(*_args, **_options):
        raise OSError(number, text)

    return refuse


def test_a_failure_leaves_the_file_where_it_was(tmp_path, result, monkeypatch):
    file = result()
    with monkeypatch.context() as patch:
        patch.setattr(publishing.os, "rename", refusing(28, "No space left on device"))
        with pytest.raises(OSError, match="No space left"):
            publish(tmp_path / "models", "m", file, {})
    assert file.read_text() == "trained"
    assert os.listdir(tmp_path / "models" / "m") == []
    assert publish(tmp_path / "models", "m", file, {}) == 1
    assert not file.exists()


def test_the_file_has_its_old_name_until_the_version_is_there_and_on_the_disk(tmp_path, result, monkeypatch):
    """A publisher killed at any moment can begin anew, or finds its version."""
    file, folder, seen = result(), tmp_path / "models" / "m", []
    sync, rename = publishing.sync, os.rename

    def note(step, path):
        seen.append((step, path.name.partition("-")[0], file.exists(), publishing.version_numbers(folder)))

    monkeypatch.setattr(publishing, "sync", lambda path: (sync(path), note("synced", path)))
    monkeypatch.setattr(publishing.os, "rename", lambda old, new: (note("renaming", old), rename(old, new)))
    publish(tmp_path / "models", "m", file, {})
    assert seen == [
        ("synced", "model.keras", True, []),
        ("synced", "manifest.json", True, []),
        ("synced", "new", True, []),
        ("renaming", "new", True, []),
        ("synced", "m", True, [1]),
        ("synced", "models", True, [1]),
    ]


def test_a_sync_waits_for_the_disk_and_closes_what_it_opened(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(publishing.os, "fsync", lambda handle: synced.append(os.readlink(f"/proc/self/fd/{handle}")))
    publishing.sync(tmp_path)
    assert synced == [str(tmp_path)]
    assert open_below(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_a_file_on_another_filesystem_is_copied(tmp_path, result, monkeypatch, number):
    file = result()
    monkeypatch.setattr(publishing.os, "link", refusing(number, "Invalid cross-device link"))
    publish(tmp_path / "models", "m", file, {})
    assert (tmp_path / "models" / "m" / "1" / "model.keras").read_text() == "trained"
    assert not file.exists()


def test_a_link_that_fails_otherwise_is_told(tmp_path, result, monkeypatch):
    monkeypatch.setattr(publishing.os, "link", refusing(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        publish(tmp_path / "models", "m", result(), {})


@pytest.mark.parametrize(("name", "published"), [("a.keras", "model.keras"), ("a.h5", "model.h5")])
def test_a_file_keeps_its_format(tmp_path, result, name, published):
    publish(tmp_path / "models", "m", result(name=name), {})
    assert sorted(os.listdir(tmp_path / "models" / "m" / "1")) == ["manifest.json", published]


def test_a_file_that_is_not_what_its_manifest_says_is_told(tmp_path, result):
    publish(tmp_path / "models", "m", result(), {})
    path = tmp_path / "models" / "m" / "1" / "model.keras"
    manifest = read_manifest(path.parent)
    path.write_text("trainex")
    assert "sha256 differs" in check_manifest(path, manifest)
    path.write_text("longer than it was")
    assert "expected 7 as in its manifest" in check_manifest(path, manifest)


def test_a_manifest_that_is_missing_says_nothing(tmp_path):
    assert read_manifest(tmp_path) == {}
    (tmp_path / "model.keras").write_text("any")
    assert check_manifest(tmp_path / "model.keras", {}) == ""


@pytest.mark.parametrize("read", [read_manifest, read_labels])
@pytest.mark.parametrize("text", ["", "[", "[1]", "[" * 10**5, "\xff"])
def test_a_file_that_is_no_json_object_is_not_one_without_values(tmp_path, text, read):
    for name in ("manifest.json", "labels.json"):
        (tmp_path / name).write_text(text, "latin-1")
    with pytest.raises(UnreadableFileError, match=r"(manifest|labels)\.json: "):
        read(tmp_path)


@pytest.mark.parametrize("read", [read_manifest, read_labels])
def test_a_file_is_not_read_through_a_link_or_a_pipe(tmp_path, read):
    (tmp_path / "real.json").write_text('{"run": 1}')
    for name in ("manifest.json", "labels.json"):
        (tmp_path / name).symlink_to(tmp_path / "real.json")
    with pytest.raises(UnreadableFileError, match="Too many levels of symbolic links"):
        read(tmp_path)
    for name in ("manifest.json", "labels.json"):
        (tmp_path / name).unlink()
        os.mkfifo(tmp_path / name)
    with pytest.raises(UnreadableFileError):
        read(tmp_path)


def test_what_a_killed_publisher_left_is_swept_and_what_a_living_one_makes_is_not(tmp_path):
    root = tmp_path / "models"
    left = [left_behind(root / "m"), left_behind(root)]
    with unfinished(root / "m") as made:
        os.utime(made.parent, (0, 0))
        assert sorted(sweep(root)) == sorted(left)
        assert made.is_dir()
    assert os.listdir(root / "m") == []


def test_nothing_is_written_through_a_link_in_place_of_a_model(tmp_path, result):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "version").mkdir()
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m").symlink_to(tmp_path / "elsewhere")
    writer = FolderWriter(tmp_path / "models")
    for write in (
        lambda: writer.check_writable("m"),
        lambda: writer.publish("m", result(), {}, above=0),
        lambda: writer.publish_folder("m", tmp_path / "version", above=0, settings=None),
        lambda: writer.write_label("m", "best", 1),
        lambda: writer.remove_label("m", "best"),
        lambda: writer.write_control("m", pinned=1),
    ):
        with pytest.raises(OSError, match="'m' is a symbolic link, expected a folder"):
            write()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "version").is_dir()


@pytest.mark.parametrize("before", [None, b"nice = 1"])
def test_a_version_is_never_there_without_the_settings_that_come_with_it(tmp_path, monkeypatch, before):
    """They may name its callers, and another server may look at any time."""
    folder, file = tmp_path / "version", tmp_path / "models" / "m" / "layerserve.toml"
    folder.mkdir()
    if before is not None:
        file.parent.mkdir(parents=True)
        file.write_bytes(before)
    claim, seen = publishing.claim, []
    writer = FolderWriter(tmp_path / "models")

    def full(*arguments):
        seen.append(file.read_bytes())
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publishing, "claim", full)
    with pytest.raises(OSError, match="No space left"):
        writer.publish_folder("m", folder, above=0, settings=b"nice = 2")
    assert seen == [b"nice = 2"]
    assert (file.read_bytes() if file.exists() else None) == before
    assert (tmp_path / "models" / "m").exists() == (before is not None)
    monkeypatch.setattr(publishing, "claim", claim)
    assert writer.publish_folder("m", folder, above=0, settings=b"nice = 2") == 1
    assert file.read_bytes() == b"nice = 2"


def test_nothing_is_swept_through_a_link(tmp_path):
    outside = left_behind(tmp_path / "outside")
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "m").symlink_to(outside.parent)
    assert sweep(tmp_path / "models") == []
    assert sweep(tmp_path / "nowhere") == []


def test_labels_point_at_versions(tmp_path):
    assert read_labels(tmp_path) == {}
    write_label(tmp_path, "stable", 3)
    write_label(tmp_path, "canary", 4)
    assert read_labels(tmp_path) == {"stable": 3, "canary": 4}


def test_a_label_is_written_in_one_step(tmp_path, monkeypatch):
    """Whoever reads meanwhile, or after a kill at any step, finds the labels of before or of after."""
    write_label(tmp_path, "stable", 3)
    sync, seen = disk.sync, []

    def note(path):
        seen.append((path.name if path == tmp_path else json.loads(path.read_text()), read_labels(tmp_path)))
        sync(path)

    monkeypatch.setattr(disk, "sync", note)
    write_label(tmp_path, "stable", 4)
    # First the new file is on the disk, then it takes the name, then the name is on the disk.
    assert seen == [({"stable": 4}, {"stable": 3}), (tmp_path.name, {"stable": 4})]
    assert os.listdir(tmp_path) == ["labels.json"]


def test_a_label_that_can_not_be_written_changes_nothing(tmp_path, monkeypatch):
    write_label(tmp_path, "stable", 3)
    monkeypatch.setattr(publishing.os, "replace", refusing(errno.ENOSPC, "No space left on device"))
    with pytest.raises(OSError, match="No space left"):
        write_label(tmp_path, "stable", 4)
    assert read_labels(tmp_path) == {"stable": 3}
    assert os.listdir(tmp_path) == ["labels.json"]


def test_another_process_does_not_write_labels_meanwhile(tmp_path):
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    writing = threading.Thread(target=write_label, args=(tmp_path, "stable", 3))
    writing.start()
    writing.join(0.1)
    assert read_labels(tmp_path) == {}
    os.close(held)
    writing.join(30)
    assert read_labels(tmp_path) == {"stable": 3}


@pytest.mark.parametrize("values", [{"a b": 1}, {"c": "1"}, {"d": -1}, {"e": True}, {"f": 0}])
def test_a_wrong_label_is_an_error_and_is_not_replaced(tmp_path, values):
    text = json.dumps({"stable": 3, **values})
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(UnreadableFileError, match=r"labels\.json: got '[a-f b]+': .*, expected labels with version"):
        read_labels(tmp_path)
    with pytest.raises(UnreadableFileError):
        write_label(tmp_path, "new", 1)
    assert (tmp_path / "labels.json").read_text() == text
