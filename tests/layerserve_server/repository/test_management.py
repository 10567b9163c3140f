"""Changes by calls: they take effect, survive a restart, leave nothing where they fail, and are audited."""

import hashlib
import json
import os
import threading
import time
from dataclasses import replace

import pytest
from failing_files import fail_writes
from layerserve_server.errors import (
    BusyError,
    IncompleteDataError,
    InvalidRequestError,
    NotLoadedError,
    RefusedChangeError,
    TooLargeError,
    UnavailableError,
    UnknownLabelError,
    UnknownModelError,
    UnknownVersionError,
    VersionFailedError,
)
from layerserve_server.repository import changes, publishing, staging, writer
from layerserve_server.repository.audit import FILE, AuditLog
from layerserve_server.repository.changes import Changes
from layerserve_server.repository.control import Control, read_control, write_control
from layerserve_server.repository.management import Manager
from layerserve_server.repository.model_settings import MAX_BYTES, ModelSettings
from layerserve_server.repository.publishing import UnreadableFileError
from layerserve_server.repository.staging import DeclaredFile
from layerserve_server.repository.uploads import Uploads
from layerserve_server.repository.version_states import State

ME = "ann"


class Managed(Manager):
    """What changes a repository, with its uploads."""

    def __init__(self, repository, changes, max_upload_bytes):
        super().__init__(repository, changes)
        uploads = Uploads(repository, changes, max_bytes=max_upload_bytes)
        self.stage, self.publish, self.note_run = uploads.stage, uploads.publish, changes.note_run


@pytest.fixture
def manage(make, tmp_path):
    """A repository and what changes it."""

    def make_manager(follow=lambda name: (), max_upload_bytes=10_000, **options):
        repository = make(**options)
        changes = Changes(repository, AuditLog(tmp_path / "state"), follow)
        return repository, Managed(repository, changes, max_upload_bytes)

    return make_manager


@pytest.fixture
def root(tmp_path):
    return tmp_path / "models"


def audited(tmp_path):
    return [json.loads(line) for line in (tmp_path / "state" / FILE).read_text().splitlines()]


def answering(repository, *choice):
    with repository.leases.lease(*choice) as version:
        return version.version, version.model.offset


def leased(repository, *choice):
    """Like `answering`, but of what is in memory: waits for nothing."""
    with repository.leases.lease_loaded(*choice) as version:
        return version.version, version.model.offset


def states(repository, name="double"):
    return {one.version: one.state for one in repository.catalogue.describe(name)}


def declared(files):
    return [DeclaredFile(path, len(content), hashlib.sha256(content).hexdigest()) for path, content in files.items()]


def upload(manager, name="double", label="", **files):
    """Uploads files by their names, with '.' as '__'."""
    contents = {path.replace("__", "."): text.encode() for path, text in files.items()}
    staged = manager.stage(name, declared(contents), label, ME)
    try:
        for index, content in enumerate(contents.values()):
            for start in range(0, len(content), 7):
                staged.add(index, content[start : start + 7])
        staged.complete()
        return manager.publish(staged, label, ME)
    finally:
        staged.discard()


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


# Uploads.


def test_an_upload_becomes_a_version_that_serves(manage, put, root, tmp_path):
    put(version=3, offset=3)
    repository, manager = manage()
    version, change = upload(manager, model__keras='{"offset": 4}', golden__npz="g", label="new")
    assert version == 4
    assert answering(repository, "double") == answering(repository, "double", None, "new") == (4, 4)
    assert [(one.version, one.labels) for one in change.versions] == [(4, ("new",)), (3, ())]
    assert tree(root / "double" / "4") == {"model.keras", "golden.npz", "manifest.json"}
    manifest = publishing.read_manifest(root / "double" / "4")
    assert (manifest["uploaded_by"], manifest["bytes"]) == (ME, 13)
    (record,) = audited(tmp_path)
    record.pop("time")
    assert record == {
        **{"who": ME, "action": "upload", "model": "double", "bytes": 14, "label": "new"},
        **{"version": 4, "outcome": "done"},
    }


def test_an_upload_with_other_inputs_is_compared_with_the_default(manage, put, load_fake):
    def load(path):
        made = load_fake(path)
        made.input_specs = (replace(made.input_specs[0], shape=(None, int(made.offset))),)
        return made

    put(version=1, offset=2)
    _, manager = manage(load=load)
    text = "input 'x': version {} has (None, {}) float32, version {} has (None, {}) float32"
    assert upload(manager, model__keras='{"offset": 2}')[1].differences == []
    assert upload(manager, model__keras='{"offset": 3}')[1].differences == [text.format(3, 3, 2, 2)]
    manager.pin("double", 1, ME)
    assert upload(manager, model__keras='{"offset": 4}')[1].differences == [text.format(4, 4, 1, 2)]
    assert upload(manager, "new", model__keras='{"offset": 2}')[1].differences == []


