"""What was read of files is found again, and only as long as it is that of the file."""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
from layergraph import Input, Model, layers
from layergraph.errors import CorruptFileError
from layerserve_server import wall_clock
from layerserve_server.artifacts import flushing
from layerserve_server.importing import imports as module
from layerserve_server.importing.importer import reading
from layerserve_server.importing.imports import Imports
from left_folders import left_behind
from shared_jobs import SharedJobs

FIXTURES = Path(__file__).parents[2] / "fixtures"
DAY = 86_400


class Counting(SharedJobs):
    """Counts the files that are read, and may do something while one is."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None


def kept(state: Path) -> list[Path]:
    """The folders of imports, and those in which one is made."""
    return [path for path in state.iterdir() if path.name not in ("paths", "locks")] if state.exists() else []


@pytest.fixture
def importer(jobs: SharedJobs, monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = Counting()
    made._cold = jobs._cold

    @contextmanager
    def counted(jobs: Counting, path: Path, folder: Path) -> Iterator[Any]:
        jobs.read.append(path.name)
        with reading(jobs, path, folder) as found:
            made.meanwhile()
            yield found

    monkeypatch.setattr(module, "reading", counted)
    return made


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state" / "imports"


def save(path: Path, units: int = 2, value: float = 1.0, *, age: float = DAY) -> Path:
    inputs = Input((3,))
    model = Model(inputs, layers.Dense(units)(inputs))
    model.set_weights([np.full((3, units), value, "f4"), np.zeros(units, "f4")])
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return aged(path, age)


def aged(path: Path, age: float = DAY) -> Path:
    """Sets the time of the last change. That of the inode can't be set: `long_ago` makes it old."""
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.fixture(autouse=True)
def long_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets files count as old that were written a moment ago."""
    monkeypatch.setattr(module, "RACY_SECONDS", -60.0)
    monkeypatch.setattr(wall_clock, "SURE_SECONDS", 0.0)


def number(model: Model) -> float:
    return float(model.weights[0].numpy()[0, 0])


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_a_file_is_read_once(name: str, tmp_path: Path, state: Path, importer: Counting) -> None:
    path = save(tmp_path / name, value=3.0)
    for _ in range(3):
        assert number(Imports(state, importer).load(path)) == 3.0
    assert importer.read == [name]


def test_a_folder_is_read_once_until_anything_in_it_changes(tmp_path: Path, state: Path, importer: Counting) -> None:
    shutil.copytree(FIXTURES / "saved_models" / "tf215" / "model", tmp_path / "model")
    expected = layergraph.load_model(tmp_path / "model")
    for _ in range(2):
        model = Imports(state, importer).load(tmp_path / "model")
        assert model.compiled
        for got, want in zip(model.weights, expected.weights, strict=True):
            np.testing.assert_array_equal(got.numpy(), want.numpy())
    assert importer.read == ["saved_model.pb"]
    os.utime(tmp_path / "model" / "variables" / "variables.data-00000-of-00001")
    Imports(state, importer).load(tmp_path / "model")
    (tmp_path / "model" / "variables" / "another").touch()
    Imports(state, importer).load(tmp_path / "model")
    assert importer.read == ["saved_model.pb"] * 3
    assert len(kept(state)) == 1


def test_a_preferred_file_beside_the_others_is_read(tmp_path: Path, state: Path, importer: Counting) -> None:
    model = layergraph.load_model(save(tmp_path / "model.h5"))
    (tmp_path / "m").mkdir()
    model.save_weights(tmp_path / "m" / "model.weights.h5")
    (tmp_path / "m" / "model.json").write_text(model.to_json())
    for _ in range(2):
        assert number(Imports(state, importer).load(tmp_path / "m")) == 1.0
    assert importer.read == ["model.weights.h5"]
    save(tmp_path / "m" / "model.keras", value=5.0)
    assert number(Imports(state, importer).load(tmp_path / "m")) == 5.0


def test_the_same_content_is_found_under_another_path(tmp_path: Path, state: Path, importer: Counting) -> None:
    path = save(tmp_path / "a.keras", value=4.0)
    for one in (path, save(tmp_path / "other.keras", units=5)):
        Imports(state, importer).load(one)
    shutil.copy(path, tmp_path / "b.keras")
    for _ in range(2):
        assert number(Imports(state, importer).load(tmp_path / "b.keras")) == 4.0
    path.write_bytes(path.read_bytes())
    assert number(Imports(state, importer).load(path)) == 4.0
    assert importer.read == ["a.keras", "other.keras"]
    assert len(kept(state)) == 2


def test_a_changed_file_is_read_again(tmp_path: Path, state: Path, importer: Counting) -> None:
    """Also if its size and time are the same."""
    imports = Imports(state, importer)
    path = save(tmp_path / "m.h5", value=1.0)
    imports.load(path)
    before = path.stat()
    save(path, value=2.0)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size
    assert number(imports.load(path)) == 2.0
    assert number(Imports(state, importer).load(path)) == 2.0


def test_a_file_that_was_just_written_is_compared_by_its_digest(
    tmp_path: Path, state: Path, importer: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may change again within one tick of the clock of its times."""
    monkeypatch.setattr(module, "RACY_SECONDS", 2.0)
    path = save(tmp_path / "m.keras")
    Imports(state, importer).load(path)
    (entry,) = (state / "paths").glob("*.json")
    assert json.loads(entry.read_text())["racy"]
    hashed: list[Path] = []
    monkeypatch.setattr(module, "sha256", lambda path: hashed.append(path) or sha256(path))
    Imports(state, importer).load(path)
    assert hashed == [path]
    monkeypatch.setattr(module, "RACY_SECONDS", -60.0)
    monkeypatch.setattr(wall_clock, "SURE_SECONDS", 0.0)
    Imports(state, importer).load(path)
    assert not json.loads(entry.read_text())["racy"]
    Imports(state, importer).load(path)
    assert hashed == [path, path]
    assert importer.read == ["m.keras"]


