"""Writing to a store: what is there in the end, in the folder of copies, and after a store that is away in between."""

from __future__ import annotations

import hashlib
import json

import pytest
from layerserve_server.errors import VersionConflictError
from layerserve_server.extensions.object_stores.objects import StoreError
from layerserve_server.extensions.stores.store_writer import StoreWriter
from layerserve_server.repository.control import Control, read_control
from layerserve_server.repository.publishing import read_labels

AWAY = StoreError("away", "memory://models: connection refused")


@pytest.fixture
def mirror(store, make_mirror):
    store.put("m/1/model.keras", "one")
    return make_mirror()


@pytest.fixture
def writer(store, mirror):
    return StoreWriter("memory://models", store, mirror._cache, mirror)


def trained(tmp_path, text="trained"):
    file = tmp_path / "trained.keras"
    file.write_text(text)
    return file


def saved_model(tmp_path):
    folder = tmp_path / "received"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_text("graph")
    (folder / "variables" / "variables.index").write_text("index")
    (folder / "manifest.json").write_text(json.dumps({"file": "saved_model.pb", "bytes": 5}))
    return folder


def absent(mirror):
    return {(one.name, one.version) for one in mirror.versions() if not one.path.exists()}


def test_a_file_becomes_the_next_version(store, mirror, writer, tmp_path):
    file = trained(tmp_path)
    assert writer.publish("m", file, {"run": "r"}, above=4) == 5
    assert not file.exists()
    digest = hashlib.sha256(b"trained").hexdigest()
    assert json.loads(store.content["m/5/manifest.json"]) == {
        "run": "r",
        "file": "model.keras",
        "bytes": 7,
        "sha256": digest,
    }
    assert set(store.content) == {"m/1/model.keras", "m/5/manifest.json", "m/5/model.keras"}
    assert (mirror._cache.place(("m", 5)) / "model.keras").read_text() == "trained"
    mirror.refresh()
    assert absent(mirror) == {("m", 1)}
    assert store.fetched == [], "the copy isn't fetched again"


def test_the_manifest_is_written_last_and_until_then_no_server_sees_a_version(store, mirror, writer, tmp_path):
    written = []
    upload, write = store.upload, store.write

    def noted(call):
        def do(first, second):
            mirror._lock.acquire()  # as another server would list now
            mirror._lock.release()
            written.append((absent(mirror), sorted(path for path in store.content if path.startswith("n/"))))
            call(first, second)

        return do

    store.upload, store.write = noted(upload), noted(write)
    writer.publish_folder("n", saved_model(tmp_path), above=0, settings=b"nice = 3")
    paths = [paths for _, paths in written]
    files = ["n/1/.publishing", "n/1/saved_model.pb", "n/1/variables/variables.index"]
    assert paths[-1] == [*files, "n/layerserve.toml"]
    assert set(store.content) >= {"n/1/manifest.json", "n/1/variables/variables.index", "n/layerserve.toml"}
    assert "n/1/.publishing" not in store.content
    assert (mirror._cache.models / "n" / "layerserve.toml").read_text() == "nice = 3"
    assert (mirror._cache.place(("n", 1)) / "variables" / "variables.index").read_text() == "index"


@pytest.mark.parametrize("before", [None, "nice = 1"])
def test_a_version_is_never_there_without_the_settings_that_come_with_it(store, mirror, writer, tmp_path, before):
    """They may name its callers, and another server may list at any time."""
    if before is not None:
        store.put("m/layerserve.toml", before)
        mirror.refresh()
    copy, seen = mirror._cache.models / "m" / "layerserve.toml", []

    def away(path, text):
        seen.append(store.content["m/layerserve.toml"])
        raise AWAY

    create, store.create = store.create, away
    with pytest.raises(StoreError):
        writer.publish_folder("m", saved_model(tmp_path), above=1, settings=b"nice = 2")
    assert seen == [b"nice = 2"]
    assert store.content.get("m/layerserve.toml") == (None if before is None else before.encode())
    assert (copy.read_text() if copy.exists() else None) == before
    store.create = create
    assert writer.publish_folder("m", tmp_path / "received", above=1, settings=b"nice = 2") == 2
    assert store.content["m/layerserve.toml"] == b"nice = 2"


@pytest.mark.parametrize("taken", ["m/2/.publishing", "m/2/model.keras", "m/2/notes"])
def test_a_number_that_another_has_taken_is_left_alone(store, writer, tmp_path, taken):
    store.put(taken, "theirs")
    assert writer.publish("m", trained(tmp_path), {}, above=1) == 3
    assert store.content[taken] == b"theirs"
    assert {path for path in store.content if path.startswith("m/2/")} == {taken}


