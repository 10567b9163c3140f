"""The folder of copies: what the server removes from it is its own, and damage in it costs a fetch at most."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from layerserve_server.extensions.stores.cache import Cache


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that isn't the server's."""
    (tmp_path / "elsewhere" / "1").mkdir(parents=True)
    (tmp_path / "elsewhere" / "1" / "model.keras").write_text("theirs")
    (tmp_path / "elsewhere" / "2").symlink_to(tmp_path)
    return tmp_path / "elsewhere"


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.iterdir()), (
        folder / "1" / "model.keras"
    ).read_text()


@pytest.mark.parametrize("name", ["models", "kept", "wanted", "unfinished"])
def test_a_link_in_place_of_a_folder_is_refused(tmp_path, elsewhere, name):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / name).symlink_to(elsewhere)
    with pytest.raises(OSError, match=f"{name}: got a symbolic link, expected a folder"):
        Cache(tmp_path / "cache").lock()
    assert contents(elsewhere) == (["1", "2"], "theirs")


def test_a_folder_of_models_that_are_no_copies_is_refused(tmp_path, elsewhere):
    (tmp_path / "data").mkdir()
    elsewhere.rename(tmp_path / "data" / "models")
    (tmp_path / "cache").symlink_to(tmp_path / "data")
    with pytest.raises(
        OSError, match="models: got models that aren't copies of a store's, expected a folder of its own"
    ):
        Cache(tmp_path / "cache").lock()
    assert contents(tmp_path / "data" / "models") == (["1", "2"], "theirs")


def test_a_link_in_place_of_a_model_is_removed_and_what_it_leads_to_stays(tmp_path, elsewhere):
    cache = Cache(tmp_path / "cache")
    assert cache.lock()
    (cache.models / "m").symlink_to(elsewhere)
    cache.clean()
    cache.unlock()
    assert not (cache.models / "m").is_symlink()
    assert contents(elsewhere) == (["1", "2"], "theirs")


def replaced_by_folder(path):
    path.unlink()
    (path / "inside").mkdir(parents=True)


def replaced_by_file(path):
    shutil.rmtree(path)
    path.write_text("a file")


def edited(path, **changes):
    head, version = map(json.loads, path.read_text().splitlines())
    path.write_text(json.dumps(head) + "\n" + json.dumps({**version, **changes}) + "\n")


DAMAGE = {
    "a mark that is no text": lambda folder: (folder / "kept" / "m@1").write_bytes(b"\xff\xfe\x00"),
    "a mark that is a folder": lambda folder: replaced_by_folder(folder / "kept" / "m@1"),
    "a folder among what is wanted": lambda folder: (folder / "wanted" / "m@1" / "inside").mkdir(parents=True),
    "a file among what is unfinished": lambda folder: (folder / "unfinished" / "a").write_text("a"),
    "a version that is a file": lambda folder: replaced_by_file(folder / "models" / "m" / "1"),
    "a model that is a file": lambda folder: replaced_by_file(folder / "models" / "m"),
    "labels that are a folder": lambda folder: replaced_by_folder(folder / "models" / "m" / "labels.json"),
    "a listing that is no text": lambda folder: (folder / "listing.jsonl").write_bytes(b"\xff\xfe\x00"),
    "a listing of deep lists": lambda folder: (folder / "listing.jsonl").write_text("[" * 100_000),
    "a listing that is a list": lambda folder: (folder / "listing.jsonl").write_text("[1]"),
    "an empty listing": lambda folder: (folder / "listing.jsonl").write_text(""),
    "a listing that is a folder": lambda folder: replaced_by_folder(folder / "listing.jsonl"),
    "a listing without its version": lambda folder: (folder / "listing.jsonl").write_text(
        (folder / "listing.jsonl").read_text().splitlines()[0]
    ),
    "files that are a list": lambda folder: edited(folder / "listing.jsonl", files=[]),
    "a file without a size": lambda folder: edited(folder / "listing.jsonl", files={"model.keras": {"path": "a"}}),
    "a version that is a text": lambda folder: edited(folder / "listing.jsonl", version="1"),
    "a name that leads elsewhere": lambda folder: edited(folder / "listing.jsonl", name="../../elsewhere"),
    "a version below 1": lambda folder: edited(folder / "listing.jsonl", version=-1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_used_as_far_as_it_is_right(tmp_path, store, make_mirror, damage):
    store.put("m/1/model.keras", "one")
    store.put("m/labels.json", "{}")
    make_mirror().fetch("m", 1)
    make_mirror().stop()
    DAMAGE[damage](tmp_path / "cache")
    mirror = make_mirror()
    mirror.start()
    mirror.fetch("m", 1)
    models = tmp_path / "cache" / "models"
    assert (models / "m" / "1" / "model.keras").read_text() == "one"
    assert (models / "m" / "labels.json").read_text() == "{}"
    assert [(one.name, one.version) for one in mirror.versions()] == [("m", 1)]
    assert os.listdir(models) == ["m"]
    assert mirror._cache.asked() == []
    assert Cache(tmp_path / "cache").read_listing() is not None


def test_what_cannot_be_written_leaves_the_rest_of_a_listing(tmp_path, store, make_mirror, caplog):
    for name in ("m", "n"):
        store.put(f"{name}/1/model.keras", "one")
    mirror = make_mirror()
    models = tmp_path / "cache" / "models"
    (models / "m" / "labels.json" / "inside").mkdir(parents=True)
    replaced_by_folder(tmp_path / "cache" / "listing.jsonl")
    for name in ("m", "n"):
        store.put(f"{name}/labels.json", "{}")
    assert mirror.refresh()
    assert (models / "n" / "labels.json").read_text() == "{}"
    assert "can't write the copy of m/labels.json" in caplog.text
    assert "can't write the listing" in caplog.text
    mirror.fetch("n", 1)
    del store.content["m/labels.json"], store.content["n/labels.json"]
    assert mirror.refresh()
    assert not (models / "n" / "labels.json").exists()
