"""Model files in other formats: `python -m layerserve_server.conversion SOURCE FOLDER [FORMAT]`, a process of its own.

So what a conversion takes of time and memory is no other caller's, and ends with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from layerserve_server.errors import BusyError, InvalidRequestError, VersionFailedError

#: Conversions at the same time. Each takes the memory of a model, and a core.
MAX_CONVERSIONS = 2
#: Longest time that one may take, in seconds.
SECONDS = 600.0
#: When a caller who finds no place may ask again, in seconds.
RETRY_SECONDS = 5.0
_REFUSED = 3


class Converter:
    """Converts files for downloads, some at a time."""

    def __init__(self) -> None:
        self._places = threading.BoundedSemaphore(MAX_CONVERSIONS)

    @contextlib.contextmanager
    def converted(self, source: Path, format: str) -> Iterator[Path]:
        """The model of a file in a format ("" for its own), as a file that is there until the block ends.

        Raises InvalidRequestError where the format can't hold the model, VersionFailedError where the file can't be
        read, BusyError where others are converted.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("other files are being converted; try again in a moment", retry_after=RETRY_SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="layerserve-conversion-") as folder:
                yield _convert(source, Path(folder), format)
        finally:
            self._places.release()


def _convert(source: Path, folder: Path, format: str) -> Path:
    command = [sys.executable, "-m", "layerserve_server.conversion", str(source), str(folder), format]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, env=environment)
    except subprocess.TimeoutExpired as error:
        raise VersionFailedError(f"file {source.name} can't be converted in {SECONDS:.0f} seconds") from error
    if done.returncode == _REFUSED:
        raise InvalidRequestError(done.stderr.decode("utf-8", "replace").strip().splitlines()[-1])
    files = list(folder.iterdir())
    if done.returncode != 0 or len(files) != 1:
        raise VersionFailedError(f"file {source.name} can't be converted")
    return files[0]


def main(source: Path, folder: Path, format: str) -> int:
    """Writes the model of a file into a folder; gives the exit status."""
    os.nice(10)
    from layergraph import load_model
    from layergraph.errors import ConfigError

    from layerserve_server.execution import load_plugins

    load_plugins()
    model = load_model(source)
    try:
        chosen = model.saved_format(format)
        model.save(folder / f"model{chosen.suffix}", generation=chosen.generation)
    except ConfigError as refusal:
        print(refusal, file=sys.stderr)
        return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
