"""Folders are made once, found by all processes, never trusted to be whole, and removed when nothing uses them."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from layerserve_server import wall_clock
from layerserve_server.artifacts import artifacts
from layerserve_server.artifacts.artifacts import Artifacts
from layerserve_server.disk import locked
from layerserve_server.errors import CallCancelledError
from left_folders import left_behind

A, B, C, D = (name * 64 for name in "abcd")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "graphs"


@pytest.fixture(autouse=True)
def sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine that has run for long."""
    monkeypatch.setattr(wall_clock, "SURE_SECONDS", 0.0)


def kept(place: Path, *, max_bytes: int = 1000) -> Artifacts:
    return Artifacts(place, ("graph", "note"), max_bytes=max_bytes)


class Maker:
    """Writes a graph, and counts how often."""

    def __init__(self) -> None:
        self.made = 0
        #: The folder in which the last one was made.
        self.place: Path | None = None

    def __call__(self, folder: Path) -> None:
        self.made += 1
        self.place = folder.parent
        (folder / "graph").write_text("graph")
        (folder / "left-over").mkdir()
        (folder / "left-over" / "x").touch()
        (folder / "link").symlink_to("/etc/passwd")


@pytest.fixture
def maker() -> Maker:
    return Maker()


def make(kept: Artifacts, make: Callable[[Path], None], key: str = A) -> Path:
    with kept.made(key, make) as folder:
        return folder


def find(kept: Artifacts, key: str = A) -> Path | None:
    with kept.found(key) as folder:
        return folder


def test_a_folder_is_made_once_and_only_its_files_are_kept(place: Path, maker: Maker) -> None:
    assert find(kept(place)) is None
    assert not place.exists()
    folder = make(kept(place), maker)
    assert (make(kept(place), maker), find(kept(place)), maker.made) == (folder, folder, 1)
    assert {path.name for path in folder.iterdir()} == {"graph", "digests.json"}
    assert {path.name for path in place.iterdir()} == {A, "locks"}
    # On the same filesystem, so that it can be renamed, and removed if the process dies.
    assert maker.place.parent == place
    assert make(kept(place), maker, B) != folder
    assert maker.made == 2


@pytest.mark.parametrize(
    "damage", ["cut", "no digests", "no graph", "digests of nothing", "digests of others", "no object", "too deep"]
)
def test_a_damaged_folder_is_not_found_and_made_again(place: Path, maker: Maker, damage: str) -> None:
    folder = make(kept(place), maker)
    file, digests = folder / "graph", folder / "digests.json"
    damages: dict[str, Callable[[], Any]] = {
        "cut": lambda: file.write_text("grap"),
        "no digests": digests.unlink,
        "no graph": file.unlink,
        "digests of nothing": lambda: digests.write_text("{}"),
        "digests of others": lambda: digests.write_text('{"../../../etc/passwd": "0"}'),
        "no object": lambda: digests.write_text("[1]"),
        "too deep": lambda: digests.write_text("[" * 100_000),
    }
    damages[damage]()
    assert find(kept(place)) is None
    make(kept(place), maker)
    assert maker.made == 2
    assert find(kept(place)) == folder


def test_what_fails_leaves_nothing(place: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "graph").touch()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make(kept(place), fail)
    assert [path.name for path in place.iterdir()] == ["locks"]


