"""Errors of jobs, as a child sends them and as the server raises them. Texts are made here, at the server's end."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import Any, Final

from layerserve_server import errors
from layerserve_server.errors import InvalidRequestError, ServerError, TooLargeError, VersionFailedError, safe_text
from layerserve_server.jobs.channel import JobDiedError
from layerserve_server.jobs.limits import JobLimits
from layerserve_server.jobs.table import Job

logger = logging.getLogger(__name__)

#: Maximum length of a logged traceback, and of its reason in the client's error, in characters.
MAX_TRACE, MAX_REASON = 8000, 300
#: Errors that torch raises for invalid axes and values. The text of other errors may reveal internals.
TORCH_ERRORS = (RuntimeError, IndexError)
#: In the texts of errors that aren't MemoryErrors: torch raises RuntimeError, and layergraph its own errors.
OUT_OF_MEMORY: Final = (
    "can't allocate memory",
    "out of memory",
    "Cannot allocate memory",
    "more memory than there is",
    "error return without exception set",  # CPython, in place of MemoryError
)
#: Errors that jobs raise for their callers, by name.
REFUSALS: Final[Mapping[str, type[ServerError]]] = {
    kind.__name__: kind
    for kind in (
        errors.InvalidRequestError,
        errors.InvalidTensorError,
        errors.UnknownInputError,
        errors.MissingInputError,
        errors.UnknownOutputError,
        errors.NotCompiledError,
        errors.NotFiniteError,
        errors.NotTrainableError,
        errors.ForbiddenPathError,
        errors.TooLargeError,
        errors.VersionFailedError,
    )
}


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out."""
    return isinstance(error, MemoryError) or any(text in str(error) for text in OUT_OF_MEMORY)


# In the child.


def reply_of(error: Exception) -> dict[str, Any]:
    """Returns the reply of a job that ended with an error."""
    # Jobs may need layergraph or not.
    from layergraph.errors import ConfigError, LayerGraphError, ModelFileError

    if type(error).__name__ in REFUSALS and isinstance(error, ServerError):
        return {"refused": type(error).__name__, "text": safe_text(str(error))}
    if out_of_memory(error):
        return {"died": 0, "late": False}
    if isinstance(error, ConfigError):
        return {"refused": InvalidRequestError.__name__, "text": safe_text(str(error))}
    if isinstance(error, LayerGraphError):
        # A file was deleted or replaced since the request came, or its optimizer state is damaged.
        of_file = isinstance(error, ModelFileError)
        return {"failed": type(error).__name__, "text": safe_text(str(error)), "file": of_file}
    return {
        "failed": type(error).__name__,
        "text": safe_text(str(error), MAX_REASON) if isinstance(error, TORCH_ERRORS) else "",
        "trace": _middle_cut("".join(traceback.format_exception(error, limit=-20, chain=False))),
    }


def _middle_cut(text: str) -> str:
    return text if len(text) <= MAX_TRACE else f"{text[: MAX_TRACE // 2]} ... {text[-(MAX_TRACE // 2) :]}"


# In the server.


def check(reply: Mapping[str, Any], job: Job, what: str) -> None:
    """Raises the error that a reply is, if it is one. `what` describes the job."""
    if name := reply.get("refused"):
        raise REFUSALS[name](reply["text"])
    if not (name := reply.get("failed")):
        return
    if "trace" not in reply:
        kind = VersionFailedError if reply["file"] else job.failure
        raise kind(f"{what} fails: {reply['text']}")
    logger.error("%s failed with an unexpected error", what, extra={"exception": reply["trace"]})
    reason = f": {reply['text']}" if reply["text"] else ""
    raise job.failure(f"{what} fails with {name}{reason}; see the server's log")


def death(died: JobDiedError, job: Job, limits: JobLimits, what: str) -> TooLargeError:
    """Returns the client's error for a job that died."""
    if died.late:
        setting = f", the limit of the server's setting {job.setting}" if job.setting else ""
        return TooLargeError(f"{what} takes more than {limits.seconds:g} seconds of processor time{setting}")
    if died.signal:
        return TooLargeError(f"{what} failed: its process was ended by signal {died.signal_name}")
    return TooLargeError(
        f"{what} takes more than {limits.memory_bytes} bytes of memory, the limit of the server's setting "
        "check_bytes and its available memory"
    )
