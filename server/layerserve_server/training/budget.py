"""Resource budgets of runs: checks for free memory and disk space before a run starts, and limits while it runs."""

from __future__ import annotations

import math
import os
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from layerserve.training.options.contract import Budget

from layerserve_server.errors import TooLargeError
from layerserve_server.system_memory import available_memory, memory_of
from layerserve_server.training.checkpoint_policy import kept_files
from layerserve_server.training.proc_files import children_of
from layerserve_server.training.request import RunRequest
from layerserve_server.training.run_folder import layout as run_folder
from layerserve_server.training.run_folder.files import MAX_FILES

#: Minimum memory per parameter in training, in bytes: weight, gradient, and two slots of an optimizer such as Adam.
TRAINING_BYTES = 16
#: Memory per parameter in evaluation, in bytes.
EVALUATION_BYTES = 4
#: Size per parameter in a file, in bytes: weight and two optimizer slots.
FILED_BYTES = 12
#: Number of model files in a run's folder at once: two checkpoints (the old one is kept until the new one is complete),
#: the best epoch, and the result.
FILES = 4
#: Maximum share of the free disk space that a text array may use.
TEXT_SHARE = 0.25
#: Maximum share of the free disk space that kept outputs of frozen layers may use.
CACHE_SHARE = 0.25
#: Time between two measurements of memory, and of disk space, in seconds.
MEMORY_SECONDS = 0.25
DISK_SECONDS = 2.0


def check_room(request: RunRequest, folder: Path, parameters: int, base_bytes: int) -> None:
    """Raises TooLargeError if a run exceeds its budget, or the free disk space or memory.

    `folder` is the folder of all runs; it needn't exist yet. Memory is estimated from the number of parameters alone:
    memory for activations depends on the model, and data is memory-mapped.
    """
    files = FILES + kept_files(request) if request.trains else 0
    disk = request.kept_bytes + base_bytes + files * FILED_BYTES * parameters
    memory = (TRAINING_BYTES if request.trains else EVALUATION_BYTES) * parameters * request.workers
    _check("disk", disk, "its budget", request.budget.max_disk_bytes or None)
    _check("memory", memory, "its budget", request.budget.max_memory_bytes or None)
    _check("disk", disk, "free", _free_bytes(folder))
    _check("memory", memory, "available", available_memory())


def text_room(request: RunRequest, folder: Path) -> int:
    """Returns the maximum size of a text array of a run, in bytes: its size isn't known before it is uploaded."""
    free = _free_bytes(folder)
    room = sys.maxsize if free is None else int(TEXT_SHARE * free)
    if request.budget.max_disk_bytes:
        room = min(room, request.budget.max_disk_bytes - request.kept_bytes)
    return room


def cache_room(request: RunRequest, folder: Path, parameters: int) -> int:
    """Returns the maximum size of a run's kept outputs of frozen layers, in bytes, so that its files have room, too."""
    free = _free_bytes(folder)
    room = sys.maxsize if free is None else int(CACHE_SHARE * free)
    if request.budget.max_disk_bytes:
        others = folder_bytes(folder) + (FILES + kept_files(request)) * FILED_BYTES * parameters
        room = min(room, request.budget.max_disk_bytes - others)
    return max(0, room)


def _check(what: str, needed: int, limit_name: str, limit: int | None) -> None:
    if limit is not None and needed > limit:
        raise TooLargeError(f"the run needs at least {needed} bytes of {what}, expected at most {limit} ({limit_name})")


def _free_bytes(folder: Path) -> int | None:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


@dataclass(slots=True)
class Watch:
    """Measures the resources that a run uses. `overspent` may be called often: it measures only at intervals."""

    budget: Budget
    folder: Path
    #: Maximum bytes that the run writes besides data and models: callbacks' files, events and its output.
    max_written: int
    _memory_at: float = field(default=-math.inf)
    _disk_at: float = field(default=-math.inf)

    def overspent(self, pid: int | None) -> str:
        """Returns which limit of memory or disk a run with this process exceeds, as a readable text; empty if none."""
        now = time.monotonic()
        if self.budget.max_memory_bytes and pid is not None and now >= self._memory_at:
            self._memory_at = now + MEMORY_SECONDS
            used = sum(map(memory_of, (pid, *children_of(pid))))
            if used > self.budget.max_memory_bytes:
                return f"it used {used} bytes of memory, more than its budget of {self.budget.max_memory_bytes}"
        if now >= self._disk_at:
            self._disk_at = now + DISK_SECONDS
            return self._overspent_disk()
        return ""

    def _overspent_disk(self) -> str:
        if self.budget.max_disk_bytes and (used := folder_bytes(self.folder)) > self.budget.max_disk_bytes:
            return f"its folder used {used} bytes, more than its budget of {self.budget.max_disk_bytes}"
        written = files_in(self.folder / run_folder.FILES) | files_in(self.folder / run_folder.UNFINISHED_FILES)
        if len(written) > MAX_FILES:
            return f"it wrote {len(written)} files, more than {MAX_FILES}"
        single = files_in(self.folder, below=False)
        used = sum(written.values()) + sum(single.values())
        if used > self.max_written:
            return f"it wrote {used} bytes of files, events and output, more than {self.max_written}"
        return ""


def folder_bytes(folder: Path) -> int:
    """Returns the size of all files below a folder, in bytes. A file with several hard links counts once."""
    return sum(files_in(folder).values())


def files_in(folder: Path, *, below: bool = True) -> dict[int, int]:
    """Returns the sizes of the files in a folder by inode; with `below`, also of those in its subfolders."""
    sizes: dict[int, int] = {}
    for path, folders, names in os.walk(folder):
        if not below:
            folders.clear()
        for name in names:
            try:
                state = os.lstat(os.path.join(path, name))
            except OSError:
                continue
            sizes[state.st_ino] = state.st_size
    return sizes
