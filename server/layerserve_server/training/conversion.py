"""Model files in other formats, for downloads: each made in a child of the warm parent.

So what a conversion takes of time and memory is no other caller's, has limits, and ends with it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from layerserve_server.errors import BusyError, InvalidRequestError, VersionFailedError, safe_text
from layerserve_server.training.dry_run import death, job_limits, out_of_memory, too_large
from layerserve_server.training.process.warm_parent import JobDiedError, WarmParent

#: Conversions at the same time. Each takes the memory of a model, and a core.
MAX_CONVERSIONS = 2
#: Longest time that one may compute, in seconds.
SECONDS = 600.0
#: When a caller who finds no place may ask again, in seconds.
RETRY_SECONDS = 5.0
#: The job's name.
CONVERT = "convert"


class Converter:
    """Converts files for downloads, some at a time."""

    def __init__(self, parent: WarmParent, memory_bytes: int) -> None:
        """A conversion may take `memory_bytes` beside what its model needs."""
        self._parent = parent
        self._memory_bytes = memory_bytes
        self._places = threading.BoundedSemaphore(MAX_CONVERSIONS)

    @contextlib.contextmanager
    def converted(self, source: Path, format: str, parameters: int) -> Iterator[Path]:
        """The model of a file in a format ("" for its own), as a file that is there until the block ends.

        Raises InvalidRequestError where the format can't hold the model, VersionFailedError where the file can't be
        read, TooLargeError where that takes more memory or time than it may, BusyError where others are converted, and
        UnavailableError where there is no process.
        """
        if not self._places.acquire(blocking=False):
            raise BusyError("other files are being converted; try again in a moment", retry_after=RETRY_SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="layerserve-conversion-") as folder:
                yield self._convert(source, Path(folder), format, parameters)
        finally:
            self._places.release()

    def _convert(self, source: Path, folder: Path, format: str, parameters: int) -> Path:
        what = f"converting file {source.name}"
        limits = job_limits(SECONDS, self._memory_bytes, parameters)
        arguments = {"source": str(source), "folder": str(folder), "format": format}
        try:
            reply = self._parent.run(CONVERT, arguments, limits)
        except JobDiedError as died:
            raise death(died, limits, what) from died
        if reply.get("memory"):
            raise too_large(limits, what)
        if refusal := reply.get("refusal"):
            raise InvalidRequestError(refusal)
        if failure := reply.get("failure"):
            raise VersionFailedError(f"file {source.name} can't be converted: {failure}")
        return folder / str(reply["file"])


# In the child.


def convert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Writes the model of a file into a folder."""
    import torch
    from layergraph import load_model
    from layergraph.errors import ConfigError, LayerGraphError

    from layerserve_server.inference.runner import load_plugins

    os.nice(10)
    torch.set_num_threads(1)
    try:
        load_plugins()
        model = load_model(Path(arguments["source"]))
        try:
            chosen = model.saved_format(arguments["format"])
            name = f"model{chosen.suffix}"
            model.save(Path(arguments["folder"]) / name, generation=chosen.generation)
        except ConfigError as refusal:
            return {"refusal": safe_text(str(refusal))}
        return {"file": name}
    except Exception as error:
        if out_of_memory(error):
            return {"memory": True}
        # Errors of other kinds may tell of the inside.
        return {"failure": safe_text(str(error)) if isinstance(error, LayerGraphError) else type(error).__name__}