sha256 = module.sha256


def test_a_file_that_changes_while_it_is_read_is_read_again(tmp_path: Path, state: Path, importer: Counting) -> None:
    path = save(tmp_path / "m.keras", value=1.0)

    def change() -> None:
        if len(importer.read) == 1:
            save(path, value=2.0)

    importer.meanwhile = change
    assert number(Imports(state, importer).load(path)) == 2.0
    importer.meanwhile = lambda: save(path, value=float(len(importer.read)))
    save(path, value=0.5)
    with pytest.raises(CorruptFileError, match=r"m\.keras: was changed while it was read"):
        Imports(state, importer).load(path)
    assert len(importer.read) == 5


@pytest.mark.parametrize("name", ["archive.json", "arrays.safetensors"])
@pytest.mark.parametrize("damage", ["removed", "truncated", "other"])
def test_a_damaged_import_is_made_again(
    name: str, damage: str, tmp_path: Path, state: Path, importer: Counting
) -> None:
    path = save(tmp_path / "m.keras", value=7.0)
    Imports(state, importer).load(path)
    (file,) = state.glob(f"[0-9]*-*/{name}")
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:40] if damage == "truncated" else b"{}" * 500)
    for _ in range(2):
        assert number(Imports(state, importer).load(path)) == 7.0
    assert importer.read == ["m.keras"] * 2


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"facts": 3}', b"\xff", b'{"facts": {"x": 1}, "boot": ""}', b"[" * 100_000]
)
def test_a_damaged_entry_is_written_again(content: bytes, tmp_path: Path, state: Path, importer: Counting) -> None:
    path = save(tmp_path / "m.keras")
    Imports(state, importer).load(path)
    (entry,) = (state / "paths").glob("*.json")
    entry.write_bytes(content)
    for _ in range(2):
        Imports(state, importer).load(path)
    assert json.loads(entry.read_text())["path"] == str(path)


@pytest.mark.parametrize("damage", ["no text", "a folder"])
def test_a_damaged_mark_of_what_may_not_be_on_disk_has_the_file_read_again(
    damage: str, tmp_path: Path, state: Path, importer: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flushing, "flush", lambda folder: None)
    path = save(tmp_path / "m.keras", value=4.0)
    Imports(state, importer).load(path)
    (model,) = kept(state)
    (model / flushing.UNFLUSHED).unlink()
    if damage == "a folder":
        (model / flushing.UNFLUSHED).mkdir()
    else:
        (model / flushing.UNFLUSHED).write_bytes(b"\xff\0")
    for _ in range(2):
        assert number(Imports(state, importer).load(path)) == 4.0
    assert importer.read == ["m.keras"] * 2


@pytest.mark.parametrize("name", ["m.keras", "copy.keras"])
def test_what_may_not_be_on_disk_holds_until_the_system_restarts(
    name: str, tmp_path: Path, state: Path, importer: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "m.keras", value=4.0)
    shutil.copy(path, tmp_path / "copy.keras")
    flush = flushing.flush
    monkeypatch.setattr(flushing, "flush", lambda folder: None)
    Imports(state, importer).load(path)
    assert number(Imports(state, importer).load(tmp_path / name)) == 4.0
    assert importer.read == ["m.keras"]
    (model,) = kept(state)
    arrays = model / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes().replace(np.float32(4).tobytes(), np.float32(0).tobytes()))
    monkeypatch.setattr(flushing, "_boot", lambda: "the next start")
    assert number(Imports(state, importer).load(tmp_path / name)) == 4.0
    assert importer.read == ["m.keras", name]
    flush(model)
    assert not (model / flushing.UNFLUSHED).exists()
    monkeypatch.setattr(flushing, "_boot", lambda: "another")
    assert number(Imports(state, importer).load(tmp_path / name)) == 4.0
    assert importer.read == ["m.keras", name]