def test_without_a_place_for_it_a_folder_is_made_for_this_once(
    place: Path, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    place.write_text("a file where the folder would be")
    folder = make(kept(place), maker)
    assert not folder.exists()
    assert "can't keep graphs in" in caplog.text
    assert find(kept(place)) is None


def test_on_a_full_disk_a_folder_is_made_for_this_once(
    place: Path, maker: Maker, caplog: pytest.LogCaptureFixture
) -> None:
    def full(folder: Path) -> None:
        maker(folder)
        if place in folder.parents:
            raise OSError(errno.ENOSPC, "No space left on device")

    with kept(place).made(A, full) as folder:
        assert (folder / "graph").read_text() == "graph"
        assert place not in folder.parents
    assert [path.name for path in place.iterdir()] == ["locks"]
    assert f"can't keep graphs in {place}: No space left on device" in caplog.text
    make(kept(place), maker)
    assert find(kept(place)) == place / A


@contextmanager
def held(place: Path, key: str = A) -> Iterator[None]:
    """Holds the folder of a key, as a process does that makes it."""
    (place / "locks").mkdir(parents=True, exist_ok=True)
    with locked(place / "locks" / key[:2]):
        yield


def test_a_folder_that_another_process_makes_is_waited_for_unless_that_is_stopped(place: Path, maker: Maker) -> None:
    folder = make(kept(place), maker)
    with held(place):
        assert find(kept(place)) is None
        with pytest.raises(CallCancelledError), kept(place).made(A, maker, lambda: True):
            pass
        found: list[Path] = []
        waiting = threading.Thread(target=lambda: found.append(make(kept(place), maker)))
        waiting.start()
        waiting.join(3 * artifacts.TRY_SECONDS)
        assert waiting.is_alive()
    waiting.join(30)
    assert (found, maker.made) == ([folder], 1)


def test_several_processes_read_a_folder_at_once(place: Path, maker: Maker) -> None:
    folder = make(kept(place), maker)
    with kept(place).found(A) as first, kept(place).found(A) as second:
        assert first == second == folder
        with pytest.raises(CallCancelledError), kept(place).made(A, maker, lambda: True):
            pass


def test_old_folders_go_and_so_do_the_oldest_of_too_many(place: Path, maker: Maker) -> None:
    first, second = make(kept(place), maker, A), make(kept(place), maker, B)
    now = time.time()
    os.utime(first, (now - 31 * 86400, now - 31 * 86400))
    left = left_behind(place)
    third = make(kept(place), maker, C)
    assert (first.exists(), second.exists(), left.exists()) == (False, True, False)
    fourth = make(kept(place, max_bytes=1), maker, D)
    assert {path.name for path in place.iterdir()} == {"locks", fourth.name}
    assert not third.exists()


def test_a_clock_that_is_set_removes_nothing_young_and_keeps_nothing_for_ever(
    place: Path, maker: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = make(kept(place), maker, A), make(kept(place), maker, B)
    os.utime(first, (0, 0))
    os.utime(second, (2**33, 2**33))
    with monkeypatch.context() as patch:
        patch.setattr(wall_clock, "SURE_SECONDS", math.inf)
        kept(place).sweep()
    assert first.exists()
    assert second.stat().st_mtime <= time.time()


def test_what_others_keep_beside_the_folders_stays(place: Path, maker: Maker) -> None:
    for name in ("theirs", ".git", "2024", "file"):
        if name == "file":
            (place / name).write_text("theirs")
        else:
            (place / name).mkdir(parents=True)
        os.utime(place / name, (0, 0))
    first = make(kept(place, max_bytes=1), maker, A)
    os.utime(first, (0, 0))
    make(kept(place, max_bytes=1), maker, B)
    assert {path.name for path in place.iterdir()} == {"theirs", ".git", "2024", "file", "locks", B}


def test_what_is_no_folder_keeps_no_other_from_being_made(place: Path, maker: Maker) -> None:
    place.mkdir()
    (place / A).touch()
    (place / B).symlink_to(place / "nowhere")
    assert find(kept(place), C) is None
    assert make(kept(place, max_bytes=1), maker, C) == place / C


def test_use_keeps_a_folder(place: Path, maker: Maker) -> None:
    first, second = make(kept(place), maker, A), make(kept(place), maker, B)
    past = time.time() - 3600
    for folder in (first, second):
        os.utime(folder, (past, past))
    assert find(kept(place), A) == first
    size = sum(file.stat().st_size for file in first.iterdir())
    make(kept(place, max_bytes=2 * size + 1), maker, C)
    assert (first.exists(), second.exists()) == (True, False)


def test_a_folder_that_another_process_reads_stays(place: Path, maker: Maker) -> None:
    first = make(kept(place), maker, A)
    os.utime(first, (time.time() - 60,) * 2)
    with held(place):
        make(kept(place, max_bytes=1), maker, B)
        assert first.exists()
    make(kept(place, max_bytes=1), maker, C)
    assert not first.exists()
