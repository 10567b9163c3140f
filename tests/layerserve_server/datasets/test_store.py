"""The store of datasets: uploads that are cut, killed, wrong or made twice, and what keeps a dataset."""

from __future__ import annotations

import errno
import json
import math
import os
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
from layerserve_server import folder_owner, wall_clock
from layerserve_server.datasets import dataset_limits
from layerserve_server.datasets import partial_upload as parts
from layerserve_server.datasets import store as stores
from layerserve_server.datasets.dataset import ArrayInfo, Dataset, Declaration, Description, read_samples
from layerserve_server.datasets.store import DELETED, DatasetLimits, DatasetStore
from layerserve_server.errors import (
    CallCancelledError,
    IncompleteDataError,
    InvalidRequestError,
    QuotaError,
    RefusedChangeError,
    TooLargeError,
    UnavailableError,
    UnknownDatasetError,
)
from layerserve_server.folder_owner import unfinished
from left_folders import left_behind

CONTENT = bytes(range(256)) * 40
DIGEST = sha256(CONTENT).hexdigest()
DECLARED = Declaration("npz", len(CONTENT), DIGEST, "first")
FOUND = Description([ArrayInfo("x", "float32", (5, 2))], {"x": {"rows": 1, "data": "AAAA"}})


def described(file):
    assert Path(file.folder, file.path).read_bytes() == CONTENT
    return FOUND


@pytest.fixture
def make_store(tmp_path, monkeypatch):
    """Stores of one folder, each as after a start of the server."""
    opened = []
    # Flushing takes most of the time, and changes nothing that a test can see.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    # As on a machine that has run for long.
    monkeypatch.setattr(wall_clock, "SURE_SECONDS", 0.0)

    class Noted(parts.Part):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            opened.append(self)

    monkeypatch.setattr(stores, "Part", Noted)

    def make(describe=described, **limits):
        given = {"max_bytes": 10**6, "keep_seconds": 1000.0, "upload_seconds": 100.0} | limits
        return DatasetStore(tmp_path / "datasets", DatasetLimits(**given), describe)

    yield make
    for part in opened:
        killed(part)


def begin(store, declared=DECLARED, owner="ann", most=None, gone=lambda: False):
    return store.open(declared, owner, most, gone)


def upload(store, declared=DECLARED, owner="ann"):
    part = begin(store, declared, owner)
    part.add(0, CONTENT)
    found = store.finish(part)
    store.close(part)
    return found


def killed(part):
    """What is left when the server is killed: the files, and no lock."""
    part._file.close()
    part._server.release()


def unused(dataset):
    return ""


def used(dataset):
    return "run '1'"


def test_a_complete_upload_is_a_dataset(make_store, tmp_path):
    store = make_store()
    dataset = upload(store)
    assert (dataset.id, dataset.owner_names, dataset.bytes, dataset.rows) == (DIGEST, ("ann",), len(CONTENT), 5)
    assert store.datasets() == [store.get(DIGEST)] == [store.get(DIGEST[:6])]
    assert (tmp_path / "datasets" / dataset.content).read_bytes() == CONTENT
    assert read_samples(tmp_path / "datasets" / DIGEST) == FOUND.samples
    assert sorted(os.listdir(tmp_path / "datasets" / DIGEST)) == ["content.npz", "dataset.json", "sample.json"]
    assert sorted(os.listdir(tmp_path / "datasets")) == [".lock", DIGEST]


def test_the_same_content_of_the_same_caller_is_not_sent_again(make_store):
    store = make_store()
    first = upload(store)
    again = begin(store, replace(DECLARED, title="second", shared=True))
    assert isinstance(again, Dataset)
    assert (again.id, again.owners[0].title, again.shared, again.created) == (DIGEST, "first", True, first.created)


def test_a_digest_alone_gives_no_access_to_what_another_caller_has_uploaded(make_store):
    store = make_store()
    upload(store)
    part = begin(store, owner="bob")
    assert part.size == 0
    assert store.datasets(lambda dataset: "bob" in dataset.owner_names) == []
    part.add(0, CONTENT)
    assert store.finish(part).owner_names == ("ann", "bob")
    store.close(part)
    assert not part.folder.exists()


