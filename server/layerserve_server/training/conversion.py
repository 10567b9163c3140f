"""Conversion of model files to other formats for downloads, each in a forked child process with limits.

The time and memory of a conversion are bounded and don't affect other requests.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from layerserve_server.errors import BusyError, InvalidRequestError, VersionFailedError, safe_text
from layerserve_server.forking.fork_server import never
from layerserve_server.training.dry_run import job_death, job_limits, out_of_memory, too_large
from layerserve_server.training.process.warm_parent import JobDiedError, WarmParent

#: Maximum number of concurrent conversions. Each uses the memory of a model, and a core.
MAX_CONVERSIONS = 2
#: Maximum processor time of a conversion, in seconds.
SECONDS = 600.0
#: Time after which a refused client may retry, in seconds.
RETRY_SECONDS = 5.0
#: Name of the job.
CONVERT = "convert"


class Converter:
    """Converts model files, up to MAX_CONVERSIONS at a time."""

    def __init__(self, parent: WarmParent, memory_bytes: int) -> None:
        """`memory_bytes` is the maximum memory of a conversion in addition to its model's."""
        self._parent = parent
        self._memory_bytes = memory_bytes
        self._slots = threading.BoundedSemaphore(MAX_CONVERSIONS)

    @contextlib.contextmanager
    def converted(self, source: Path, format: str, parameters: int, gone: Callable[[], bool] = never) -> Iterator[Path]:
        """Converts a model file to a format ("" for its own). The converted file exists until the block ends.

        Raises InvalidRequestError if the format can't represent the model, VersionFailedError if the file can't be
        read, TooLargeError if the limit of memory or time is exceeded, BusyError if MAX_CONVERSIONS others are in
        progress, UnavailableError if no process can be started, and CallCancelledError once `gone` returns True.
        """
        if not self._slots.acquire(blocking=False):
            raise BusyError("other files are being converted; try again in a moment", retry_after=RETRY_SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="layerserve-conversion-") as folder:
                yield self._convert(source, Path(folder), format, parameters, gone)
        finally:
            self._slots.release()

    def _convert(self, source: Path, folder: Path, format: str, parameters: int, gone: Callable[[], bool]) -> Path:
        what = f"converting file {source.name}"
        limits = job_limits(SECONDS, self._memory_bytes, parameters)
        arguments = {"source": str(source), "folder": str(folder), "format": format}
        try:
            reply = self._parent.run(CONVERT, arguments, limits, gone)
        except JobDiedError as died:
            raise job_death(died, limits, what) from died
        if reply.get("memory"):
            raise too_large(limits, what)
        if refusal := reply.get("refusal"):
            raise InvalidRequestError(refusal)
        if failure := reply.get("failure"):
            raise VersionFailedError(f"file {source.name} can't be converted: {failure}")
        return folder / str(reply["file"])


# In the child process.


def convert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job: converts a model file. Returns {"file"}, or {"refusal"}, {"failure"} or {"memory"} for an error."""
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
        # The text of other errors may reveal internals.
        return {"failure": safe_text(str(error)) if isinstance(error, LayerGraphError) else type(error).__name__}
