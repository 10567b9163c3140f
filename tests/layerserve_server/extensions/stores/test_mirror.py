"""Mirror: which versions are copied and when, and that a store's troubles leave the copies as they are."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import shutil
import time

import pytest
from clocks import replace_time
from layerserve_server.errors import UnavailableError, VersionFailedError
from layerserve_server.extensions.object_stores.objects import StoreError
from layerserve_server.extensions.stores import failures
from layerserve_server.extensions.stores import mirror as module
from layerserve_server.extensions.stores.cache import Cache

AWAY = StoreError("away", "memory://models: connection refused")


def fetched(mirror, name, version):
    mirror.fetch(name, version)
    return mirror._cache.place((name, version))


def absent(mirror):
    return {(one.name, one.version): one.problem for one in mirror.versions() if not one.path.exists()}


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def manifest(text, **changes):
    digest = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({"file": "model.keras", "bytes": len(text), "sha256": digest, **changes})


def test_only_versions_that_are_wanted_are_fetched(store, make_mirror, seen):
    store.put("m/1/model.keras", "one")
    store.put("m/2/model.keras", "two!")
    mirror = make_mirror()
    assert absent(mirror) == {("m", 1): "", ("m", 2): ""}
    assert store.fetched == []
    folder = fetched(mirror, "m", 2)
    assert (folder / "model.keras").read_text() == "two!"
    assert absent(mirror) == {("m", 1): ""}
    assert (store.fetched, seen.fetched, seen.cached) == (["m/2/model.keras"], [("m", 4)], [0, 4])
    mirror.fetch("m", 2)
    assert store.fetched == ["m/2/model.keras"]


def test_without_a_manifest_a_version_is_complete_when_two_listings_agree(store, make_mirror):
    store.put("m/1/model.keras", "one")
    mirror = make_mirror(settle_seconds=0.05)
    # It waits for the second listing when it starts.
    assert absent(mirror) == {("m", 1): ""}
    store.put("m/2/saved_model.pb", "graph")
    mirror.refresh()
    assert ("m", 2) not in absent(mirror)
    time.sleep(0.06)
    store.put("m/2/variables/variables.index", "index")
    mirror.refresh()
    assert ("m", 2) not in absent(mirror)
    mirror.refresh()
    assert ("m", 2) not in absent(mirror), "two listings at nearly the same time show nothing"
    time.sleep(0.06)
    mirror.refresh()
    assert ("m", 2) in absent(mirror)
    assert sorted(path.name for path in fetched(mirror, "m", 2).rglob("*")) == [
        "saved_model.pb",
        "variables",
        "variables.index",
    ]


def test_a_manifest_makes_a_version_complete_at_once_and_is_compared(store, make_mirror):
    mirror = make_mirror(settle_seconds=3600)
    store.put("m/1/model.keras", "one")
    mirror.refresh()
    assert absent(mirror) == {}
    store.put("m/1/manifest.json", manifest("one"))
    mirror.refresh()
    assert (fetched(mirror, "m", 1) / "model.keras").read_text() == "one"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (manifest("two"), "its sha256 differs"),
        (manifest("one", bytes=4), "got 3 bytes, expected 4"),
        (manifest("one", file="other.keras"), "has no 'other.keras'"),
        ("{", "isn't JSON"),
    ],
)
def test_what_differs_from_its_manifest_is_not_served(store, make_mirror, seen, text, problem):
    store.put("m/1/model.keras", "one")
    store.put("m/1/manifest.json", text)
    mirror = make_mirror()
    with pytest.raises(VersionFailedError, match=problem):
        mirror.fetch("m", 1)
    assert problem in absent(mirror)["m", 1]
    assert not mirror._cache.place(("m", 1)).exists()
    assert list((mirror._cache.folder / "unfinished").iterdir()) == []
    assert seen.failed == ["m"]
    # The upload is mended.
    store.put("m/1/manifest.json", manifest("one"))
    mirror.refresh()
    assert fetched(mirror, "m", 1).is_dir()
    assert absent(mirror) == {}


def test_a_claimed_version_without_a_manifest_never_counts(store, make_mirror):
    store.put("m/1/.publishing", "elsewhere")
    store.put("m/1/model.keras", "half")
    mirror = make_mirror()
    mirror.refresh()
    assert absent(mirror) == {}


def test_changed_objects_are_fetched_again_when_complete(store, make_mirror):
    store.put("m/1/model.keras", "one")
    mirror = make_mirror()
    folder = fetched(mirror, "m", 1)
    store.put("m/1/model.keras", "ONE")
    mirror.refresh()
    wait_for(lambda: (folder / "model.keras").exists() and (folder / "model.keras").read_text() == "ONE")


def test_the_copy_serves_on_while_a_changed_one_is_fetched_and_if_that_fails(store, make_mirror, seen):
    store.put("m/1/model.keras", "one")
    mirror = make_mirror()
    folder = fetched(mirror, "m", 1)
    store.put("m/1/model.keras", "ONE")
    store.gate.clear()
    mirror.refresh()
    assert (folder / "model.keras").read_text() == "one"
    store.fetch_error = StoreError("changed", "m/1/model.keras: changed while it was read")
    store.gate.set()
    wait_for(lambda: seen.failed)
    assert (folder / "model.keras").read_text() == "one"
    assert absent(mirror) == {}


def test_deleted_versions_disappear_after_two_listings(store, make_mirror):
    store.put("m/1/model.keras", "one")
    store.put("m/2/model.keras", "two")
    mirror = make_mirror()
    folder = fetched(mirror, "m", 1)
    content = dict(store.content)
    store.content.clear()
    mirror.refresh()
    assert folder.exists(), "one empty listing may be a mistake of the store"
    store.content.update(content)
    mirror.refresh()
    store.content.clear()
    mirror.refresh()
    assert folder.exists()
    mirror.refresh()
    assert not folder.exists()
    assert absent(mirror) == {}
    with pytest.raises(UnavailableError, match="isn't in the store any more"):
        mirror.fetch("m", 2)


def test_a_copy_that_neither_the_store_nor_a_listing_knows_is_removed(store, make_mirror, tmp_path):
    store.put("m/1/model.keras", "one")
    folder = fetched(make_mirror(), "m", 1)
    (tmp_path / "cache" / "listing.jsonl").unlink()
    store.content.clear()
    make_mirror().refresh()
    assert not folder.exists()


def test_labels_are_copied_and_removed(store, make_mirror, tmp_path):
    store.put("m/labels.json", '{"stable": 1}')
    store.put("m/1/model.keras", "one")
    mirror = make_mirror()
    labels = tmp_path / "cache" / "models" / "m" / "labels.json"
    assert labels.read_text() == '{"stable": 1}'
    store.put("m/labels.json", '{"stable": 2}')
    mirror.refresh()
    assert labels.read_text() == '{"stable": 2}'
    del store.content["m/labels.json"]
    mirror.refresh()
    assert not labels.exists()


def test_labels_that_were_removed_while_no_server_ran_are_removed(store, make_mirror, tmp_path):
    store.put("m/labels.json", '{"stable": 1}')
    store.put("m/1/model.keras", "one")
    make_mirror()
    del store.content["m/labels.json"]
    make_mirror()
    assert not (tmp_path / "cache" / "models" / "m" / "labels.json").exists()


def test_labels_that_cannot_be_read_concern_their_model_alone(store, make_mirror, seen, tmp_path, caplog):
    for name in ("m", "n"):
        store.put(f"{name}/labels.json", '{"stable": 1}')
        store.put(f"{name}/1/model.keras", "one")
    store.read_errors["m/labels.json"] = StoreError("away", "m/labels.json: Forbidden")
    mirror = make_mirror()
    models = tmp_path / "cache" / "models"
    assert absent(mirror) == {("m", 1): "", ("n", 1): ""}
    assert (models / "n" / "labels.json").exists()
    for _ in range(3):
        assert mirror.refresh()
    assert caplog.text.count("m/labels.json: Forbidden") == 1
    assert all(seen.answers)
    store.read_errors.clear()
    mirror.refresh()
    assert (models / "m" / "labels.json").read_text() == '{"stable": 1}'
    # What the folder has stays.
    store.put("m/labels.json", '{"stable": 2}')
    store.read_errors["m/labels.json"] = StoreError("away", "m/labels.json: Forbidden")
    mirror.refresh()
    assert (models / "m" / "labels.json").read_text() == '{"stable": 1}'


def test_a_store_that_is_away_changes_nothing(store, make_mirror, seen, caplog):
    store.put("m/1/model.keras", "one")
    store.put("m/2/model.keras", "two")
    mirror = make_mirror()
    folder = fetched(mirror, "m", 1)
    store.error = AWAY
    for _ in range(3):
        assert not mirror.refresh()
    assert (folder / "model.keras").read_text() == "one"
    with pytest.raises(UnavailableError, match=r"version 2 can't be fetched: .*connection refused"):
        mirror.fetch("m", 2)
    assert absent(mirror) == {("m", 2): ""}, "it may come back, so the version hasn't failed"
    assert [one.delay for one in mirror.versions()] == ["", "memory://models: connection refused"]
    assert seen.answers == [True, False, False, False]
    assert caplog.text.count("can't list the store") == 1
    store.error = None
    assert mirror.refresh()
    assert "answers again" in caplog.text or not caplog.text.count("INFO")
    assert fetched(mirror, "m", 2).exists()
    assert not any(one.delay for one in mirror.versions())


def test_the_time_between_attempts_doubles(store, make_mirror, monkeypatch):
    monkeypatch.setattr(failures.random, "uniform", lambda low, high: 1.0)
    mirror = make_mirror(poll_seconds=30)
    store.error = AWAY
    pauses = [mirror._pause()]
    for _ in range(8):
        mirror.refresh()
        pauses.append(mirror._pause())
    assert pauses == [30, 1, 2, 4, 8, 16, 32, 60, 60]


def test_a_version_that_failed_is_not_tried_again_at_once(store, make_mirror, seen, monkeypatch):
    store.put("m/1/model.keras", "one")
    store.fetch_error = StoreError("damaged", "m/1/model.keras: got 2 bytes, expected 3")
    mirror = make_mirror()
    for _ in range(5):
        mirror.want("m", 1)
        wait_for(lambda: not mirror.fetching())
    assert seen.failed == ["m"]
    store.fetch_error = None
    replace_time(monkeypatch, module, monotonic=lambda: time.monotonic() + 20)
    mirror.start()
    wait_for(lambda: absent(mirror) == {})


def test_a_start_while_the_store_is_away_serves_the_copies(store, make_mirror, seen):
    store.put("m/1/model.keras", "one")
    store.put("m/2/model.keras", "two")
    fetched(make_mirror(), "m", 1)
    store.error = AWAY
    mirror = make_mirror()
    assert mirror._cache.place(("m", 1)).exists()
    assert absent(mirror) == {("m", 2): ""}
    mirror.fetch("m", 1)


def test_a_first_start_while_the_store_is_away_fails(store, make_mirror):
    store.error = AWAY
    mirror = make_mirror(open=False)
    with pytest.raises(OSError, match=r"can't read the models: .*connection refused"):
        mirror.open()


def test_a_restart_fetches_nothing_that_is_there(store, make_mirror):
    store.put("m/1/model.keras", "one")
    fetched(make_mirror(), "m", 1)
    mirror = make_mirror()
    mirror.refresh()
    mirror.fetch("m", 1)
    assert store.fetched == ["m/1/model.keras"]


def test_what_a_killed_server_has_left_is_removed(store, make_mirror, tmp_path):
    store.put("m/1/model.keras", "one")
    folder = fetched(make_mirror(), "m", 1)
    (tmp_path / "cache" / "kept" / "m@1").unlink()
    (folder / "model.keras").write_text("half")
    (tmp_path / "cache" / "unfinished" / "ab").mkdir()
    (tmp_path / "cache" / "listing.jsonl").write_text("{")
    mirror = make_mirror()
    assert not folder.exists()
    assert absent(mirror) == {("m", 1): ""}
    assert list((tmp_path / "cache" / "unfinished").iterdir()) == []


def cut(folder):
    (folder / "variables" / "variables.index").write_text("ind")


def extended(folder):
    (folder / "golden.npz").write_text("proof")


def linked(folder):
    (folder / "saved_model.pb").unlink()
    (folder / "saved_model.pb").symlink_to("variables/variables.index")


@pytest.mark.parametrize("change", [cut, extended, linked, lambda folder: (folder / "saved_model.pb").unlink()])
def test_a_copy_whose_files_have_changed_is_fetched_again(store, make_mirror, change):
    for version in (1, 2):
        store.put(f"m/{version}/saved_model.pb", "graph")
        store.put(f"m/{version}/variables/variables.index", "index")
    mirror = make_mirror()
    folder, other = fetched(mirror, "m", 1), fetched(mirror, "m", 2)
    mirror.stop()
    change(folder)
    store.fetched.clear()
    mirror = make_mirror()
    assert not folder.exists()
    assert other.exists()
    fetched(mirror, "m", 1)
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {"saved_model.pb": "graph", "variables/variables.index": "index"}
    assert not (folder / "saved_model.pb").is_symlink()
    assert sorted(store.fetched) == ["m/1/saved_model.pb", "m/1/variables/variables.index"]


def test_a_copy_that_was_removed_is_fetched_again_when_it_is_wanted(store, make_mirror):
    store.put("m/1/model.keras", "one")
    mirror = make_mirror()
    folder = fetched(mirror, "m", 1)
    shutil.rmtree(folder)
    assert (fetched(mirror, "m", 1) / "model.keras").read_text() == "one"
    shutil.rmtree(folder)
    mirror.want("m", 1)
    wait_for(folder.exists)


def test_a_second_server_needs_a_folder_of_its_own(store, make_mirror, tmp_path, seen):
    make_mirror()
    other = module.Mirror("memory://models", store, Cache(tmp_path / "cache"), seen)
    with pytest.raises(OSError, match="is used by another server"):
        other.open()
    other.stop()


def test_a_folder_in_which_nothing_can_be_locked_is_no_other_server_s(store, tmp_path, seen, monkeypatch):
    def missing(file, kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    mirror = module.Mirror("memory://models", store, Cache(tmp_path / "cache"), seen)
    with pytest.raises(OSError, match=r"No locks available.*/cache/lock"):
        mirror.open()
    mirror.stop()


def test_copies_that_are_not_in_use_make_room(store, make_mirror, seen):
    for version in (1, 2, 3, 4):
        store.put(f"m/{version}/model.keras", "x" * 10)
    mirror = make_mirror(max_bytes=25)
    mirror.note_use([])
    one = fetched(mirror, "m", 1)
    two = fetched(mirror, "m", 2)
    mirror.note_use([("m", 1)])
    three = fetched(mirror, "m", 3)
    assert (one.exists(), two.exists(), three.exists()) == (True, False, True)
    assert set(absent(mirror)) == {("m", 2), ("m", 4)}
    assert seen.cached[-1] == 20
    mirror.note_use([("m", 1), ("m", 3)])
    with pytest.raises(UnavailableError, match=r"10 bytes don't fit: copies in use have 20 bytes, expected up to 25"):
        mirror.fetch("m", 4)
    assert one.exists()
    mirror.note_use([("m", 3)])
    mirror.fetch("m", 4)
    assert not one.exists()


def test_a_version_larger_than_the_limit_is_refused_and_removes_nothing(store, make_mirror):
    store.put("m/1/model.keras", "x" * 10)
    store.put("m/2/model.keras", "x" * 26)
    mirror = make_mirror(max_bytes=25)
    mirror.note_use([])
    one = fetched(mirror, "m", 1)
    with pytest.raises(VersionFailedError, match=r"26 bytes, expected up to 25 \(--cache-bytes\)"):
        mirror.fetch("m", 2)
    assert one.exists()


def test_a_request_does_not_wait_for_ever(store, make_mirror, monkeypatch):
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.05)
    store.put("m/1/model.keras", "one")
    mirror = make_mirror()
    store.gate.clear()
    with pytest.raises(UnavailableError, match="is being fetched"):
        mirror.fetch("m", 1)
    store.gate.set()
    wait_for(lambda: absent(mirror) == {})