def test_an_upload_may_be_the_first_version_of_a_model_with_its_settings(manage, root):
    root.mkdir()
    repository, manager = manage()
    version, _ = upload(manager, "new", model__keras='{"offset": 4}', layerserve__toml="nice = 3")
    assert (version, answering(repository, "new")) == (1, (1, 4))
    assert repository.catalogue.settings("new") == ModelSettings(nice=3)
    assert tree(root) == {"new", "new/layerserve.toml", "new/1", "new/1/model.keras", "new/1/manifest.json"}


@pytest.mark.parametrize(
    ("files", "error"),
    [
        ({"model__keras": "{"}, VersionFailedError),
        ({"golden__npz": "x"}, InvalidRequestError),
        ({"a__keras": "{}", "b__keras": "{}"}, InvalidRequestError),
        ({"model__keras": "{}", "layerserve__toml": "nice = 99"}, InvalidRequestError),
    ],
    ids=["can't be loaded", "no model", "two models", "settings"],
)
@pytest.mark.parametrize("known", [True, False])
def test_an_upload_that_is_no_version_leaves_nothing(manage, put, root, tmp_path, files, error, known):
    put("other" if not known else "double", offset=1)
    repository, manager = manage()
    before, versions = tree(root), repository.catalogue.describe()
    with pytest.raises(error):
        upload(manager, **files)
    assert tree(root) == before
    assert [one.version for one in repository.catalogue.describe()] == [one.version for one in versions]
    (record,) = audited(tmp_path)
    assert record["outcome"].startswith(f"{error.reason}: ")


def test_an_upload_is_tested_with_its_labels_of_classes(manage, put, root):
    put()
    repository, manager = manage()
    settings = 'class_labels = { y = "labels.txt" }'
    with pytest.raises(VersionFailedError, match=r"'labels\.txt' has 1 labels, expected 2"):
        upload(manager, model__keras="{}", layerserve__toml=settings, labels__txt="cat")
    assert upload(manager, model__keras="{}", layerserve__toml=settings, labels__txt="cat\ndog")[0] == 2
    assert (root / "double" / "2" / "labels.txt").read_text() == "cat\ndog"
    with pytest.raises(VersionFailedError, match=r"no file 'labels\.txt'"):
        upload(manager, model__keras="{}")
    (root / "double" / "labels.txt").write_text("cow\npig")
    assert upload(manager, model__keras="{}")[0] == 3
    with repository.leases.lease("double") as version:
        assert version.class_labels == {"y": [b"cow", b"pig"]}


def test_an_upload_is_tested_with_the_settings_that_it_will_have(manage, put, load_fake):
    put()

    def load(path, settings):
        if settings.nice > 3:
            raise VersionFailedError("too nice")
        return load_fake(path)

    repository, manager = manage(load=load)
    upload(manager, model__keras="{}", layerserve__toml="nice = 3")
    with pytest.raises(VersionFailedError, match="the uploaded version can't be loaded: too nice"):
        upload(manager, model__keras="{}", layerserve__toml="nice = 4")
    assert repository.catalogue.settings("double").nice == 3


@pytest.mark.parametrize(
    ("step", "error", "text"),
    [
        (lambda s: s.complete(), IncompleteDataError, "file 'a.keras': got 0 bytes, expected 4"),
        (lambda s: (s.add(0, b"abc"), s.complete()), IncompleteDataError, "file 'a.keras': got 3 bytes, expected 4"),
        (lambda s: s.add(0, b"abcde"), InvalidRequestError, "more than the 4 bytes that are declared"),
        (lambda s: s.add(0, b"abcx") or s.complete(), IncompleteDataError, "got SHA-256 .*, expected "),
        (lambda s: s.add(1, b""), IncompleteDataError, "file 'a.keras': got 0 bytes"),
        (lambda s: s.add(2, b""), InvalidRequestError, "file 2: got a chunk, but the spec declares 2 files"),
        (lambda s: s.add(-1, b""), InvalidRequestError, "file -1: got a chunk"),
        (lambda s: (s.add(0, b"abcd"), s.add(1, b"e"), s.add(0, b"")), InvalidRequestError, "after one of file 1"),
    ],
)
def test_content_that_is_not_what_was_declared_is_refused(manage, root, step, error, text):
    root.mkdir()
    _, manager = manage()
    staged = manager.stage("m", declared({"a.keras": b"abcd", "b": b"ef"}), "", ME)
    with pytest.raises(error, match=text):
        step(staged)
    staged.discard()
    assert tree(root) == set()


GOOD = "0" * 64


