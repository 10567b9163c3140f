"""Opens a model file in a separate process: HDF5's parser is written in C, and a damaged file can hang or crash it.

`probe(path)` runs this file as a program, which reads everything that a loader could, under limits of time and memory.
Whether the file is valid is decided by the loader afterwards; here the process only has to survive. The program doesn't
import torch, so it takes a fraction of a second.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

if __name__ == "__main__":
    # An empty package, since the real one imports everything; and this file's folder, which Python searches first,
    # contains modules with common names.
    bare = ModuleType("layergraph")
    bare.__path__ = [str(Path(__file__).parents[1])]
    sys.modules["layergraph"] = bare
    sys.path[:1] = []

from layergraph.archive import LegacyWeights, StateTree, TrackedWeights, open_archive
from layergraph.archive.saved_model.opening import SAVED_MODEL, VARIABLES
from layergraph.errors import LayerGraphError

#: CPU seconds, and bytes of memory, for any file; large files get more.
SECONDS = 10
MEMORY_BYTES = 1 << 30
#: The program: this file. Run by path, since `-m` would import the whole package.
PROGRAM = __file__
_MAX_GROUPS = 200_000
#: Minimum throughput of the walk, in bytes per second.
_BYTES_PER_SECOND = 50_000_000
_SURVIVED = 0
_OUT_OF_MEMORY = 3


def probe(path: Path, *, seconds: float = SECONDS) -> str:
    """Returns "" if a process survived opening the file, otherwise a text such as "crashes HDF5 (SIGFPE)"."""
    try:
        size = _size(path)
    except OSError:
        return ""
    allowed = seconds + size / _BYTES_PER_SECOND
    command = [sys.executable, PROGRAM, str(path), str(int(allowed) + 1), str(MEMORY_BYTES + 2 * size)]
    try:
        # Twice the time, as the machine may be busy: the child's own limit counts CPU time only.
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=2 * allowed + 5,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"can't be read in {2 * allowed + 5:.0f} seconds"
    if done.returncode == -signal.SIGXCPU:
        return f"can't be read in {allowed:.0f} CPU seconds"
    if done.returncode < 0:
        return f"crashes HDF5 ({signal.Signals(-done.returncode).name})"
    return "needs more memory than its size explains" if done.returncode == _OUT_OF_MEMORY else ""


def _size(path: Path) -> int:
    """Size of a file; of a SavedModel folder or its `saved_model.pb`, that of all files of the folder."""
    folder = path.parent if path.name == SAVED_MODEL else path
    if not folder.is_dir():
        return path.stat().st_size
    inside = [*os.scandir(folder)]
    if (variables := folder / VARIABLES.parts[0]).is_dir():
        inside += os.scandir(variables)
    return sum(entry.stat(follow_symlinks=False).st_size for entry in inside)


def main(path: Path, seconds: int, memory_bytes: int) -> int:
    """Reads the file under the limits and returns the exit status."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    # Set after the imports, since libraries reserve address space when imported.
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    try:
        with open_archive(path) as archive:
            _walk(archive.weights)
            _walk(archive.task_weights)
    except LayerGraphError:
        pass
    except MemoryError:
        return _OUT_OF_MEMORY
    return _SURVIVED


def _walk(weights: object) -> None:
    if isinstance(weights, (LegacyWeights, TrackedWeights)):
        for stored in [*itertools.chain(*weights.layers().values()), *weights.optimizer_weights()]:
            with contextlib.suppress(LayerGraphError):
                stored.try_reading()
    if not isinstance(weights, StateTree):
        return
    waiting, seen = [weights.root], set[int]()
    while waiting and len(seen) < _MAX_GROUPS:
        group = waiting.pop()
        if group.address in seen:
            continue
        seen.add(group.address)
        for name in group.member_names():
            with contextlib.suppress(LayerGraphError):
                below = group.group(name)
                waiting += [] if below is None else [below]
            with contextlib.suppress(LayerGraphError):
                array = group.array(name)
                if array is not None:
                    array.try_reading()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
