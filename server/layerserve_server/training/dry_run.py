"""Dry runs: tries a training request on a copy of its model before the upload, in a child process with limits.

Sizes, patterns, texts and files of a request are never expanded, allocated or parsed in the serving process. If the
child process fails or exceeds a limit, the client receives a typed error.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from layergraph.errors import ModelFileError
from layerserve.values.table_files.table import Selection

from layerserve_server import errors
from layerserve_server.datasets.dataset import Description
from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    InvalidRequestError,
    ServerError,
    TooLargeError,
    safe_text,
)
from layerserve_server.forking.fork_server import never
from layerserve_server.observability.logs import middle_cut
from layerserve_server.system_memory import available_memory
from layerserve_server.training import data_root, dataset_files, sampled_requests
from layerserve_server.training.budget import TRAINING_BYTES
from layerserve_server.training.data_files.filed_array import FiledArray
from layerserve_server.training.model import dry_run, larger_is_better, load_trainable, monitored, prepare_model
from layerserve_server.training.process.warm_parent import JobDiedError, JobLimits, WarmParent
from layerserve_server.training.request import RunRequest
from layerserve_server.training.result import ended_by_signal

logger = logging.getLogger(__name__)

#: Maximum number of concurrent dry runs: each has a copy of its model.
MAX_DRY_RUNS = 2
#: Time between two checks whether a client that waits for a slot is still there, in seconds.
SLOT_CHECK_SECONDS = 0.2
#: Maximum fraction of the available memory that a dry run may use.
MEMORY_SHARE = 0.75
#: Memory that a dry run may always use, in bytes.
MIN_BYTES = 1 << 30
#: Maximum length of a logged traceback, and of its reason in the client's error, in characters.
MAX_TRACE = 8000
MAX_REASON = 300
#: Errors that torch raises for invalid axes and values. The text of other errors may reveal internals.
TORCH_ERRORS = (RuntimeError, IndexError)
#: Descriptions of the jobs in error texts.
DOING = {
    "dry_run": "one step with two rows",
    "problems": "one step with two rows",
    "larger_is_better": "compiling the model",
    "describe": "reading the data files",
    "describe_dataset": "reading the dataset",
    "make_dataset": "making a dataset of sampled requests",
}
#: Maximum processor time of describing a dataset, and of making one of sampled requests, in seconds.
DESCRIBING_SECONDS = MAKING_SECONDS = 600.0
Job: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
OUT_OF_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "more memory than there is",
    "error return without exception set",  # CPython, in place of MemoryError
)


class DryRun(Protocol):
    """Tries training requests and describes data files, without side effects."""

    def __call__(self, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never) -> None:
        """Tries a request on a model file. Raises the ServerError that the run would raise.

        `parameters` is the number of the model's parameters. Raises CallCancelledError once `gone` returns True.
        """

    def problems(
        self, path: Path, request: RunRequest, parameters: int, complete: bool, gone: Callable[[], bool] = never
    ) -> Sequence[str]:
        """Tries a request, and returns the texts of all errors that can be found, instead of raising the first one.

        Of a request that isn't `complete` only the settings are tried: its data has problems of its own.
        """

    def larger_is_better(
        self, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never
    ) -> bool:
        """Whether larger values of the log that a request monitors are better. Raises as a dry run does."""

    def describe(
        self, root: Path, files: Sequence[tuple[str, Selection]], gone: Callable[[], bool] = never
    ) -> Sequence[FiledArray]:
        """Describes arrays in files below `root`, given by path and selection. Raises as `data_root.describe` does."""

    def describe_dataset(self, folder: Path, file: str) -> Description:
        """Describes the file of a dataset. Raises as `dataset_files.described` does."""

    def make_dataset(self, arguments: Mapping[str, Any], gone: Callable[[], bool] = never) -> tuple[int, str]:
        """Makes the file of a dataset, and returns its size and SHA-256. Raises as `sampled_requests.made` does."""

    def close(self) -> None:
        """Stops dry runs."""


class DryRuns:
    """Dry runs in children of a warm parent."""

    def __init__(self, parent: WarmParent, seconds: float, memory_bytes: int) -> None:
        """`seconds` limits a dry run's processor time, `memory_bytes` its memory in addition to the model's."""
        self._parent = parent
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._slots = threading.BoundedSemaphore(MAX_DRY_RUNS)

    def __call__(self, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never) -> None:
        """Tries a request. Raises InvalidRequestError, InvalidTensorError or NotCompiledError as `model.dry_run` does.

        Also raises VersionFailedError if the model file can't be read, TooLargeError if the limit of memory or time is
        exceeded, BusyError if other dry runs occupy all slots for that time, UnavailableError if no process can be
        started, and CallCancelledError once `gone` returns True.
        """
        arguments = {"path": str(path), "request": request.to_json()}
        self._reply("dry_run", arguments, self._limits(parameters), gone)

    def problems(
        self, path: Path, request: RunRequest, parameters: int, complete: bool, gone: Callable[[], bool] = never
    ) -> Sequence[str]:
        """Returns all problems of a request's settings that can be found. Raises errors of limits as for a dry run."""
        arguments = {"path": str(path), "request": request.to_json(), "complete": complete}
        found: list[str] = self._reply("problems", arguments, self._limits(parameters), gone)["problems"]
        return found

    def larger_is_better(
        self, path: Path, request: RunRequest, parameters: int, gone: Callable[[], bool] = never
    ) -> bool:
        """Whether larger values of the log that a request monitors are better. Raises as a dry run does."""
        arguments = {"path": str(path), "request": request.to_json()}
        return bool(self._reply("larger_is_better", arguments, self._limits(parameters), gone)["larger"])

    def describe(
        self, root: Path, files: Sequence[tuple[str, Selection]], gone: Callable[[], bool] = never
    ) -> Sequence[FiledArray]:
        """Describes arrays in files. Raises as `data_root.describe` does, and the errors of limits of a dry run."""
        arguments = {"root": str(root), "files": [[path, asdict(selection)] for path, selection in files]}
        reply = self._reply("describe", arguments, self._limits(0), gone)
        return [
            FiledArray(one["dtype"], tuple(one["shape"]), one["mapped"], tuple(one["stamp"]), tuple(one["columns"]))
            for one in reply["files"]
        ]

    def describe_dataset(self, folder: Path, file: str) -> Description:
        """Describes the file of a dataset. Raises as `dataset_files.described` does, and the errors of limits."""
        arguments = {"folder": str(folder), "file": file}
        limits = job_limits(DESCRIBING_SECONDS, self._memory_bytes, 0)
        return dataset_files.description(self._reply("describe_dataset", arguments, limits, never))

    def make_dataset(self, arguments: Mapping[str, Any], gone: Callable[[], bool] = never) -> tuple[int, str]:
        """Makes the file of a dataset of sampled requests, and returns its size and SHA-256.

        Raises as `sampled_requests.made` does, and the errors of limits.
        """
        limits = job_limits(MAKING_SECONDS, self._memory_bytes, 0)
        reply = self._reply("make_dataset", arguments, limits, gone)
        return reply["bytes"], reply["sha256"]

    def _reply(
        self, job: str, arguments: Mapping[str, Any], limits: JobLimits, gone: Callable[[], bool]
    ) -> dict[str, Any]:
        """Runs a job and returns its reply. Raises the error that the job ended with."""
        what = DOING[job]
        end = time.monotonic() + limits.wall_seconds
        while not (free := self._slots.acquire(timeout=SLOT_CHECK_SECONDS)) and time.monotonic() < end:
            if gone():
                raise CallCancelledError("the client cancelled the call")
        if not free:
            raise BusyError("other training requests are being tried", retry_after=limits.seconds)
        try:
            reply = self._parent.run(job, arguments, limits, gone)
        except JobDiedError as died:
            raise job_death(died, limits, what, "rehearsal_seconds") from died
        finally:
            self._slots.release()
        check_reply(reply, limits, what)
        return reply

    def close(self) -> None:
        """Stops dry runs, and the warm parent."""
        self._parent.close()

    def _limits(self, parameters: int) -> JobLimits:
        return job_limits(self._seconds, self._memory_bytes, parameters)