@pytest.mark.parametrize(
    ("name", "files", "error"),
    [
        ("../m", [DeclaredFile("a", 1, GOOD)], "name: got '../m'"),
        ("", [DeclaredFile("a", 1, GOOD)], "name: got ''"),
        (".m", [DeclaredFile("a", 1, GOOD)], "name: got '.m'"),
        ("m", [], "files: got 0, expected 1 to"),
        ("m", [DeclaredFile(f"f{n}", 1, GOOD) for n in range(2000)], "files: got 2000"),
        *(
            ("m", [DeclaredFile(path, 1, GOOD)], f"path '{path}': expected")
            for path in ("../a", "/a", "a/../b", ".a", "a/.b", "a//b", "a/", "", "a\0", "a/b/c/d/e", "~", "ä")
            if path.isprintable()
        ),
        ("m", [DeclaredFile("manifest.json", 1, GOOD)], "the server writes this file itself"),
        ("m", [DeclaredFile("labels.json", 1, GOOD)], "the server writes this file itself"),
        ("m", [DeclaredFile("a", 1, GOOD), DeclaredFile("a", 1, GOOD)], "path 'a': given more than once"),
        ("m", [DeclaredFile("a/b", 1, GOOD), DeclaredFile("a", 1, GOOD)], "path 'a': given more than once"),
        ("m", [DeclaredFile("a", -1, GOOD)], "file 'a': got -1 bytes"),
        ("m", [DeclaredFile("layerserve.toml", MAX_BYTES + 1, GOOD)], f"got {MAX_BYTES + 1} bytes, expected up to"),
        ("m", [DeclaredFile("a", 1, "")], "expected 64 hexadecimal digits"),
        ("m", [DeclaredFile("a", 1, "G" * 64)], "expected 64 hexadecimal digits"),
    ],
)
def test_a_spec_that_is_wrong_is_refused_before_anything_is_written(manage, root, name, files, error):
    root.mkdir()
    _, manager = manage()
    with pytest.raises((InvalidRequestError, TooLargeError)) as raised:
        manager.stage(name, files, "", ME)
    assert error in str(raised.value)
    assert tree(root) == set()


def test_what_is_too_large_is_refused_before_anything_is_written(manage, root, monkeypatch):
    root.mkdir()
    _, manager = manage(max_upload_bytes=100)
    with pytest.raises(TooLargeError, match="got 101 bytes in total, but the server takes up to 100"):
        manager.stage("m", [DeclaredFile("a", 60, GOOD), DeclaredFile("b", 41, GOOD)], "", ME)
    with pytest.raises(InvalidRequestError, match="label: got 'a b'"):
        manager.stage("m", [DeclaredFile("a", 60, GOOD)], "a b", ME)
    usage = staging.shutil.disk_usage
    monkeypatch.setattr(staging.shutil, "disk_usage", lambda path: usage(path)._replace(free=50))
    with pytest.raises(TooLargeError, match="but the disk has 50 free"):
        manager.stage("m", [DeclaredFile("a", 60, GOOD)], "", ME)
    assert tree(root) == set()


def test_an_upload_whose_bytes_can_not_be_written_leaves_nothing(manage, put, root):
    put(offset=1)
    _, manager = manage()
    before = tree(root)
    staged = manager.stage("double", declared({"model.keras": bytes(9_900)}), "", ME)
    staged.add(0, bytes(100))
    fail_writes(staged._file)
    with pytest.raises(RefusedChangeError, match="the repository can't be written"):
        staged.add(0, bytes(9_800))
    staged.discard()
    assert tree(root) == before


def test_a_disk_that_becomes_full_leaves_nothing(manage, put, root, monkeypatch):
    put(offset=1)
    repository, manager = manage()
    before = tree(root)
    for module, name in ((staging, "replace_file"), (publishing, "claim")):
        with monkeypatch.context() as patch:

            def refuse(*_args, **_options):
                raise OSError(28, "No space left on device")

            patch.setattr(module, name, refuse)
            with pytest.raises(RefusedChangeError, match="the repository can't be written: No space left"):
                upload(manager, model__keras="{}", layerserve__toml="nice = 1")
        assert tree(root) == before

    def refuse_settings(path, *_args, **_options):
        assert path.name == "layerserve.toml"
        raise OSError(28, "No space left on device")

    # The settings come last: a version without them would be another than the one that was tested.
    monkeypatch.setattr(writer, "replace_file", refuse_settings)
    with pytest.raises(RefusedChangeError, match="No space left"):
        upload(manager, model__keras="{}", layerserve__toml="nice = 1")
    assert tree(root) == before
    repository.scan()
    assert answering(repository, "double") == (1, 1)


# Load and unload.


def test_an_unloaded_model_is_refused_until_it_is_loaded_also_after_a_restart(manage, put, tmp_path):
    put(version=1, offset=1)
    put("other", offset=2)
    repository, manager = manage()
    lease = repository.leases.lease("double")
    change = manager.unload("double", ME)
    assert [one.state for one in change.versions] == [State.UNLOADING]
    assert lease.version.retired
    lease.end()
    for restarted in (repository, manage()[0]):
        assert states(restarted) == {1: State.UNLOADED}
        for ask in (restarted.leases.lease, restarted.leases.lease_loaded):
            for choice in (("double",), ("double", 1)):
                with pytest.raises(NotLoadedError, match="the model isn't loaded; LoadModel loads it"):
                    ask(*choice)
        assert answering(restarted, "other") == (1, 2)
    manager.load("double", ME)
    assert answering(repository, "double") == (1, 1)
    assert [(r["action"], r["outcome"]) for r in audited(tmp_path)] == [("unload", "done"), ("load", "done")]