@pytest.mark.parametrize("meanwhile", ["", "m/2/model.keras", "m/3/manifest.json", "m/2/.publishing"])
def test_nothing_is_published_if_another_has_published_above_the_expected_version(store, writer, tmp_path, meanwhile):
    file = trained(tmp_path)
    if not meanwhile:
        assert writer.publish("m", file, {}, above=0, expected=1) == 2
        return
    store.put(meanwhile, "theirs")  # unknown here until the next poll
    with pytest.raises(VersionConflictError, match="expected version 1") as caught:
        writer.publish("m", file, {}, above=0, expected=1)
    assert caught.value.newest == int(meanwhile[2])
    assert (file.exists(), {path for path in store.content if path != "m/1/model.keras"}) == (True, {meanwhile})


@pytest.mark.parametrize("fails", ["create", "upload", "read", "write"])
def test_a_failure_leaves_no_version(store, mirror, writer, tmp_path, fails, monkeypatch):
    def away(*arguments):
        raise AWAY

    with monkeypatch.context() as patch:
        patch.setattr(store, fails, away)
        with pytest.raises(OSError, match="connection refused"):
            writer.publish("m", trained(tmp_path), {}, above=1)
    assert set(store.content) == {"m/1/model.keras"}
    assert (tmp_path / "trained.keras").exists()
    assert list((mirror._cache.folder / "unfinished").iterdir()) == []
    assert writer.publish("m", tmp_path / "trained.keras", {}, above=1) == 2


def test_labels_and_controls_are_written_to_both(store, mirror, writer):
    folder = mirror._cache.models / "m"
    writer.write_label("m", "stable", 1)
    writer.write_label("m", "canary", 2)
    writer.remove_label("m", "stable")
    writer.write_control("m", pinned=1, highest=7)
    writer.write_control("m", pinned=None, loaded=False)
    assert json.loads(store.content["m/labels.json"]) == read_labels(folder) == {"canary": 2}
    assert json.loads(store.content["m/serving.json"]) == {"highest": 7, "loaded": False}
    assert read_control(folder) == Control(None, False, 7)
    mirror.refresh()
    assert read_labels(folder) == {"canary": 2}


def test_what_others_have_written_stays(store, mirror, writer):
    store.put("m/labels.json", '{"theirs": 3}')
    writer.write_label("m", "stable", 1)
    assert json.loads(store.content["m/labels.json"]) == {"theirs": 3, "stable": 1}


@pytest.mark.parametrize("text", ["[1]", "{", "nul"])
def test_a_wrong_object_is_not_replaced(store, mirror, writer, text):
    store.put("m/labels.json", text)
    with pytest.raises(OSError, match=r"m/labels\.json: "):
        writer.write_label("m", "stable", 1)
    assert store.content["m/labels.json"].decode() == text


def test_a_store_that_is_away_changes_no_label(store, mirror, writer):
    writer.write_label("m", "stable", 1)
    store.error = AWAY
    with pytest.raises(OSError, match="connection refused"):
        writer.write_label("m", "stable", 2)
    assert read_labels(mirror._cache.models / "m") == {"stable": 1}
    store.error = None
    assert json.loads(store.content["m/labels.json"]) == {"stable": 1}


def test_a_version_is_withdrawn(store, mirror, writer):
    store.put("m/2/model.keras", "two")
    mirror.refresh()
    mirror.fetch("m", 1)
    writer.withdraw("m", 1, mirror._cache.place(("m", 1)) / "model.keras")
    assert set(store.content) == {"m/2/model.keras"}
    assert not mirror._cache.place(("m", 1)).exists()
    assert absent(mirror) == {("m", 2)}
    mirror.refresh()
    assert absent(mirror) == {("m", 2)}


def test_a_model_is_withdrawn(store, mirror, writer):
    store.put("m/2/model.keras", "two")
    mirror.refresh()
    writer.write_label("m", "stable", 1)
    writer.withdraw_model("m", 5)
    assert set(store.content) == {"m/serving.json"}
    assert read_control(mirror._cache.models / "m") == Control(highest=5, deleted=5)
    mirror.refresh()
    assert absent(mirror) == set()
    assert read_control(mirror._cache.models / "m") == Control(highest=5, deleted=5)


@pytest.mark.parametrize("address", ["hf://user/repository", "s3://bucket/m.keras"])
def test_where_nothing_can_be_written_that_is_said_first(store, mirror, tmp_path, address):
    writer = StoreWriter(address, store, mirror._cache, mirror)
    calls = [
        lambda: writer.check_writable("m"),
        lambda: writer.publish("m", trained(tmp_path), {}, above=1),
        lambda: writer.write_label("m", "stable", 1),
        lambda: writer.write_control("m", pinned=1),
        lambda: writer.withdraw("m", 1, tmp_path),
        lambda: writer.withdraw_model("m", 1),
    ]
    for call in calls:
        with pytest.raises(StoreError, match=r"publish") as raised:
            call()
        assert raised.value.kind == "unsupported"
    assert set(store.content) == {"m/1/model.keras"}