def job_limits(seconds: float, memory_bytes: int, parameters: int) -> JobLimits:
    """Returns the limits of a job that loads a model: `memory_bytes` plus its parameters', within available memory."""
    # Twice the memory of training: while a file is read, its arrays exist in addition to the model's.
    memory = memory_bytes + 2 * TRAINING_BYTES * parameters
    available = available_memory()
    if available is not None:
        memory = min(memory, max(MIN_BYTES, int(MEMORY_SHARE * available)))
    return JobLimits(seconds, memory)


def check_reply(reply: Mapping[str, Any], limits: JobLimits, what: str) -> None:
    """Raises the error with which a job replied, if it did."""
    if trace := reply.get("trace"):
        logger.error("%s failed with an unexpected error", what, extra={"exception": trace})
    if reply.get("memory"):
        raise too_large(limits, what)
    if name := reply.get("error"):
        raise REFUSALS[name](reply["text"])


def job_death(died: JobDiedError, limits: JobLimits, what: str, seconds: str = "") -> ServerError:
    """Returns the client's error for a job that died. `seconds` names the setting that limits its time, if any."""
    if died.late:
        setting = f", the limit of the server's setting {seconds}" if seconds else ""
        return TooLargeError(f"{what} takes more than {limits.seconds:g} seconds of processor time{setting}")
    if died.signal:
        return TooLargeError(f"{what} failed: its process {ended_by_signal(died.signal)}")
    return too_large(limits, what)