def test_each_owner_has_its_own_title_and_sharing(make_store):
    store = make_store()
    upload(store, replace(DECLARED, title="secret", keep_seconds=50.0))
    dataset = upload(store, replace(DECLARED, title="open", shared=True, keep_seconds=70.0), owner="bob")
    assert (dataset.shared, dataset.keep_seconds) == (True, 70.0)
    assert [dataset.owner_for(name).title for name in ("ann", "bob", "eve")] == ["secret", "open", "open"]
    store.delete(dataset, "bob", unused)
    left = store.get(DIGEST)
    assert (left.owner_names, left.shared, left.keep_seconds) == (("ann",), False, 50.0)
    assert left.owner_for("eve").title == "secret"


@pytest.mark.parametrize("sent", [b"", CONTENT[:-1], b"x" * len(CONTENT)], ids=["nothing", "a part", "other bytes"])
def test_who_does_not_send_the_content_gets_nothing_of_another_caller_s_dataset(make_store, sent):
    store = make_store()
    upload(store)
    part = begin(store, replace(DECLARED, shared=True), owner="bob")
    part.add(0, sent)
    with pytest.raises(IncompleteDataError):
        store.finish(part)
    store.close(part)
    dataset = store.get(DIGEST)
    assert (dataset.owner_names, dataset.shared) == (("ann",), False)


def test_a_shared_dataset_is_not_sent_by_others(make_store):
    store = make_store()
    upload(store, replace(DECLARED, shared=True))
    assert begin(store, owner="bob").owner_names == ("ann",)


def test_an_upload_that_begins_while_its_last_stream_ends_goes_on(make_store, monkeypatch):
    store = make_store()
    first = begin(store)
    first.add(0, CONTENT[:100])
    close, opened = first.close, []
    again = Thread(target=lambda: opened.append(begin(store)))

    def close_slowly():
        again.start()
        again.join(0.2)
        close()

    monkeypatch.setattr(first, "close", close_slowly)
    store.close(first)
    again.join(10)
    assert [part.size for part in opened] == [100]


@pytest.mark.parametrize("ends", [killed, None], ids=["killed", "closed"])
def test_an_upload_goes_on_where_it_was(make_store, ends):
    store = make_store()
    part = begin(store)
    part.add(0, CONTENT[:3000])
    part.add(3000, CONTENT[3000:4000])
    if ends is None:
        store.close(part)
    else:
        ends(part)
        store = make_store()
    assert store.datasets() == []
    part = begin(store)
    assert part.size == 4000
    part.add(4000, CONTENT[4000:])
    assert store.finish(part).id == DIGEST


def test_after_a_crash_of_the_machine_it_goes_on_behind_what_was_flushed(make_store, monkeypatch):
    monkeypatch.setattr(parts, "SYNC_BYTES", 3000)
    part = begin(make_store())
    part.add(0, CONTENT[:3500])
    part.add(3500, CONTENT[3500:4000])
    killed(part)
    monkeypatch.setattr(parts, "boot_id", lambda: "another start")
    part = begin(make_store())
    assert part.size == 3500
    part.add(3500, CONTENT[3500:])
    part.check()


def test_what_a_crash_has_left_without_a_note_is_not_relied_on(make_store):
    part = begin(make_store())
    part.add(0, CONTENT[:3000])
    killed(part)
    note = json.loads((part.folder / parts.NOTE).read_text())
    for text in ('{"byt', json.dumps({**note, "synced": "3000"}), json.dumps({**note, "synced": -1, "boot": ""})):
        (part.folder / parts.NOTE).write_text(text)
        killed(part := begin(make_store()))
        assert part.size == 0
        part.content.write_bytes(CONTENT[:3000])


