"""Files are opened in a process of its own first."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from layergraph.archive import probe
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
        ("import sys; sys.exit(3)", "asks for more memory than its size explains"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "can't be walked in 1 seconds of computing"),
    ],
)
def test_what_happens_to_the_process_is_told(
    program: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the place of HDF5, a program that does what HDF5 has been seen to do."""
    (tmp_path / "program.py").write_text(program)
    monkeypatch.setattr(probe, "PROGRAM", str(tmp_path / "program.py"))
    assert probe.probe(FIXTURES / "headline.h5", seconds=0.5) == said


def test_the_limits_hold() -> None:
    """The program itself, with a second's and with no memory's worth of limits."""
    command = [sys.executable, probe.PROGRAM, str(FIXTURES / "headline.h5")]
    assert subprocess.run([*command, "10", str(1 << 30)], timeout=60, check=False).returncode == 0
    starved = subprocess.run([*command, "0", str(1 << 30)], timeout=60, check=False, capture_output=True)
    assert starved.returncode in (-signal.SIGXCPU, -signal.SIGKILL)


def test_it_imports_no_torch() -> None:
    code = (
        f"import runpy, sys; sys.argv = ['probe', {str(FIXTURES / 'headline.h5')!r}, '10', '{1 << 30}']\n"
        f"try: runpy.run_path({probe.PROGRAM!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)
