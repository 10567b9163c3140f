"""Has model files read in child processes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from layergraph.archive.imported.form import raised
from layergraph.archive.saved_model.opening import SAVED_MODEL, VARIABLES
from layergraph.errors import CorruptFileError

from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel, JobDiedError
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.limits import JobLimits

if TYPE_CHECKING:
    from layergraph.archive.imported.form import Wanted

#: Maximum elapsed time for a reply, in seconds.
_SECONDS = 60.0
#: Processor time in seconds, and memory in bytes, for any file; large files get more.
_PROCESSOR_SECONDS, _MEMORY_BYTES = 10.0, 1 << 30
#: Minimum throughput in bytes per second: that of HDF5 in files of many small arrays.
_BYTES_PER_SECOND = 5_000_000
#: Maximum elapsed time in seconds: between its replies the server builds the model.
_WALL_SECONDS = 3600.0


@contextmanager
def reading(jobs: Jobs, path: Path, folder: Path) -> Iterator[Reading]:
    """Has the model file at `path` described in `folder`, and its arrays written when they are asked for.

    Raises ModelFileError if the file can't be used, and OSError if it can't be read or the folder not written.
    """
    size = _size(path)
    more = size / _BYTES_PER_SECOND
    limits = JobLimits(_PROCESSOR_SECONDS + more, _MEMORY_BYTES + 2 * size, wall_seconds=_WALL_SECONDS)
    arguments = {"path": str(path.absolute()), "folder": str(folder), "size": size}
    with jobs.connection(table.READ_MODEL_FILE, arguments, limits, _SECONDS + more) as channel:
        found = Reading(channel, path, _SECONDS + more)
        found.check()
        yield found


class Reading:
    """A file that a child is reading."""

    def __init__(self, channel: Channel, path: Path, seconds: float) -> None:
        self._channel = channel
        self._path = path
        self._seconds = seconds

    def arrays(self, wanted: Sequence[Wanted]) -> None:
        """Has arrays written. Raises as `reading` does."""
        self._channel.send({"arrays": wanted})
        self.check()

    def check(self) -> None:
        """Waits for the reply, which may be an error. Raises ConnectionError without a reply."""
        try:
            reply = self._channel.receive()
            error = raised(reply["error"], self._path) if "error" in reply else None
        except JobDiedError as died:
            raise CorruptFileError(self._path, f"{_death(died)}, when another process reads it") from None
        except TimeoutError:
            raise CorruptFileError(self._path, f"can't be read in {self._seconds:.0f} seconds") from None
        except (ConnectionError, ValueError, LookupError, TypeError) as wrong:
            # From a process that its file has taken over.
            raise ConnectionError(f"the process that reads model files sent no reply: {str(wrong)[:200]}") from wrong
        if error is not None:
            raise error
        if "system" in reply:
            raise OSError(f"{self._path.name}: can't be read by another process: {str(reply['system'])[:200]}")
        if reply:
            # An error that the parser doesn't foresee.
            raise CorruptFileError(self._path, "ends its parser, when another process reads it")


def _death(died: JobDiedError) -> str:
    if died.late:
        return "takes too long"
    return f"crashes its parser ({died.signal_name})" if died.signal else "ends its parser"


def _size(path: Path) -> int:
    """Size of a file; of a SavedModel folder or its `saved_model.pb`, that of all files of the folder."""
    folder = path.parent if path.name == SAVED_MODEL else path
    try:
        if not folder.is_dir():
            return path.stat().st_size
        inside = [*os.scandir(folder)]
        if (variables := folder / VARIABLES.parts[0]).is_dir():
            inside += os.scandir(variables)
        return sum(entry.stat(follow_symlinks=False).st_size for entry in inside)
    except OSError:
        return 0