def test_the_digest_of_what_has_come_is_computed_in_steps_that_others_can_interrupt(make_store, monkeypatch):
    part = begin(make_store())
    part.add(0, CONTENT[:9000])
    killed(part)
    monkeypatch.setattr(parts, "PIECE", 1000)
    store, asked = make_store(), []

    def gone():
        asked.append(True)
        return len(asked) > 4

    with pytest.raises(CallCancelledError):
        begin(store, gone=gone)
    assert len(asked) == 5
    part = begin(store)
    part.add(9000, CONTENT[9000:])
    part.check()


def test_a_complete_upload_whose_server_was_killed_is_finished_without_a_byte(make_store):
    part = begin(make_store())
    part.add(0, CONTENT)
    killed(part)
    store = make_store()
    part = begin(store)
    assert part.complete
    assert store.finish(part).id == DIGEST


def test_a_wrong_digest_gives_no_dataset_and_nothing_stays(make_store, tmp_path):
    store = make_store()
    part = begin(store)
    part.add(0, CONTENT[:-1] + b"!")
    with pytest.raises(IncompleteDataError, match="expected " + DIGEST):
        store.finish(part)
    with pytest.raises(IncompleteDataError):
        part.add(0, b"")
    store.close(part)
    assert store.datasets() == []
    assert os.listdir(tmp_path / "datasets") == [".lock"]
    assert begin(store).size == 0


def test_an_incomplete_file_is_kept(make_store):
    store = make_store()
    part = begin(store)
    part.add(0, CONTENT[:-1])
    with pytest.raises(IncompleteDataError, match="10239 bytes, expected 10240; what has come is kept"):
        store.finish(part)
    store.close(part)
    assert begin(store).size == 10239


def test_a_file_that_cannot_be_read_gives_no_dataset(make_store):
    def refuse(file):
        raise InvalidRequestError(f"{file.label}: no zip file")

    store = make_store(refuse)
    part = begin(store)
    part.add(0, CONTENT)
    # The path of the file is the server's own.
    with pytest.raises(InvalidRequestError, match=f"^dataset '{DIGEST}': no zip file$"):
        store.finish(part)
    assert store.datasets() == []
    assert not part.folder.exists()


def test_a_file_that_cannot_be_read_for_now_is_kept(make_store):
    def refuse(file):
        raise UnavailableError("no process")

    store = make_store(refuse)
    part = begin(store)
    part.add(0, CONTENT)
    with pytest.raises(UnavailableError):
        store.finish(part)
    store.close(part)
    assert upload(make_store()).id == DIGEST


def test_two_streams_of_a_caller_fill_one_file(make_store):
    store = make_store()
    one, other = begin(store), begin(store)
    assert one is other
    one.add(0, CONTENT[:5000])
    other.add(0, CONTENT[:6000])
    one.add(5000, CONTENT[5000:])
    first = store.finish(one)
    store.close(one)
    other.add(6000, CONTENT[6000:])
    assert store.finish(other) == replace(first, used=store.get(DIGEST).used)
    store.close(other)


def test_two_callers_at_once_have_one_dataset(make_store):
    store = make_store()
    ann, bob = begin(store), begin(store, owner="bob")
    assert ann.folder != bob.folder
    for part in (ann, bob):
        part.add(0, CONTENT)
    # Another server publishes between bob's look and his rename.
    known = store._declared_again
    store._declared_again = lambda *arguments, **options: None if not store.datasets() else known(*arguments, **options)
    store.finish(ann)
    store._declared_again = lambda *arguments, **options: (setattr(store, "_declared_again", known), None)[1]
    assert store.finish(bob).owner_names == ("ann", "bob")
    assert len(store.datasets()) == 1
    assert not bob.folder.exists()


def damage(store, kind):
    """Leaves a dataset without a valid record."""
    record = store.folder / DIGEST / "dataset.json"
    if kind == "lost":
        record.unlink()
    else:
        record.write_bytes({"empty": b"", "cut": record.read_bytes()[:50], "zeros": bytes(300)}[kind])