def test_with_explicit_control_models_are_loaded_by_name_or_by_a_call(manage, put):
    put("a", offset=1)
    put("b", offset=2)
    repository, manager = manage(loads=lambda name: name == "a")
    assert (states(repository, "a"), states(repository, "b")) == ({1: State.READY}, {1: State.UNLOADED})
    manager.load("b", ME)
    assert answering(repository, "b") == (1, 2)
    manager.unload("a", ME)
    restarted, _ = manage(loads=lambda name: name == "a")
    assert (states(restarted, "a"), states(restarted, "b")) == ({1: State.UNLOADED}, {1: State.READY})


def test_without_polling_a_change_takes_no_version_that_nobody_asked_for(manage, put, tmp_path):
    put(version=1, offset=1)
    repository, manager = manage(polls=False)
    os.utime(put(version=2, offset=2), (0, 0))
    manager.set_label("double", "stable", 1, ME)
    manager.unpin("double", ME)
    assert upload(manager, model__keras='{"offset": 3}')[0] == 3
    manager.delete_version("double", 3, ME, force=True)
    assert repository.catalogue.versions() == {"double": [1]}
    result = tmp_path / "result.keras"
    result.write_text('{"offset": 4}')
    assert repository.publisher.publish("double", result, run="r1", base_version=1, label="stable") == 4
    assert repository.catalogue.versions() == {"double": [1, 4]}
    manager.load("double", ME)
    assert repository.catalogue.versions() == {"double": [1, 2, 4]}


def test_a_load_reads_one_model_again_and_no_other(manage, put):
    for name in ("a", "b"):
        put(name, offset=1)
    repository, manager = manage(settle_seconds=0)
    for name in ("a", "b"):
        os.utime(put(name, version=2, offset=2), (0, 0))
    manager.load("a", ME)
    assert (answering(repository, "a"), answering(repository, "b")) == ((2, 2), (1, 1))
    os.utime(put("new", offset=3), (0, 0))
    manager.load("new", ME)
    assert answering(repository, "new") == (1, 3)


def test_a_model_that_can_not_be_loaded_stays_as_it_was(manage, put):
    path = put("bad", text="{")
    put("double", offset=1)
    repository, manager = manage(loads=lambda name: name == "double")
    with pytest.raises(VersionFailedError, match=r"model 'bad' can't be loaded: version 1: .*truncated"):
        manager.load("bad", ME)
    assert states(repository, "bad") == {1: State.UNLOADED}
    assert repository.catalogue.control("bad") == Control()
    path.write_text("{}")
    os.utime(path, (0, 0))
    manager.load("bad", ME)
    assert answering(repository, "bad") == (1, 0)
    os.utime(put("double", version=2, text="{"), (0, 0))
    with pytest.raises(VersionFailedError, match=r"version 2: .*; version 1 serves"):
        manager.load("double", ME)
    assert answering(repository, "double") == (1, 1)


@pytest.mark.parametrize("name", ["absent", "../models", "", "a/b", "x" * 300])
def test_models_that_are_not_there_are_told_and_nothing_is_written(manage, put, root, name):
    put()
    _, manager = manage()
    before = tree(root)
    calls = [
        lambda: manager.load(name, ME),
        lambda: manager.unload(name, ME),
        lambda: manager.pin(name, 1, ME),
        lambda: manager.unpin(name, ME),
        lambda: manager.roll_back(name, 0, ME),
        lambda: manager.set_label(name, "a", 1, ME),
        lambda: manager.remove_label(name, "a", ME),
        lambda: manager.delete_version(name, 1, ME, force=True),
        lambda: manager.delete_model(name, ME, force=True),
    ]
    for call in calls:
        with pytest.raises((UnknownModelError, InvalidRequestError)):
            call()
    assert tree(root) == before


def test_versions_that_are_not_there_are_told(manage, put):
    put()
    _, manager = manage()
    for call in (manager.pin, manager.roll_back, manager.delete_version):
        with pytest.raises(UnknownVersionError, match="model 'double' has no version 9; it has 1"):
            call("double", 9, ME)
    with pytest.raises(UnknownVersionError):
        manager.set_label("double", "a", 9, ME)


# The canary.


def test_the_default_is_not_its_own_canary(manage, put):
    for version in (1, 2):
        put(version=version)
    repository, manager = manage()
    manager.set_label("double", "canary", 2, ME)
    text = (
        "version 2, which has the label 'canary', is the default, so that all callers get it: pin another version first"
    )
    with pytest.raises(RefusedChangeError, match=text):
        manager.set_canary("double", 0.05, ME)
    assert repository.catalogue.serving("double")["canary"] == 0
    assert manager.set_canary("double", 0.0, ME)[0] == 0
    manager.pin("double", 1, ME)
    assert manager.set_canary("double", 0.05, ME)[0] == 0.05


