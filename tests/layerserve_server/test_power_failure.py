"""What the server keeps beside models survives a machine that loses power: bytes and names are on its disk."""

from __future__ import annotations

import json
import os
from hashlib import sha256

import pytest
from layerserve_server.artifacts import flushing
from layerserve_server.datasets import partial_upload as parts
from layerserve_server.datasets.dataset import ArrayInfo, Declaration
from layerserve_server.datasets.store import DatasetLimits, DatasetStore, Description
from layerserve_server.training.run_folder.checkpoints import Checkpoint, KeptCheckpoints
from layerserve_server.training.run_folder.digests import write_digests
from synced import Disk

CONTENT = bytes(range(256)) * 40
DECLARED = Declaration("npz", len(CONTENT), sha256(CONTENT).hexdigest(), "first")


@pytest.fixture
def disk(tmp_path, monkeypatch):
    for folder in ("datasets", "kept"):
        (tmp_path / folder).mkdir()
    return Disk(monkeypatch)


@pytest.fixture
def store(tmp_path):
    found = Description([ArrayInfo("x", "float32", (5, 2))], {"x": {"rows": 1, "data": "AAAA"}})
    limits = DatasetLimits(max_bytes=10**6, keep_seconds=1000.0, upload_seconds=100.0)
    return DatasetStore(tmp_path / "datasets", limits, lambda file: found)


def uploading(store, owner="ann"):
    return store.open(DECLARED, owner, None, lambda: False)


def uploaded(store, owner="ann"):
    part = uploading(store, owner)
    part.add(0, CONTENT)
    made = store.finish(part)
    store.close(part)
    return made


def test_a_dataset(store, disk, tmp_path):
    folder = tmp_path / "datasets" / uploaded(store).id
    assert disk.lost(folder) == []


def test_a_further_owner_of_a_dataset(store, disk, tmp_path):
    folder = tmp_path / "datasets" / uploaded(store).id
    assert uploaded(store, "bob").owner_names == ("ann", "bob")
    assert disk.lost(folder / "dataset.json") == []


def test_half_an_upload_as_far_as_its_note_says(store, disk, monkeypatch):
    monkeypatch.setattr(parts, "SYNC_BYTES", 3000)
    part = uploading(store)
    for at in range(0, 8000, 1000):
        part.add(at, CONTENT[at : at + 1000])
        note = part.folder / parts.NOTE
        said = json.loads(note.read_text())["synced"] if note.exists() else 0
        assert said <= disk.flushed_bytes(part.content)
        assert said > at - 3000
    store.close(part)


def test_a_kept_checkpoint(disk, tmp_path):
    kept = KeptCheckpoints(tmp_path / "kept")
    (tmp_path / "state").write_bytes(b"1234")
    kept.put(Checkpoint("e2", 2, 0, 4, 12.5, {"loss": 0.5}, None, True), tmp_path / "state")
    state = kept.path("e2")
    (note,) = (path for path in kept.folder.iterdir() if path != state)
    assert disk.lost(state, note) == []
    # A checkpoint with a note is complete.
    assert disk.taken == [state, note]


def test_a_removed_checkpoint_is_not_listed_again(disk, tmp_path):
    kept = KeptCheckpoints(tmp_path / "kept")
    (tmp_path / "state").write_bytes(b"1234")
    kept.put(Checkpoint("e2", 2, 0, 4, 12.5, {"loss": 0.5}, None, True), tmp_path / "state")
    (note,) = (path for path in kept.folder.iterdir() if path != kept.path("e2"))
    kept.remove("e2")
    assert not kept.path("e2").exists()
    assert disk.gone(note)


def test_the_digests_of_data(disk, tmp_path):
    write_digests(tmp_path, {0: "a"})
    assert disk.lost(tmp_path / "digests.json") == []


def test_an_import(tmp_path, monkeypatch):
    (tmp_path / "imports").mkdir()
    disk = Disk(monkeypatch)
    folder = tmp_path / "imports" / "digest"
    (folder / "inner").mkdir(parents=True)
    for name in ("model.json", "inner/weights", flushing.UNFLUSHED):
        (folder / name).write_text("x")
    unlink, lost = os.unlink, []

    def unlinked(path, *options, **named):
        lost.extend(disk.lost(folder))
        unlink(path, *options, **named)

    monkeypatch.setattr(os, "unlink", unlinked)
    flushing.flush(folder)
    assert not (folder / flushing.UNFLUSHED).exists()
    assert lost == []