DAMAGES = ("lost", "empty", "cut", "zeros")


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_dataset_is_whole_when_it_is_uploaded_again(make_store, kind):
    store = make_store(max_bytes=len(CONTENT))
    upload(store)
    damage(store, kind)
    (store.folder / DIGEST / "other").mkdir()
    assert store.datasets() == []
    dataset = upload(store, owner="bob")
    assert (dataset.id, dataset.owner_names) == (DIGEST, ("bob",))
    assert store.datasets() == [dataset]
    # What isn't its own stays.
    assert (store.folder / DIGEST / "other").is_dir()


def test_the_record_of_a_damaged_dataset_comes_last(make_store, monkeypatch):
    """A server may be killed in between: the rest isn't a dataset then."""
    store = make_store()
    upload(store)
    damage(store, "lost")
    moved, move = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, target: (moved.append(path.name), move(path, target)))
    upload(store)
    assert {"content.npz", "dataset.json"} <= {*moved}
    assert moved[-1] == "dataset.json"


def test_a_dataset_that_can_not_be_read_for_now_is_not_replaced(make_store, monkeypatch):
    """It may have other owners."""

    def fails(folder):
        raise OSError(errno.EIO, "Input/output error")

    store = make_store()
    upload(store, owner="bob")
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "read", fails)
        with pytest.raises(RefusedChangeError, match="can't be written"):
            upload(store)
    assert [dataset.owner_names for dataset in store.datasets()] == [("bob",)]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_dataset_takes_room_until_its_time_is_over(make_store, kind):
    store = make_store(max_bytes=len(CONTENT) + 10)
    upload(store)
    damage(store, kind)
    other = Declaration("npz", len(CONTENT), "1" * 64)
    with pytest.raises(TooLargeError):
        begin(store, other)
    store.sweep(unused)
    assert (store.folder / DIGEST).is_dir()
    for path in (*(store.folder / DIGEST).iterdir(), store.folder / DIGEST):
        age(path, 2000)
    store.sweep(used)
    assert (store.folder / DIGEST).is_dir()
    for path in (*(store.folder / DIGEST).iterdir(), store.folder / DIGEST):
        age(path, 2000)
    store.sweep(unused)
    assert not (store.folder / DIGEST).exists()
    begin(store, other)


def test_another_server_that_receives_it_refuses_for_now(make_store):
    part = begin(make_store())
    other = make_store()
    with pytest.raises(UnavailableError, match="another server"):
        begin(other)
    killed(part)
    begin(other)


@pytest.mark.parametrize(
    ("offset", "data", "text"),
    [
        (1, b"a", "got one at byte 1, expected one at most at byte 0"),
        (-1, b"a", "at byte -1"),
        (0, CONTENT + b"a", "10241"),
    ],
)
def test_chunks_that_do_not_fit_are_refused(make_store, offset, data, text):
    part = begin(make_store())
    with pytest.raises(InvalidRequestError, match=text):
        part.add(offset, data)
    assert part.size == 0


class FullDisk:
    """A file whose disk has room for some bytes."""

    def __init__(self, file, room):
        self._file, self._room = file, room

    def write(self, data):
        if self._room <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = self._file.write(data[: self._room])
        self._room -= written
        return written

    def __getattr__(self, name):
        return getattr(self._file, name)


def test_a_full_disk_is_named_and_what_came_before_is_kept(make_store):
    store = make_store()
    part = begin(store)
    part.add(0, CONTENT[:1000])
    part._file = FullDisk(part._file, 1500)
    with pytest.raises(TooLargeError, match="the disk is full: 1000 of 10240 bytes are kept"):
        part.add(1000, CONTENT[1000:3000])
    store.close(part)
    part = begin(store)
    assert part.size == 1000
    part.add(1000, CONTENT[1000:])
    assert store.finish(part).id == DIGEST


def test_a_folder_that_cannot_be_written_is_named(make_store, tmp_path):
    (tmp_path / "datasets").write_text("a file")
    with pytest.raises(RefusedChangeError, match="the folder of datasets can't be written"):
        begin(make_store())