def shares(change):
    return {one.version: one.canary_share for one in change.versions}


@pytest.fixture
def canary(manage, put, root):
    """Versions 1 to 3: 2 is the default, and 3 the canary of 5 % of the callers."""

    def begin(settings=""):
        for version in (1, 2, 3):
            put(version=version, offset=version)
        (root / "double" / "layerserve.toml").write_text(settings)
        repository, manager = manage()
        manager.pin("double", 2, ME)
        manager.set_label("double", "canary", 3, ME)
        assert shares(manager.set_canary("double", 0.05, ME)[1]) == {3: 0.05, 2: 0, 1: 0}
        assert repository.catalogue.canaries["double"].version == 3
        return repository, manager

    return begin


@pytest.mark.parametrize("to", [0, 1, 2])
@pytest.mark.parametrize("settings", ["", 'canary = "10 %"'])
def test_a_rollback_ends_the_canary_whatever_version_it_names(canary, manage, tmp_path, to, settings):
    repository, manager = canary(settings)
    version, change = manager.roll_back("double", to, ME)
    assert (version, shares(change)) == (to or 1, {3: 0, 2: 0, 1: 0})
    for server in (repository, manage()[0]):
        assert not server.catalogue.canaries
    assert audited(tmp_path)[-1]["ended_canary"] == 0.05
    manager.set_label("double", "canary", 3, ME)
    assert not repository.catalogue.canaries


@pytest.mark.parametrize("settings", ["", 'canary = "10 %"'])
def test_the_canary_ends_with_a_rollback_after_it_was_promoted(canary, settings):
    """The sequence of the first page: callers stayed on the version that was rolled back."""
    repository, manager = canary(settings)
    manager.unpin("double", ME)
    assert manager.roll_back("double", 0, ME)[0] == 2
    assert not repository.catalogue.canaries


@pytest.mark.parametrize(
    "promote", [lambda manager: manager.unpin("double", ME), lambda manager: manager.pin("double", 3, ME)]
)
def test_a_canary_ends_when_its_version_is_the_default(canary, promote):
    repository, manager = canary()
    assert shares(promote(manager)) == {3: 0, 2: 0, 1: 0}
    assert repository.catalogue.control("double").canary is None
    manager.pin("double", 2, ME)
    assert not repository.catalogue.canaries


def test_the_share_in_the_settings_outlives_a_promotion(canary):
    _, manager = canary('canary = "10 %"')
    manager.unpin("double", ME)
    assert shares(manager.pin("double", 2, ME)) == {3: 0.1, 2: 0, 1: 0}


def test_a_rollback_that_fails_leaves_the_canary(canary):
    repository, manager = canary()
    manager.pin("double", 1, ME)
    text = (
        "model 'double' has no version below its default, 1, to roll back to; a canary ends when its share is set to 0%"
    )
    with pytest.raises(VersionFailedError, match=text):
        manager.roll_back("double", 0, ME)
    assert repository.catalogue.canaries["double"].share == 0.05


# The default.


def test_a_rollback_holds_until_it_is_undone_also_after_a_restart(manage, put, tmp_path):
    for version in (1, 2, 3):
        put(version=version, offset=version)
    repository, manager = manage()
    version, change = manager.roll_back("double", 0, ME)
    assert version == 2
    assert [(one.version, one.default, one.pinned) for one in change.versions] == [
        (3, False, False),
        (2, True, True),
        (1, False, False),
    ]
    upload(manager, model__keras='{"offset": 4}')
    for server in (repository, manage()[0]):
        assert answering(server, "double") == (2, 2)
    manager.unpin("double", ME)
    assert answering(repository, "double") == (4, 4)
    assert [(r["action"], r.get("from"), r.get("to")) for r in audited(tmp_path)] == [
        ("roll back", 3, 2),
        ("upload", None, None),
        ("unpin", 2, 4),
    ]


def test_a_rollback_passes_over_versions_that_can_not_be_loaded(manage, put):
    put(version=1, offset=1)
    put(version=2, text="{")
    put(version=3, offset=3)
    repository, manager = manage()
    assert manager.roll_back("double", 0, ME)[0] == 1
    with pytest.raises(VersionFailedError, match="model 'double' has no version below its default, 1, to roll back to"):
        manager.roll_back("double", 0, ME)
    with pytest.raises(VersionFailedError, match="truncated"):
        manager.roll_back("double", 2, ME)
    assert answering(repository, "double") == (1, 1)
    assert manager.roll_back("double", 3, ME)[0] == 3