def test_an_import_is_flushed_to_disk(tmp_path: Path, state: Path, importer: Counting) -> None:
    Imports(state, importer).load(save(tmp_path / "m.keras"))
    (model,) = kept(state)
    deadline = time.monotonic() + 30
    while (model / flushing.UNFLUSHED).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_model_that_can_not_be_used_leaves_nothing(tmp_path: Path, state: Path, importer: Counting) -> None:
    (tmp_path / "m.keras").write_bytes(save(tmp_path / "good.keras").read_bytes()[:2000])
    for _ in range(2):
        with pytest.raises(CorruptFileError, match="damaged or incomplete zip"):
            Imports(state, importer).load(tmp_path / "m.keras")
    assert kept(state) == []


def test_what_no_path_has_is_removed(tmp_path: Path, state: Path, importer: Counting) -> None:
    for name in "abc":
        Imports(state, importer).load(save(tmp_path / f"{name}.keras", value=float(ord(name))))
    left_behind(state)
    (tmp_path / "a.keras").unlink()
    for model in kept(state):
        aged(model)
    Imports(state, importer).load(save(tmp_path / "d.keras", value=9.0))
    assert len(kept(state)) == 3
    assert len(list((state / "paths").glob("*.json"))) == 3


def test_what_others_keep_beside_imports_stays(tmp_path: Path, state: Path, importer: Counting) -> None:
    theirs = [aged(save(tmp_path / "data" / name / "1" / "model.keras")).parents[1] for name in ("m", "7-a")]
    (tmp_path / "data" / "paths").mkdir()
    (tmp_path / "data" / "paths" / "theirs.json").write_text('{"path": "gone", "import": "7"}')
    for folder in theirs:
        aged(folder)
    # As an operator may do who wants imports on another disk.
    state.parent.mkdir()
    state.symlink_to(tmp_path / "data")
    Imports(state, importer).load(save(tmp_path / "m.keras"))
    assert [(folder / "1" / "model.keras").is_file() for folder in theirs] == [True, True]
    assert (tmp_path / "data" / "paths" / "theirs.json").exists()


@pytest.mark.parametrize("name", [".", "..", "../../models/m"])
def test_an_entry_names_imports_only(name: str, tmp_path: Path, state: Path, importer: Counting) -> None:
    path = save(tmp_path / "models" / "m" / "m.keras")
    Imports(state, importer).load(path)
    (entry,) = (state / "paths").glob("*.json")
    entry.write_text(json.dumps({**json.loads(entry.read_text()), "import": name}))
    Imports(state, importer).load(path)
    assert importer.read == ["m.keras"]
    assert path.is_file()


def test_without_a_folder_that_can_be_written_a_temporary_one_is_used(
    tmp_path: Path, importer: Counting, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "state").write_text("no folder")
    path = save(tmp_path / "m.keras", value=6.0)
    imports = Imports(tmp_path / "state" / "imports", importer)
    for _ in range(2):
        assert number(imports.load(path)) == 6.0
    assert importer.read == ["m.keras"]
    assert caplog.text.count("can't keep what is read of m.keras in ") == 1
    assert imports._own is not None
    assert Path(imports._own.name).is_dir()
    imports._own.cleanup()
    # Processes of one server share another folder.
    for _ in range(2):
        assert number(Imports(tmp_path / "state" / "imports", importer, tmp_path / "spare").load(path)) == 6.0
    assert importer.read == ["m.keras"] * 2
    imports = Imports(tmp_path / "state" / "imports", importer, tmp_path / "state" / "spare")
    assert number(imports.load(path)) == 6.0
    imports._own.cleanup()


def test_a_full_disk_is_not_an_error_of_the_file(tmp_path: Path, state: Path, importer: Counting) -> None:
    path = save(tmp_path / "m.keras")
    full = []

    def fill() -> None:
        if not full:
            full.append(True)
            raise OSError(errno.ENOSPC, "No space left on device")

    importer.meanwhile = fill
    imports = Imports(state, importer)
    assert number(imports.load(path)) == 1.0
    assert kept(state) == []
    assert imports._own is not None
    imports._own.cleanup()


def test_digests_are_taken_from_the_entries(
    tmp_path: Path, state: Path, importer: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(tmp_path / "m.keras")
    digest = sha256(path)
    Imports(state, importer).load(path)
    monkeypatch.setattr(module, "sha256", lambda path: "read")
    assert Imports(state, importer).sha256(path) == digest
    save(path, value=2.0)
    assert Imports(state, importer).sha256(path) == "read"