def test_what_came_is_flushed_every_64_mebibytes(make_store):
    size = 64 << 20
    store = make_store(max_bytes=2 * size)
    part = begin(store, replace(DECLARED, bytes=2 * size))
    part._hash = SimpleNamespace(update=lambda data: None)
    part._file = Endless(part._file)
    for offset, data, flushed in ((0, bytes(size - 1), 0), (size - 1, b"x", size), (size, bytes(size - 1), size)):
        part.add(offset, data)
        assert parts.read_note(part.folder).synced == flushed
    store.close(part)


class Endless:
    """A file that takes all bytes and keeps none."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        return len(data)

    def __getattr__(self, name):
        return getattr(self._file, name)


# Making.


def writes(content, room=None):
    def write(path, most):
        if room is not None:
            room.append(most)
        path.write_bytes(content)
        return len(content), sha256(content).hexdigest()

    return write


def test_what_is_made_has_the_room_that_is_left(make_store):
    upload(make_store())
    store, found = make_store(lambda file: FOUND, max_bytes=30_000), []
    new = replace(DECLARED, bytes=0, sha256="")
    made = store.make(new, "ann", 15_000, writes(b"x", found))
    assert (made.bytes, made.id, made.owner_names) == (1, sha256(b"x").hexdigest(), ("ann",))
    store.make(new, "bob", None, writes(b"y", found))
    assert found == [15_000 - 10_240, 30_000 - 10_241]
    with pytest.raises(QuotaError, match="its datasets have 10241 bytes, 10243 with this one"):
        store.make(new, "ann", 10_242, writes(b"zz"))
    # The same rows again are the same dataset.
    assert store.make(new, "bob", None, writes(b"x")).owner_names == ("ann", "bob")
    assert len(store.datasets()) == 3


@pytest.mark.parametrize("full", [True, False])
def test_what_cannot_be_made_leaves_nothing(make_store, tmp_path, full):
    def refuses(path, most):
        raise OSError(errno.EIO, "Input/output error")

    if not full:
        (tmp_path / "datasets").write_text("a file")
    with pytest.raises(RefusedChangeError, match="the folder of datasets can't be written"):
        make_store().make(DECLARED, "ann", None, refuses)
    assert not full or [path.name for path in (tmp_path / "datasets").iterdir()] == [".lock"]


@pytest.mark.parametrize(
    "text", [None, "{", "\xff", '{"x": {"rows": true, "data": ""}}', '{"x": {"rows": 1, "data": "?"}}']
)
def test_a_dataset_may_lack_its_first_rows(make_store, tmp_path, text):
    folder = tmp_path / "datasets" / upload(make_store()).id
    assert read_samples(folder) == FOUND.samples
    (folder / "sample.json").unlink()
    if text is not None:
        (folder / "sample.json").write_text(text, "latin-1")
    assert read_samples(folder) == {}


# Room.


def test_there_is_room_for_what_the_setting_says(make_store):
    store = make_store(max_bytes=len(CONTENT) + 100)
    upload(store)
    other = replace(DECLARED, sha256="0" * 64, bytes=200)
    with pytest.raises(TooLargeError, match="expected at most 100: the server's setting max_dataset_bytes is 10340"):
        begin(store, other)


def test_what_a_caller_declares_keeps_no_room_from_others(make_store, monkeypatch):
    monkeypatch.setattr(stores, "SYNC_BYTES", 1000)
    store = make_store(max_bytes=len(CONTENT) + 1500)
    other = replace(DECLARED, sha256="0" * 64, bytes=len(CONTENT) + 1500)
    part = begin(store, other, owner="bob")
    upload(store)
    # What comes is counted.
    store.receive(part, 0, bytes(1000))
    with pytest.raises(TooLargeError, match="the dataset has 2000 bytes, expected at most 1500"):
        store.receive(part, 1000, bytes(1000))
    assert part.size == 2000


def test_a_small_file_that_no_longer_fits_is_no_dataset(make_store):
    store = make_store(max_bytes=len(CONTENT) + 2000)
    other = b"z" * 5000
    part = begin(store, replace(DECLARED, sha256=sha256(other).hexdigest(), bytes=len(other)), owner="bob")
    upload(store)
    store.receive(part, 0, other)
    with pytest.raises(TooLargeError, match="the dataset has 5000 bytes, expected at most 2000"):
        store.finish(part)
    assert [dataset.id for dataset in store.datasets()] == [DIGEST]


def test_a_caller_has_half_of_all_datasets(make_store, monkeypatch):
    monkeypatch.setattr(dataset_limits, "MAX_OWN", 2)
    store = make_store()
    for digit in "12":
        store.close(begin(store, replace(DECLARED, sha256=digit * 64)))
    with pytest.raises(TooLargeError, match="there are 2 datasets and uploads of the caller, the maximum"):
        begin(store, replace(DECLARED, sha256="3" * 64))
    begin(store, replace(DECLARED, sha256="3" * 64), owner="bob")


def test_a_caller_has_the_room_of_its_quota(make_store):
    store = make_store()
    upload(store)
    other = replace(DECLARED, sha256="0" * 64, bytes=200)
    with pytest.raises(QuotaError, match="its datasets have 10240 bytes, 10440 with this one; expected at most 10400"):
        begin(store, other, most=10400)
    begin(store, other, owner="bob", most=10400)
    begin(store, other, most=10440)


def test_the_disk_must_have_room_for_what_has_yet_to_come(make_store, monkeypatch):
    store = make_store()
    part = begin(store)
    part.add(0, CONTENT[:8000])
    store.close(part)
    monkeypatch.setattr(dataset_limits, "_free", lambda folder: 2000)
    with pytest.raises(TooLargeError, match="bytes to come, but the disk has 2000 free"):
        begin(store)
    monkeypatch.setattr(dataset_limits, "_free", lambda folder: 2240)
    begin(store)


def test_a_disk_that_can_not_be_asked_is_named(make_store, monkeypatch):
    def refuse(folder):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(dataset_limits.shutil, "disk_usage", refuse)
    with pytest.raises(RefusedChangeError, match="can't be written: Input/output error"):
        begin(make_store())


def test_there_is_a_maximum_number(make_store, monkeypatch):
    monkeypatch.setattr(dataset_limits, "MAX_DATASETS", 1)
    store = make_store()
    upload(store)
    with pytest.raises(TooLargeError, match="there are 1 datasets and uploads, the maximum"):
        begin(store, replace(DECLARED, sha256="0" * 64))


# Removing.


def test_a_deleted_dataset_is_gone(make_store, tmp_path):
    store = make_store()
    store.delete(upload(store), "ann", unused)
    assert store.datasets() == []
    assert os.listdir(tmp_path / "datasets") == [".lock"]
    with pytest.raises(UnknownDatasetError):
        store.get(DIGEST)
    with pytest.raises(UnknownDatasetError):
        store.use(DIGEST)


def test_of_a_dataset_whose_folder_is_a_link_the_link_is_removed(make_store, tmp_path):
    store, elsewhere = make_store(), tmp_path / "elsewhere"
    dataset = upload(store)
    (tmp_path / "datasets" / DIGEST).rename(elsewhere)
    (tmp_path / "datasets" / DIGEST).symlink_to(elsewhere)
    store.delete(dataset, "ann", unused)
    assert os.listdir(tmp_path / "datasets") == [".lock"]
    assert os.listdir(elsewhere)


def test_a_dataset_of_several_callers_stays_for_the_others(make_store):
    store = make_store()
    upload(store)
    both = upload(store, owner="bob")
    store.delete(both, "ann", unused)
    assert store.get(DIGEST).owner_names == ("bob",)
    store.delete(store.get(DIGEST), None, unused)
    assert store.datasets() == []


def test_what_a_run_uses_is_not_deleted(make_store):
    store = make_store()
    dataset = upload(store)
    with pytest.raises(RefusedChangeError, match="run '1' uses it"):
        store.delete(dataset, "ann", used)
    assert store.get(DIGEST) == dataset


def test_a_run_that_begins_during_the_deletion_keeps_the_dataset(make_store):
    store = make_store()
    dataset = upload(store)
    runs = []

    def used_by(id):
        found = "".join(runs)
        # It begins after the first look, and has its dataset looked for afterwards.
        runs.append("run '1'")
        return found

    with pytest.raises(RefusedChangeError):
        store.delete(dataset, "ann", used_by)
    store.use(DIGEST)


def test_a_run_that_comes_too_late_does_not_find_it(make_store):
    store = make_store()
    dataset = upload(store)
    store.delete(dataset, "ann", unused)
    with pytest.raises(UnknownDatasetError, match="has been deleted"):
        store.use(dataset.id)


def test_a_deletion_that_was_cut_is_ended_or_undone(make_store, tmp_path):
    store = make_store()
    upload(store)
    folder = tmp_path / "datasets"
    (folder / DIGEST).rename(folder / f"{DELETED}{DIGEST}-1")
    store.sweep(used)
    assert store.get(DIGEST).id == DIGEST
    (folder / DIGEST).rename(folder / f"{DELETED}{DIGEST}-1")
    store.sweep(unused)
    assert os.listdir(folder) == [".lock"]


def age(path, seconds):
    then = time.time() - seconds
    for one in (*path.iterdir(), path) if path.is_dir() else (path,):
        os.utime(one, (then, then))


@pytest.mark.parametrize(
    ("setting", "declared", "kept"),
    [(1000.0, 0.0, 1000.0), (1000.0, 50.0, 50.0), (1000.0, 5000.0, 1000.0), (0.0, 50.0, 50.0), (0.0, 0.0, None)],
)
def test_a_dataset_is_kept_for_a_time_after_its_last_use(make_store, tmp_path, setting, declared, kept):
    store = make_store(keep_seconds=setting)
    dataset = upload(store, replace(DECLARED, keep_seconds=declared))
    expires = store.expires(dataset)
    assert (expires and expires - dataset.used) == kept
    record = tmp_path / "datasets" / DIGEST / "dataset.json"
    age(record, (kept or 10**8) - 20)
    store.sweep(unused)
    assert store.datasets()
    age(record, (kept or 10**8) + 20)
    store.sweep(used)
    assert store.get(DIGEST).used > time.time() - 10 or kept is None
    age(record, (kept or 10**8) + 20)
    store.sweep(unused)
    assert bool(store.datasets()) == (kept is None)


def test_an_upload_that_may_be_going_on_is_not_removed(make_store, monkeypatch):
    store = make_store()
    part = begin(store)
    store.close(part)
    age(part.folder, 200)

    def unreadable(path):
        raise PermissionError(errno.EACCES, "not allowed", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(folder_owner, "try_lock", unreadable)
        store.sweep(unused)
    assert part.folder.exists()
    store.sweep(unused)
    assert not part.folder.exists()


def test_a_cut_upload_is_kept_for_its_time(make_store):
    store = make_store()
    part = begin(store)
    part.add(0, CONTENT[:1000])
    age(part.folder, 200)
    store.sweep(unused)
    make_store().sweep(unused)
    assert part.folder.exists(), "it is being received"
    store.close(part)
    age(part.folder, 80)
    store.sweep(unused)
    assert begin(store).size == 1000
    killed(part := begin(store))
    age(part.folder, 200)
    make_store().sweep(unused)
    assert not part.folder.exists()


def test_what_a_killed_server_was_making_is_removed(make_store):
    store = make_store()
    left = left_behind(store.folder)
    with unfinished(store.folder) as made:
        age(made.parent, 1e9)
        store.sweep(unused)
        assert (left.exists(), made.exists()) == (False, True)


@pytest.fixture
def left(make_store):
    """A dataset and an upload that has come in part, as a server has left them."""
    store = make_store()
    dataset, part = store.folder / upload(store).id, begin(store, replace(DECLARED, sha256="0" * 64))
    store.close(part)
    return dataset, part.folder


def test_nothing_expires_because_the_clock_was_set_forward(make_store, left, monkeypatch):
    """Files that were written before the clock of a machine was set, to years later, aren't old."""
    store, now = make_store(), time.time
    monkeypatch.setattr(time, "time", lambda: now() + 1e6)
    utime = os.utime
    # The system's clock, too.
    monkeypatch.setattr(os, "utime", lambda path: utime(path, (time.time(),) * 2))
    for _ in range(2):
        store.sweep(unused)
        assert all(path.exists() for path in left)