def test_a_version_that_can_not_be_loaded_is_not_pinned(manage, put, root):
    put(version=1, text="{")
    put(version=2, offset=2)
    repository, manager = manage()
    with pytest.raises(VersionFailedError):
        manager.pin("double", 1, ME)
    assert (answering(repository, "double"), read_control(root / "double")) == ((2, 2), Control())


def test_a_pin_that_later_settings_exclude_does_not_count(manage, put, root):
    for version in (1, 2, 3):
        put(version=version, offset=version)
    repository, manager = manage()
    manager.pin("double", 1, ME)
    (root / "double" / "layerserve.toml").write_text("version_policy = 'specific'\nspecific_versions = [2, 3]")
    repository.scan()
    assert answering(repository, "double") == answering(manage()[0], "double") == (3, 3)
    with pytest.raises(NotLoadedError, match="the model's settings serve version 2, 3 only"):
        manager.pin("double", 1, ME)
    (root / "double" / "layerserve.toml").unlink()
    repository.scan()
    assert answering(repository, "double") == (1, 1)


def test_a_pinned_version_is_loaded_before_it_is_the_default(manage, put, load_fake):
    for version in (1, 2):
        put(version=version, offset=version)
    answers = []

    def load(path):
        if path.parent.name == "1":
            answers.append(answering(repository, "double"))
        return load_fake(path)

    repository, manager = manage(load=load)
    manager.pin("double", 1, ME)
    assert (answers, answering(repository, "double")) == ([(2, 2)], (1, 1))


def test_another_process_loads_what_it_is_told_before_it_answers(make, manage, put, load_fake):
    """It finds the pin and the labels on disk: until the versions are loaded, those of before answer."""
    for version in (1, 2, 3):
        put(version=version, offset=version)
    answers = []

    def load(path):
        if path.parent.name in ("1", "2"):
            answers.append((leased(worker, "double"), leased(worker, "double", None, "stable")))
        return load_fake(path)

    _, manager = manage()
    manager.set_label("double", "stable", 3, ME)
    worker = make(load=load)
    manager.pin("double", 1, ME)
    manager.set_label("double", "stable", 2, ME)
    worker.scan("double")
    assert answers == [((3, 3), (3, 3)), ((1, 1), (3, 3))]
    assert (answering(worker, "double"), answering(worker, "double", None, "stable")) == ((1, 1), (2, 2))
    assert worker.catalogue.serving("double") == {
        **{"default": 1, "labels": {"stable": 2}, "loaded": True, "canary": 0.0, "reasons": {}},
    }


def test_what_a_run_publishes_is_audited_and_followed(manage, put, tmp_path):
    put(offset=1)
    asked = []
    repository, manager = manage(follow=lambda name: asked.append(name) or ["worker process 1: late"])
    repository.publisher.run_published = manager.note_run
    for run, text in (("r1", '{"offset": 2}'), ("r2", "{")):
        result = tmp_path / "result.keras"
        result.write_text(text)
        try:
            repository.publisher.publish_once("double", result, run=run, base_version=1)
        except VersionFailedError:
            assert text == "{"
    assert asked == ["double", "double"]
    assert [(r["who"], r["action"], r["version"], r["outcome"][:15]) for r in audited(tmp_path)] == [
        ("run r1", "publish", 2, "done"),
        ("run r2", "publish", 3, "model_not_ready"),
    ]


# Labels.


def test_a_label_moves_to_versions_that_are_loaded_and_keeps_them(manage, put, tmp_path):
    for version in range(1, 6):
        put(version=version, offset=version)
    repository, manager = manage(max_old_versions=0)
    for version in (1, 3):
        change = manager.set_label("double", "stable", version, ME)
        assert [one.version for one in change.versions if "stable" in one.labels] == [version]
        assert answering(repository, "double", None, "stable") == (version, version)
    repository.scan()
    assert states(repository) == {5: State.READY, 4: State.AVAILABLE, 3: State.READY} | dict.fromkeys(
        (1, 2), State.AVAILABLE
    )
    # After a restart, its callers needn't wait.
    assert states(manage(max_old_versions=0)[0])[3] is State.READY
    manager.remove_label("double", "stable", ME)
    with pytest.raises(UnknownLabelError):
        manager.remove_label("double", "stable", ME)
    with pytest.raises(UnknownLabelError):
        repository.leases.lease("double", None, "stable")
    assert states(repository)[3] is State.AVAILABLE
    records = audited(tmp_path)
    assert [(r.get("from"), r.get("to")) for r in records] == [(None, 1), (1, 3), (3, None), (None, None)]
    assert {r["label"] for r in records} == {"stable"}


def test_a_label_does_not_move_to_a_version_that_can_not_be_loaded(manage, put, root):
    put(version=1, offset=1)
    put(version=2, text="{")
    _, manager = manage()
    manager.set_label("double", "stable", 1, ME)
    with pytest.raises(VersionFailedError):
        manager.set_label("double", "stable", 2, ME)
    for label, text in (("a b", "label: got 'a b'"), ("2", "label: got '2', a version's number, expected a name")):
        with pytest.raises(InvalidRequestError, match=text):
            manager.set_label("double", label, 1, ME)
    assert publishing.read_labels(root / "double") == {"stable": 1}