def too_large(limits: JobLimits, what: str) -> TooLargeError:
    """Returns the client's error for a job that ran out of memory."""
    return TooLargeError(
        f"{what} takes more than {limits.memory_bytes} bytes of memory, the limit of the server's setting "
        "rehearsal_bytes and its available memory"
    )


REFUSALS: Mapping[str, Callable[[str], ServerError]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidRequestError,
        errors.InvalidTensorError,
        errors.NotCompiledError,
        errors.NotFiniteError,
        errors.NotTrainableError,
        errors.ForbiddenPathError,
        errors.TooLargeError,
        errors.VersionFailedError,
    )
}


# In the child process.


def _dry_run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job of a dry run."""
    import torch

    from layerserve_server.inference.runner import load_plugins

    torch.set_num_threads(1)
    load_plugins()
    dry_run(load_trainable, Path(arguments["path"]), RunRequest.from_json(arguments["request"]))
    return {}


def _problems(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job that finds all problems of a request's settings."""
    import torch

    from layerserve_server.inference.runner import load_plugins
    from layerserve_server.training.estimates.settings_problems import settings_problems

    torch.set_num_threads(1)
    load_plugins()
    request = RunRequest.from_json(arguments["request"])
    path = Path(arguments["path"])
    return {"problems": settings_problems(load_trainable, path, request, complete=arguments["complete"])}


def _larger_is_better(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job that finds the direction of a log."""
    from layergraph.errors import ConfigError

    from layerserve_server.inference.runner import load_plugins

    load_plugins()
    request = RunRequest.from_json(arguments["request"])
    try:
        model = load_trainable(Path(arguments["path"]))
        prepare_model(model, request)
        return {"larger": larger_is_better(model, monitored(request), request.monitor_mode)}
    except ConfigError as error:
        raise InvalidRequestError(str(error)) from error


def _describe(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The job that describes files."""
    files = [
        (path, Selection(**{**selection, "columns": tuple(selection["columns"])}))
        for path, selection in arguments["files"]
    ]
    return {"files": [asdict(found) for found in data_root.describe_all(Path(arguments["root"]), files)]}


def replying(what: str, work: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Job:
    """Wraps a job so that it replies with its error instead of raising it."""

    def job(arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return work(arguments)
        except ServerError as error:
            if type(error).__name__ in REFUSALS:
                return {"error": type(error).__name__, "text": safe_text(str(error))}
            return _unexpected(error, what)
        except Exception as error:
            if out_of_memory(error):
                return {"memory": True}
            if isinstance(error, ModelFileError):
                # Deleted or replaced since the request came, or its optimizer state is damaged, which serving ignores.
                return {"error": errors.VersionFailedError.__name__, "text": safe_text(f"{what} fails: {error}")}
            return _unexpected(error, what)

    return job


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out. torch raises RuntimeError then, and layergraph its own errors."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


def _unexpected(error: Exception, what: str) -> dict[str, Any]:
    """Replies with an unexpected error. It is the request's fault: the same model is being served."""
    reason = f": {safe_text(str(error), MAX_REASON)}" if isinstance(error, TORCH_ERRORS) else ""
    return {
        "error": InvalidRequestError.__name__,
        "text": f"{what} fails with {type(error).__name__}{reason}; see the server's log",
        "trace": middle_cut("".join(traceback.format_exception(error, limit=-20, chain=False)), MAX_TRACE),
    }


#: Jobs of the warm parent's children, by name.
JOBS: Mapping[str, Job] = {
    "dry_run": replying(DOING["dry_run"], _dry_run),
    "problems": replying(DOING["problems"], _problems),
    "larger_is_better": replying(DOING["larger_is_better"], _larger_is_better),
    "describe": replying(DOING["describe"], _describe),
    "describe_dataset": replying(DOING["describe_dataset"], dataset_files.described),
    "make_dataset": replying(DOING["make_dataset"], sampled_requests.made),
}
