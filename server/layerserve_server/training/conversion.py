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

from layerserve_server.errors import (
    BusyError,
    InvalidRequestError,
    InvalidTensorError,
    MissingInputError,
    NotFiniteError,
    NotTrainableError,
    ServerError,
    UnknownInputError,
    UnknownOutputError,
    VersionFailedError,
    safe_text,
)
from layerserve_server.forking.fork_server import never
from layerserve_server.inference import runner
from layerserve_server.training.dry_run import job_death, job_limits, out_of_memory, too_large
from layerserve_server.training.model import TrainableModel
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

        Raises InvalidRequestError if the format can't represent the model, and as `working` and `run` do.
        """
        with self.working() as folder:
            arguments = {"source": str(source), "folder": str(folder), "format": format}
            reply = self.run(CONVERT, arguments, f"converting file {source.name}", parameters, gone)
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
        job: str,
        arguments: Mapping[str, Any],
        what: str,
        parameters: int,
        gone: Callable[[], bool],
        seconds: float = SECONDS,
    ) -> dict[str, Any]:
        """Runs a job that loads a model, and returns its reply. `what` describes it in error texts.

        Raises VersionFailedError if a file can't be read, TooLargeError if the limit of memory or of `seconds` of
        processor time is exceeded, the errors in a job's reply, UnavailableError if no process can be started, and
        CallCancelledError once `gone` returns True.
        """
        limits = job_limits(seconds, self._memory_bytes, parameters)
        try:
            reply = self._parent.run(job, arguments, limits, gone)
        except JobDiedError as died:
            raise job_death(died, limits, what) from died
        if reply.get("memory"):
            raise too_large(limits, what)
        if refusal := reply.get("refusal"):
            raise REFUSED.get(reply.get("error", ""), InvalidRequestError)(refusal)
        if failure := reply.get("failure"):
            raise VersionFailedError(f"{what} failed: {failure}")
        return reply


#: Errors of a job that are its caller's, by name.
REFUSED: Mapping[str, type[ServerError]] = {
    kind.__name__: kind
    for kind in (
        *(InvalidTensorError, UnknownInputError, MissingInputError, UnknownOutputError, InvalidRequestError),
        *(NotTrainableError, NotFiniteError),
    )
}


# In the child process.


def failed(error: Exception) -> dict[str, Any]:
    """Returns the reply of a job that ends with an error: {"refusal"}, {"failure"} or {"memory"}."""
    from layergraph.errors import ConfigError, LayerGraphError

    if out_of_memory(error):
        return {"memory": True}
    if isinstance(error, (ConfigError, *REFUSED.values())):
        return {"refusal": safe_text(str(error)), "error": type(error).__name__}
    # The text of other errors may reveal internals.
    return {"failure": safe_text(str(error)) if isinstance(error, LayerGraphError) else type(error).__name__}


def convert(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job: converts a model file. Returns {"file"}, or what `failed` does."""
    import torch
    from layergraph import load_model

    os.nice(10)
    torch.set_num_threads(1)
    try:
        runner.load_plugins()
        return {"file": saved(load_model(Path(arguments["source"])), arguments)}
    except Exception as error:
        return failed(error)


def saved(model: TrainableModel, arguments: Mapping[str, Any]) -> str:
    """Saves a model in the format and the folder of a job's arguments, and returns the file's name."""
    chosen = model.saved_format(arguments["format"])
    name = f"model{chosen.suffix}"
    model.save(Path(arguments["folder"]) / name, generation=chosen.generation)
    return name