# Deletion.


def test_a_deleted_version_finishes_and_its_number_is_not_given_again(manage, put, root):
    for version in (1, 2, 3):
        put(version=version, offset=version)
    repository, manager = manage()
    lease = repository.leases.lease("double", 3)
    change = manager.delete_version("double", 3, ME, force=True)
    assert [one.version for one in change.versions] == [2, 1]
    assert answering(repository, "double") == (2, 2)
    assert lease.version.model.offset == 3
    lease.end()
    assert tree(root) == {"double", "double/serving.json"} | {
        f"double/{one}" for one in ("1", "2", "1/model.keras", "2/model.keras")
    }
    assert upload(manager, model__keras="{}")[0] == 4
    manager = manage()[1]
    manager.delete_version("double", 4, ME, force=True)
    assert upload(manage()[1], model__keras="{}")[0] == 5


def test_versions_that_are_in_use_are_not_deleted(manage, put):
    for version in (1, 2, 3):
        put(version=version, offset=version)
    repository, manager = manage()
    manager.set_label("double", "stable", 1, ME)
    for force in (False, True):
        with pytest.raises(RefusedChangeError, match="version 1: label 'stable' points at it; move or remove it first"):
            manager.delete_version("double", 1, ME, force=force)
    with pytest.raises(RefusedChangeError, match="version 3: it is the default; use force to delete it anyway"):
        manager.delete_version("double", 3, ME)
    manager.pin("double", 2, ME)
    with pytest.raises(RefusedChangeError, match="version 2: it is the default"):
        manager.delete_version("double", 2, ME)
    assert manager.delete_version("double", 3, ME)
    manager.delete_version("double", 2, ME, force=True)
    assert (answering(repository, "double"), repository.catalogue.control("double").pinned) == ((1, 1), None)


def test_the_default_that_is_deleted_answers_until_another_can(manage, put, load_fake):
    for version in (1, 2):
        put(version=version, offset=version)
    answers = []

    def load(path):
        if path.parent.name == "1":
            answers.append(answering(repository, "double"))
        return load_fake(path)

    repository, manager = manage(load=load)
    manager.delete_version("double", 2, ME, force=True)
    assert (answers, answering(repository, "double")) == ([(2, 2)], (1, 1))


def test_a_deleted_model_leaves_its_highest_number_only(manage, put, root, tmp_path):
    for version in (1, 2):
        put(version=version, offset=version)
    put("flat", offset=3).rename(root / "flat.keras")
    for name in ("flat.golden.npz", "flat.calibration.npz", "flat.toml"):
        (root / name).write_text("nice = 0")
    (root / "flat" / "1").rmdir()
    repository, manager = manage()
    manager.set_label("double", "stable", 1, ME)
    for name in ("double", "flat"):
        with pytest.raises(RefusedChangeError, match=f"model '{name}': it is loaded; unload it first, or use force"):
            manager.delete_model(name, ME)
    manager.delete_model("double", ME, force=True)
    manager.unload("flat", ME)
    manager.delete_model("flat", ME)
    assert tree(root) == {"double", "double/serving.json", "flat", "flat/serving.json"}
    assert repository.catalogue.describe() == []
    with pytest.raises(UnknownModelError):
        repository.leases.lease("double")
    version, _ = upload(manager, model__keras='{"offset": 5}')
    assert (version, answering(repository, "double")) == (3, (3, 5))
    with pytest.raises(UnknownLabelError):
        repository.leases.lease("double", None, "stable")


def test_the_file_that_a_server_was_started_with_is_not_deleted(manage, put, tmp_path):
    path = put(offset=1).rename(tmp_path / "digits.keras")
    repository, manager = manage(path=path)
    for call in (
        lambda: manager.delete_version("digits", 1, ME, force=True),
        lambda: manager.delete_model("digits", ME, force=True),
    ):
        with pytest.raises(RefusedChangeError, match="the server was started with its file"):
            call()
    assert upload(manager, "digits", model__keras='{"offset": 2}')[0] == 2
    assert answering(repository, "digits") == (2, 2)
    manager.roll_back("digits", 0, ME)
    assert answering(repository, "digits") == (1, 1)


# Limits and failures.


