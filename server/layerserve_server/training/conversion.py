"""Conversion of model files to other formats for downloads, each in a forked child process with limits.

The time and memory of a conversion are bounded and don't affect other requests.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layerserve_server.errors import BusyError
from layerserve_server.inference import runner
from layerserve_server.jobs import table
from layerserve_server.jobs.channel import Channel, never
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.jobs.table import Job

if TYPE_CHECKING:
    from layergraph.models.model import Model

#: Maximum number of concurrent conversions. Each uses the memory of a model, and a core.
MAX_CONVERSIONS = 2
#: Maximum processor time of a conversion, in seconds.
SECONDS = 600.0
#: Time after which a refused client may retry, in seconds.
RETRY_SECONDS = 5.0


class Converter:
    """Converts model files, up to MAX_CONVERSIONS at a time."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._slots = threading.BoundedSemaphore(MAX_CONVERSIONS)

    @contextlib.contextmanager
    def converted(self, source: Path, format: str, parameters: int, gone: Callable[[], bool] = never) -> Iterator[Path]:
        """Converts a model file to a format ("" for its own). The converted file exists until the block ends.

        Raises InvalidRequestError if the format can't represent the model, and as `working` and `run` do.
        """
        with self.working() as folder:
            arguments = {"source": str(source), "folder": str(folder), "format": format}
            reply = self.run(table.CONVERT, arguments, f"converting file {source.name}", parameters, gone)
            yield folder / str(reply["file"])

    @contextlib.contextmanager
    def working(self) -> Iterator[Path]:
        """Gives a job a temporary folder. Raises BusyError if MAX_CONVERSIONS others are in progress."""
        if not self._slots.acquire(blocking=False):
            raise BusyError("other files are being converted; try again in a moment", retry_after=RETRY_SECONDS)
        try:
            with tempfile.TemporaryDirectory(prefix="layerserve-conversion-") as folder:
                yield Path(folder)
        finally:
            self._slots.release()

    def run(
        self,
        job: Job,
        arguments: Mapping[str, Any],
        what: str,
        parameters: int,
        gone: Callable[[], bool],
        seconds: float = SECONDS,
    ) -> dict[str, Any]:
        """Runs a job that loads a model, and returns its reply, as `Jobs.run` does. `seconds` limits processor time."""
        return self._jobs.run(job, arguments, self._jobs.limits(parameters, seconds), gone, what)


# In the child process.


def convert(arguments: Mapping[str, Any], channel: Channel) -> dict[str, Any]:
    """The job: converts a model file. Returns {"file"}."""
    import torch
    from layergraph import load_model

    torch.set_num_threads(1)
    runner.load_plugins()
    return {"file": saved(load_model(Path(arguments["source"])), arguments)}


def saved(model: Model, arguments: Mapping[str, Any]) -> str:
    """Saves a model in the format and the folder of a job's arguments, and returns the file's name."""
    chosen = model.saved_format(arguments["format"])
    name = f"model{chosen.suffix}"
    model.save(Path(arguments["folder"]) / name, generation=chosen.generation)
    return name