def test_nothing_expires_soon_after_the_start_of_a_machine(make_store, left, monkeypatch):
    """Its clock may be years ahead, and isn't set before the server starts."""
    store = make_store()
    for path in left:
        age(path, 1e6)
    monkeypatch.setattr(wall_clock, "SURE_SECONDS", math.inf)
    store.sweep(unused)
    assert all(path.exists() for path in left)
    monkeypatch.setattr(wall_clock, "SURE_SECONDS", 0.0)
    store.sweep(unused)
    assert not any(path.exists() for path in left)


def test_what_a_wrong_clock_has_dated_to_the_future_is_not_kept_until_then(make_store, left):
    store = make_store()
    for path in left:
        age(path, -1e9)
    store.sweep(unused)
    assert (left[0] / "dataset.json").stat().st_mtime < time.time() + 5
    assert max(path.stat().st_mtime for path in left[1].iterdir()) < time.time() + 5
    for path in left:
        age(path, 2000)
    store.sweep(unused)
    assert not any(path.exists() for path in left)


def test_folders_of_others_are_never_removed(make_store):
    store = make_store()
    upload(store)
    other = store.folder / "theirs.part"
    other.mkdir()
    (other / "film").write_bytes(b"1")
    age(other, 1e6)
    store.sweep(unused)
    assert (other / "film").exists()