def test_what_can_not_be_written_changes_nothing(manage, put, monkeypatch, tmp_path):
    for version in (1, 2):
        put(version=version, offset=version)
    repository, manager = manage()
    manager.set_label("double", "stable", 1, ME)
    replace = publishing.os.replace

    def refuse(source, target):
        if "audit" not in str(target):
            raise OSError(30, "Read-only file system")
        replace(source, target)

    monkeypatch.setattr(publishing.os, "replace", refuse)
    monkeypatch.setattr(publishing.os, "rename", refuse)
    calls = [
        lambda: manager.unload("double", ME),
        lambda: manager.pin("double", 1, ME),
        lambda: manager.set_label("double", "new", 1, ME),
        lambda: manager.remove_label("double", "stable", ME),
        lambda: manager.delete_version("double", 2, ME, force=True),
        lambda: manager.delete_model("double", ME, force=True),
        lambda: upload(manager, model__keras="{}"),
    ]
    for call in calls:
        with pytest.raises(RefusedChangeError, match="the repository can't be written: Read-only file system"):
            call()
    repository.scan()
    assert answering(repository, "double") == (2, 2)
    assert repository.catalogue.labels("double") == {"stable": 1}
    assert len([r for r in audited(tmp_path) if r["outcome"].startswith("change_refused")]) == len(calls)


def test_without_an_audit_log_nothing_is_changed(manage, put, tmp_path):
    put()
    repository, manager = manage()
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(RefusedChangeError, match="the audit log can't be written"):
        manager.unload("double", ME)
    assert answering(repository, "double") == (1, 0)


def test_before_the_models_are_read_nothing_is_changed(manage, put):
    put()
    _, manager = manage(scan=False)
    for call in (
        lambda: manager.unload("double", ME),
        lambda: manager.stage("m", [DeclaredFile("a", 1, GOOD)], "", ME),
    ):
        with pytest.raises(UnavailableError):
            call()


def test_changes_wait_for_one_another_but_not_without_bound(manage, put, monkeypatch):
    put()
    gate, entered = threading.Event(), threading.Event()

    def follow(name):
        entered.set()
        assert gate.wait(30)
        return ()

    monkeypatch.setattr(changes, "MAX_WAITING", 3)
    repository, manager = manage(follow=follow)
    done = []
    threads = [threading.Thread(target=lambda: done.append(manager.unpin("double", ME))) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert entered.wait(30)
    while manager._changes._waiting._value:
        time.sleep(0.001)
    with pytest.raises(BusyError, match="3 changes of the repository are waiting"):
        manager.unpin("double", ME)
    assert answering(repository, "double") == (1, 0)
    gate.set()
    for thread in threads:
        thread.join()
    assert len(done) == 3


def test_processes_that_lag_behind_are_in_the_change(manage, put):
    put()
    asked = []
    _, manager = manage(follow=lambda name: asked.append(name) or ["worker process 1: late"])
    assert manager.unpin("double", ME).lagging == ["worker process 1: late"]
    assert manager.delete_model("double", ME, force=True) == ["worker process 1: late"]
    assert asked == ["double", "double"]


@pytest.mark.parametrize("text", ["", "[", "[1]", '{"pinned": "1", "loaded": 1, "highest": -3}', '{"pinned": true}'])
def test_a_control_file_that_is_wrong_is_not_one_that_sets_nothing(tmp_path, text):
    (tmp_path / "serving.json").write_text(text)
    with pytest.raises(UnreadableFileError, match=r"^\[Errno 5\] serving\.json: "):
        read_control(tmp_path)
    with pytest.raises(UnreadableFileError):
        write_control(tmp_path, loaded=False)  # what it had set would be lost
    assert (tmp_path / "serving.json").read_text() == text


def test_a_version_that_goes_as_it_is_chosen_is_not_chosen(manage, put, root, monkeypatch):
    """Its file is removed after it was loaded, before the pin or the label is read."""
    for version in (1, 2):
        put(version=version, offset=version)
    repository, manager = manage()
    manager.set_label("double", "stable", 2, ME)
    monkeypatch.setattr(manager, "_default", lambda name: 2)
    with pytest.raises(VersionFailedError, match="model 'double' version 1 can't be made the default"):
        manager.pin("double", 1, ME)
    assert read_control(root / "double") == Control()
    serving = {"default": 2, "labels": {"stable": 2}}
    monkeypatch.setattr(repository.catalogue, "serving", lambda name: serving)
    with pytest.raises(VersionFailedError, match="model 'double' version 1 can't be loaded, so the label stays"):
        manager.set_label("double", "stable", 1, ME)
    assert publishing.read_labels(root / "double") == repository.catalogue.labels("double") == {"stable": 2}
    with pytest.raises(VersionFailedError, match="so the label stays"):
        manager.set_label("double", "new", 1, ME)
    assert publishing.read_labels(root / "double") == {"stable": 2}


def test_a_change_that_the_audit_log_misses_is_in_the_log(manage, put, monkeypatch, caplog):
    put()
    _, manager = manage()
    writes = []

    def write(**record):
        writes.append(record)
        if record["outcome"] == "done":
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(manager._changes._audit, "write", write)
    manager.set_label("double", "stable", 1, ME)
    (line,) = caplog.records
    assert line.getMessage() == "can't write the audit log: No space left on device"
    assert (line.who, line.action, line.label, line.outcome) == (ME, "set label", "stable", "done")
