"""Tries a request on a copy of its model before any data is taken: in a process of its own, under limits.

What a request names (sizes, patterns, texts, files) is never expanded, allocated or parsed in the serving process, and
whatever it makes of the process that tries it costs its caller a typed error.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from layerserve_server import errors
from layerserve_server.errors import BusyError, InvalidRequestError, ServerError, TooLargeError, safe_text
from layerserve_server.observability.logs import middle_cut
from layerserve_server.system_memory import available_memory
from layerserve_server.training import data_root
from layerserve_server.training.budget import TRAINING_BYTES
from layerserve_server.training.data_root import FiledArray
from layerserve_server.training.model import dry_run, load_trainable
from layerserve_server.training.process.warm_parent import JobDiedError, JobLimits, WarmParent
from layerserve_server.training.request import RunRequest
from layerserve_server.training.result import ended_by_signal

logger = logging.getLogger(__name__)

#: Requests that are tried at once, since each takes a copy of its model.
AT_ONCE = 2
#: Share of the available memory that one may take.
MEMORY_SHARE = 0.75
#: Memory that each may take in any case, in bytes.
LEAST_BYTES = 1 << 30
#: Longest traceback that is logged, and longest reason of it that a caller gets, in characters.
MAX_TRACE = 8000
MAX_REASON = 300
#: What torch raises for axes and numbers that it has no use for. Errors of other kinds may tell of the inside.
OF_TORCH = (RuntimeError, IndexError)
#: What a job does, as its errors say it.
DOING = {"rehearse": "one step with two rows", "describe": "looking at the data files"}
Job: TypeAlias = Callable[[Mapping[str, Any]], Mapping[str, Any]]
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "Cannot allocate memory", "more memory than there is")


class DryRun(Protocol):
    """Tries a request on a model file."""

    def __call__(self, path: Path, request: RunRequest, parameters: int) -> None:
        """`parameters` is the number of the model's. Raises the ServerError that the request would end with."""

    def describe(self, root: Path, files: Sequence[tuple[str, str]]) -> Sequence[FiledArray]:
        """Looks at arrays in files below `root`, by path and key. Raises what `data_root.describe` raises."""

    def close(self) -> None:
        """Tries no more."""


class DryRuns:
    """Rehearsals in children of a warm parent. Each may compute for some seconds, in so many bytes of memory."""

    def __init__(self, parent: WarmParent, seconds: float, memory_bytes: int) -> None:
        self._parent = parent
        self._seconds = seconds
        self._memory_bytes = memory_bytes
        self._places = threading.BoundedSemaphore(AT_ONCE)

    def __call__(self, path: Path, request: RunRequest, parameters: int) -> None:
        """Raises InvalidRequestError, InvalidTensorError or NotCompiledError as `model.rehearse` does.

        Raises TooLargeError for a request that takes more memory or time than a rehearsal may, BusyError where others
        are tried for as long as that, and UnavailableError where there is no process.
        """
        arguments = {"path": str(path), "request": request.to_json()}
        self._reply("rehearse", arguments, self._limits(parameters))

    def describe(self, root: Path, files: Sequence[tuple[str, str]]) -> Sequence[FiledArray]:
        """Raises what `data_root.describe` raises, and further as a rehearsal does."""
        arguments = {"root": str(root), "files": [list(file) for file in files]}
        reply = self._reply("describe", arguments, self._limits(0))
        return [
            FiledArray(one["dtype"], tuple(one["shape"]), one["mapped"], tuple(one["stamp"])) for one in reply["files"]
        ]

    def _reply(self, job: str, arguments: Mapping[str, Any], limits: JobLimits) -> dict[str, Any]:
        """What a job found. Raises the error that it ended with."""
        what = DOING[job]
        if not self._places.acquire(timeout=limits.wall_seconds):
            raise BusyError("other training requests are being tried", retry_after=limits.seconds)
        try:
            reply = self._parent.run(job, arguments, limits)
        except JobDiedError as died:
            raise death(died, limits, what, "rehearsal_seconds") from died
        finally:
            self._places.release()
        if trace := reply.get("trace"):
            logger.error("%s ended with an error", what, extra={"exception": trace})
        if reply.get("memory"):
            raise too_large(limits, what)
        if name := reply.get("error"):
            raise REFUSALS[name](reply["text"])
        return reply

    def close(self) -> None:
        """Tries no more."""
        self._parent.close()

    def _limits(self, parameters: int) -> JobLimits:
        return job_limits(self._seconds, self._memory_bytes, parameters)


