"""Kept checkpoints on disk: what is listed is complete, whatever was killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from layerserve_server.errors import UnknownCheckpointError
from layerserve_server.training.run_folder.checkpoints import Checkpoint, KeptCheckpoints, best_of, checkpoint_id


def note(id: str, *, score: float | None = None, periodic: bool = True, size: int = 4) -> Checkpoint:
    epoch, _, step = id[1:].partition("s")
    return Checkpoint(id, int(epoch), int(step or 0), size, 12.5, {"loss": 0.5}, score, periodic)


@pytest.fixture(name="kept")
def _kept(tmp_path: Path) -> KeptCheckpoints:
    kept = KeptCheckpoints(tmp_path / "kept")
    (tmp_path / "state").write_bytes(b"1234")
    for one in (note("e10", score=-0.5), note("e2s7"), note("e2", score=-0.25), note("e3", score=-0.25)):
        kept.put(one, tmp_path / "state")
    return kept


def test_checkpoints_are_listed_in_the_order_of_training(kept: KeptCheckpoints) -> None:
    assert [one.id for one in kept.list()] == ["e2s7", "e2", "e3", "e10"]
    assert kept.list()[0] == note("e2s7")
    assert KeptCheckpoints(kept.folder / "absent").list() == []
    assert checkpoint_id(3, 40) == "e3s40"


def test_the_best_is_the_earliest_of_equal_ones_and_the_last_the_newest(kept: KeptCheckpoints) -> None:
    assert [one.id for one in best_of(kept.list())] == ["e2", "e3", "e10"]
    assert (kept.find("best").id, kept.find("last").id, kept.find("e2s7").id) == ("e2", "e10", "e2s7")
    for name in ("e1", "", "../e2", "e2/../e3"):
        with pytest.raises(UnknownCheckpointError, match="is kept; kept are: e2s7, e2, e3, e10"):
            kept.find(name)


@pytest.mark.parametrize("name", ["best", "last", "e1"])
def test_a_run_without_checkpoints_has_none_of_any_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnknownCheckpointError, match="kept are: none"):
        KeptCheckpoints(tmp_path / "kept").find(name)


def test_a_link_is_kept_though_the_source_is_replaced(kept: KeptCheckpoints, tmp_path: Path) -> None:
    (tmp_path / "next").write_bytes(b"other")
    (tmp_path / "next").replace(tmp_path / "state")
    assert kept.path("e2").read_bytes() == b"1234"
    kept.put(note("e2", size=5), tmp_path / "state")
    assert kept.path("e2").read_bytes() == b"other"
    assert kept.find("e2").bytes == 5


@pytest.mark.parametrize("left", ["no file", "no note", "half a note", "another size", "note of another", "no object"])
def test_what_a_kill_leaves_is_not_listed_and_swept(kept: KeptCheckpoints, left: str) -> None:
    if left == "no file":
        kept.path("e3").unlink()
    elif left == "no note":
        (kept.folder / "e3.json").unlink()
    elif left == "half a note":
        (kept.folder / "e3.json").write_text((kept.folder / "e3.json").read_text()[:20])
    elif left == "another size":
        kept.path("e3").unlink()
        kept.path("e3").write_bytes(b"12")
    elif left == "no object":
        (kept.folder / "e3.json").write_text("[1]")
    else:
        values = json.loads((kept.folder / "e3.json").read_text())
        (kept.folder / "e3.json").write_text(json.dumps({**values, "id": "e2"}))
    (kept.folder / ".e4.ckpt.0123.part").write_bytes(b"12")
    # What isn't of the server is never removed.
    (kept.folder / "theirs.json").write_text("[1]")
    (kept.folder / "folder").mkdir()
    assert [one.id for one in kept.list()] == ["e2s7", "e2", "e10"]
    kept.sweep()
    names = {f"{id}.{suffix}" for id in ("e2s7", "e2", "e10") for suffix in ("ckpt", "json")}
    assert {path.name for path in kept.folder.iterdir()} == {*names, "theirs.json", "folder"}


def test_removing_leaves_nothing_and_may_be_repeated(kept: KeptCheckpoints) -> None:
    for _ in range(2):
        kept.remove("e2")
    assert [one.id for one in kept.list()] == ["e2s7", "e3", "e10"]
    assert not list(kept.folder.glob("e2.*"))


def test_a_file_that_can_not_be_kept_leaves_the_others_and_no_part(kept: KeptCheckpoints, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        kept.put(note("e4"), tmp_path / "absent")
    assert [one.id for one in kept.list()] == ["e2s7", "e2", "e3", "e10"]
    assert not list(kept.folder.glob(".*"))
