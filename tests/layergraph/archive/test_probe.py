"""Files are first opened in a separate process."""

from __future__ import annotations

import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from layergraph.archive import open_archive, probe
from layergraph.archive.hdf5 import StoredArray
from layergraph.errors import CorruptFileError
from model_files import FIXTURES


@pytest.mark.parametrize("name", ["headline.h5", "headline.keras"])
def test_a_good_file_is_walked(name: str) -> None:
    assert probe.probe(FIXTURES / name) == ""


def test_a_bad_file_is_left_to_the_loader(tmp_path: Path) -> None:
    data = (FIXTURES / "headline.h5").read_bytes()
    (tmp_path / "half.h5").write_bytes(data[: len(data) // 2])
    assert probe.probe(tmp_path / "half.h5") == ""
    command = [sys.executable, probe.PROGRAM, str(tmp_path / "half.h5"), "10", str(1 << 30)]
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert probe.probe(tmp_path / "absent.h5") == ""


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGFPE)", "crashes HDF5 (SIGFPE)"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes HDF5 (SIGSEGV)"),
        ("import sys; sys.exit(3)", "needs more memory than its size explains"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "can't be read in 1 CPU seconds"),
    ],
)
def test_what_happens_to_the_process_is_told(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replaces HDF5 by programs with the behaviour that HDF5 has shown."""
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(probe, "PROGRAM", str(tmp_path / "program.py"))
    assert probe.probe(FIXTURES / "headline.h5", seconds=0.5) == said


def test_the_limits_hold() -> None:
    """The program itself, with limits of one second and of no memory."""
    command = [sys.executable, probe.PROGRAM, str(FIXTURES / "headline.h5")]
    assert subprocess.run([*command, "10", str(1 << 30)], timeout=60, check=False).returncode == 0
    starved = subprocess.run([*command, "0", str(1 << 30)], timeout=60, check=False, capture_output=True)
    assert starved.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_all_that_loading_reads_is_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Includes the optimizer's state: a crash there would crash the server when training resumes."""
    seen: list[str] = []
    monkeypatch.setattr(StoredArray, "try_reading", lambda self: seen.append(self.name))
    with open_archive(FIXTURES / "headline.keras") as archive:
        probe._walk(archive.weights)
    names: list[str] = []
    with zipfile.ZipFile(FIXTURES / "headline.keras") as members, h5py.File(members.open("model.weights.h5")) as file:
        file.visititems(lambda name, found: names.append(name) if isinstance(found, h5py.Dataset) else None)
    assert sorted(name.strip("/") for name in seen) == sorted(names) != []
    assert any("optimizer" in name for name in names)


@pytest.mark.parametrize(
    ("raised", "status"), [(MemoryError, 3), (CorruptFileError(Path("model.h5"), "is damaged"), 0), (None, 0)]
)
def test_only_memory_and_crashes_are_told(raised: Any, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other problems are reported by the loader."""
    limits = []
    monkeypatch.setattr(probe.resource, "setrlimit", lambda *limit: limits.append(limit))

    def walk(weights: object) -> None:
        if raised is not None:
            raise raised

    monkeypatch.setattr(probe, "_walk", walk)
    assert probe.main(FIXTURES / "dense.h5", 7, 1 << 30) == status
    assert limits == [
        (probe.resource.RLIMIT_CORE, (0, 0)),
        (probe.resource.RLIMIT_CPU, (7, 8)),
        (probe.resource.RLIMIT_AS, (1 << 30, 1 << 30)),
    ]


def test_it_imports_no_torch() -> None:
    code = (
        f"import runpy, sys; sys.argv = ['probe', {str(FIXTURES / 'headline.h5')!r}, '10', '{1 << 30}']\n"
        f"try: runpy.run_path({probe.PROGRAM!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


@pytest.fixture(name="tried")
def _tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the arrays read in the test; one named `bad` can't be read."""
    names: list[str] = []

    def note(array: StoredArray) -> None:
        names.append(array.name)
        if array.name.endswith("bad"):
            raise CorruptFileError(Path("w.h5"), "is damaged")

    monkeypatch.setattr(StoredArray, "try_reading", note)
    return names


def test_every_array_of_an_old_file_is_read_those_of_the_optimizer_too(tmp_path: Path, tried: list[str]) -> None:
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = "{}"
        model = file.create_group("model_weights")
        model.attrs["layer_names"] = [b"a", b"b"]
        for group, names in (
            ("model_weights/a", ["k", "bad"]),
            ("model_weights/b", ["k"]),
            ("optimizer_weights", ["m"]),
        ):
            file.require_group(group).attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                file[f"{group}/{name}"] = np.zeros(3)
    with open_archive(tmp_path / "m.h5") as archive:
        probe._walk(archive.weights)
    assert tried == ["model_weights/a/k", "model_weights/a/bad", "model_weights/b/k", "optimizer_weights/m"]


def test_every_array_of_a_tree_is_read_once(tmp_path: Path, tried: list[str]) -> None:
    """Also next to an unreadable array, link or text, and in groups with cycles."""
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name in ("a", "b/bad", "b/c", "e/f/g"):
            file[name] = np.zeros(3)
        file["b/link"] = h5py.SoftLink("/a")
        file["b/root"] = file["/"]
        file["b/text"] = ["text"]
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with open_archive(tmp_path / "m.keras") as opened:
        probe._walk(opened.weights)
    assert sorted(tried) == ["a", "b/bad", "b/c", "e/f/g"]


def test_a_process_that_does_not_end_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The time limit is doubled, plus five seconds for the start."""
    given: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> Any:
        given.append({"command": command, **options})
        raise subprocess.TimeoutExpired(command, options["timeout"])

    monkeypatch.setattr(subprocess, "run", run)
    path = tmp_path / "model.h5"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    assert probe.probe(path, seconds=1.5) == "can't be read in 12 seconds"
    assert given[0]["timeout"] == 12.0
    assert given[0]["command"][2:] == [str(path), "4", str((1 << 30) + 200_000_000)]
