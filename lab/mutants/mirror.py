"""A copy of the working tree, in which one file has a bug: what runs in it, child processes too, imports from it."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
import subprocess
from pathlib import Path
from typing import TextIO

from mutations import Mutation

#: Where the packages lie, and with them all sources.
PACKAGES = ("client", "server", "modelzoo")
SOURCES = (*PACKAGES, "deploy")
#: Time of the first file with a bug, in seconds: later than all others, so that no older compiled file fits it.
_LATER = 2_000_000_000


class Mirror:
    """One copy, held by one process. Python's compiled files stay in it from run to run."""

    def __init__(self, root: Path, build: Path) -> None:
        self._root = root
        self._lock, self.path = _first_free(build)
        self._stamps = itertools.count(_LATER)
        #: Files that have a bug at present, as they are without it.
        self._sound: dict[str, tuple[bytes, tuple[int, int]]] = {}
        self._copy()

    def environment(self) -> dict[str, str]:
        """What makes a process import from here, on one core."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        packages = os.pathsep.join(str(self.path / package) for package in PACKAGES)
        return {**os.environ, **threads, "PYTHONPATH": packages, "KERAS_BACKEND": "torch"}

    def put(self, mutation: Mutation) -> None:
        """Writes the file with the bug."""
        file = self.path / mutation.path
        found = file.stat()
        self._sound[mutation.path] = file.read_bytes(), (found.st_atime_ns, found.st_mtime_ns)
        file.write_bytes(mutation.apply(self._sound[mutation.path][0]))
        # Python compares the source's time in whole seconds and its size with those that the compiled file was made of.
        stamp = next(self._stamps)
        os.utime(file, (stamp, stamp))

    def restore(self, mutation: Mutation) -> None:
        """Takes the bug out again."""
        data, times = self._sound.pop(mutation.path)
        (self.path / mutation.path).write_bytes(data)
        os.utime(self.path / mutation.path, ns=times)

    def _copy(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self._root, capture_output=True, text=True, check=True,
        )  # fmt: skip
        wanted = {name for name in listed.stdout.split("\0") if name and (self._root / name).is_file()}
        for name in wanted:
            source, copy = self._root / name, self.path / name
            if not copy.exists() or _stamp(copy) != _stamp(source):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, copy)
        for copy in self.path.rglob("*"):
            if copy.is_file() and copy.suffix != ".pyc" and copy.relative_to(self.path).as_posix() not in wanted:
                copy.unlink()


def _stamp(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_mtime_ns, found.st_size


def _first_free(build: Path) -> tuple[TextIO, Path]:
    """The first numbered folder that no other process holds, and what holds it."""
    build.mkdir(parents=True, exist_ok=True)
    for number in itertools.count():
        lock = (build / f"{number}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
        else:
            return lock, build / str(number)
    raise AssertionError