def job_limits(seconds: float, memory_bytes: int, parameters: int) -> JobLimits:
    """Limits of what opens a model with so many parameters: `memory_bytes` beside them, as far as there is memory."""
    # Twice what training takes: the file's arrays lie beside the model's while it is read.
    memory = memory_bytes + 2 * TRAINING_BYTES * parameters
    available = available_memory()
    if available is not None:
        memory = min(memory, max(LEAST_BYTES, int(MEMORY_SHARE * available)))
    return JobLimits(seconds, memory)


def death(died: JobDiedError, limits: JobLimits, what: str, seconds: str = "") -> ServerError:
    """The error of a caller whose job died; `seconds` is the setting that limits its time, if there is one."""
    if died.late:
        setting = f", which the server's setting {seconds} allows" if seconds else ""
        return TooLargeError(f"{what} takes more than {limits.seconds:g} seconds of computing{setting}")
    if died.signal:
        return TooLargeError(f"{what} can't be tried: its process {ended_by_signal(died.signal)}")
    return too_large(limits, what)


def too_large(limits: JobLimits, what: str) -> TooLargeError:
    """The error of a caller whose job ran out of memory."""
    return TooLargeError(
        f"{what} takes more than {limits.memory_bytes} bytes of memory, which the server's setting rehearsal_bytes and "
        "its memory allow"
    )


REFUSALS: Mapping[str, Callable[[str], ServerError]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidRequestError,
        errors.InvalidTensorError,
        errors.NotCompiledError,
        errors.NotTrainableError,
        errors.ForbiddenPathError,
        errors.TooLargeError,
    )
}


# In the child.


def _dry_run(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Tries a request."""
    import torch

    from layerserve_server.inference.runner import load_plugins

    torch.set_num_threads(1)
    load_plugins()
    dry_run(load_trainable, Path(arguments["path"]), RunRequest.from_json(arguments["request"]))
    return {}


def _described(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Looks at files."""
    root = Path(arguments["root"])
    return {"files": [asdict(data_root.describe(root, path, key)) for path, key in arguments["files"]]}


def _answering(what: str, work: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Job:
    """The work as a job, which also replies where it ends with an error."""

    def job(arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return work(arguments)
        except ServerError as error:
            if type(error).__name__ in REFUSALS:
                return {"error": type(error).__name__, "text": safe_text(str(error))}
            return _defect(error, what)
        except Exception as error:
            return {"memory": True} if out_of_memory(error) else _defect(error, what)

    return job


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that there is no memory left. torch's own is a RuntimeError, a file's one of layergraph's."""
    return isinstance(error, MemoryError) or any(said in str(error) for said in OUT_OF_MEMORY)


def _defect(error: Exception, what: str) -> dict[str, Any]:
    """An error that nothing foresaw: of the request all the same, as its model is served."""
    said = f": {safe_text(str(error), MAX_REASON)}" if isinstance(error, OF_TORCH) else ""
    return {
        "error": InvalidRequestError.__name__,
        "text": f"{what} ends with {type(error).__name__}{said}; the server's log has it",
        "trace": middle_cut("".join(traceback.format_exception(error, limit=-20, chain=False)), MAX_TRACE),
    }


#: What the warm parent's children can do.
JOBS: Mapping[str, Job] = {
    "rehearse": _answering(DOING["rehearse"], _dry_run),
    "describe": _answering(DOING["describe"], _described),
}