def test_what_is_no_id_is_no_path(make_store):
    store = make_store()
    upload(store)
    for id in ("", "..", DIGEST + "/..", DIGEST[:5], "../../etc", "0" * 64, DIGEST.upper()):
        with pytest.raises(UnknownDatasetError):
            store.get(id)


def test_a_beginning_of_several_ids_is_not_one(make_store, tmp_path):
    store = make_store()
    dataset = upload(store)
    other = replace(dataset, id=DIGEST[:10] + "0" * 54)
    (tmp_path / "datasets" / other.id).mkdir()
    other.write(tmp_path / "datasets" / other.id)
    with pytest.raises(InvalidRequestError, match="beginning of 2 ids"):
        store.get(DIGEST[:8])
    assert store.get(DIGEST[:8], lambda one: one.id == other.id).id == other.id


def test_datasets_of_a_folder_that_can_not_be_read_are_not_denied(make_store, tmp_path, caplog):
    store = make_store()
    (tmp_path / "datasets").write_text("no folder")
    for ask in (store.datasets, lambda: store.get(DIGEST), lambda: store.get(DIGEST[:6]), lambda: store.sweep(unused)):
        with pytest.raises(UnavailableError, match="the folder of datasets can't be read; see the server's log"):
            ask()
    assert [record.args[0] for record in caplog.records] == [tmp_path / "datasets"], "named once"
    (tmp_path / "datasets").unlink()
    assert store.datasets() == []


def test_a_damaged_record_hides_no_other(make_store, tmp_path, caplog):
    store = make_store()
    upload(store)
    (tmp_path / "datasets" / ("0" * 64)).mkdir()
    (tmp_path / "datasets" / ("0" * 64) / "dataset.json").write_text('{"id": 3}')
    for _ in range(2):
        assert [one.id for one in store.datasets()] == [DIGEST]
    path = tmp_path / "datasets" / ("0" * 64) / "dataset.json"
    assert [record.args[0] for record in caplog.records] == [path], "named once"
