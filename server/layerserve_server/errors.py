"""Errors of the server's own domain. They know no transport; `transport.status` turns them into statuses.

ServerError
├── NotFoundError               what the request names doesn't exist
│   ├── UnknownModelError
│   ├── UnknownVersionError
│   ├── UnknownLabelError
│   ├── UnknownLayerError
│   └── UnknownRunError
├── InvalidRequestError         the request can't be read, or doesn't fit the model
│   ├── InvalidTensorError
│   ├── UnknownInputError
│   ├── MissingInputError
│   └── UnknownOutputError
├── ForbiddenPathError          a path leads out of the folder that callers may name files in
├── IncompleteDataError         a stream of data ended early
├── VersionFailedError          the version is there and can't be loaded
├── NotTrainableError           the model can't be trained here
│   ├── NotCompiledError
│   └── RunElsewhereError       another server on the same repository looks after the run
├── BusyError                   full; the same request may pass later
├── TooLargeError               larger than this server takes, now and later
├── DeadlinePassedError         the caller's deadline passed before the answer was computed
├── CallCancelledError          the caller went away
├── IdleStreamError             the caller of a stream sent, or took, nothing for too long
├── UnknownMethodError          this server has no such method
└── UnavailableError            starting, loading or draining; another replica may answer
"""

from __future__ import annotations

from typing import ClassVar

#: Why a server that is about to end takes nothing more.
STOPPING = "the server is stopping"
#: Longest error text that a caller gets, in characters. Trailing metadata of a call may hold 8 KiB in all.
MAX_TEXT = 1500


class ServerError(Exception):
    """Root of all errors that the server raises on purpose. The text is for the caller."""

    #: One word for programs, sent beside the status; `layerserve.errors` has the same words.
    reason: ClassVar[str] = "error"


class NotFoundError(ServerError):
    """What the request names doesn't exist."""

    reason = "not_found"


class UnknownModelError(NotFoundError):
    """No model has this name."""

    reason = "model_not_found"


class UnknownVersionError(NotFoundError):
    """The model doesn't have this version."""

    reason = "version_not_found"


class UnknownLabelError(NotFoundError):
    """The model doesn't have this label."""

    reason = "label_not_found"


class UnknownLayerError(NotFoundError):
    """The model doesn't have this layer."""

    reason = "layer_not_found"


class UnknownRunError(NotFoundError):
    """No training run has this id."""

    reason = "run_not_found"


class InvalidRequestError(ServerError):
    """The request can't be read, or doesn't fit the model. The text names what, what came and what was expected."""

    reason = "invalid_request"


class InvalidTensorError(InvalidRequestError):
    """An array doesn't fit: its dtype, shape, rows or content."""

    reason = "invalid_tensor"


class UnknownInputError(InvalidRequestError):
    """The model has no input of this name."""

    reason = "unknown_input"


class MissingInputError(InvalidRequestError):
    """An input that the outputs need was left out."""

    reason = "missing_input"


class UnknownOutputError(InvalidRequestError):
    """The model has no output or tensor of this name."""

    reason = "unknown_output"


class ForbiddenPathError(ServerError):
    """A path leads out of the folder that callers may name files in."""

    reason = "forbidden_path"


class IncompleteDataError(ServerError):
    """A stream of data ended before all that it declared had come, or isn't what its digest says."""

    reason = "incomplete_data"


class VersionFailedError(ServerError):
    """The version is there and could not be loaded. The text says why."""

    reason = "model_not_ready"


class NotTrainableError(ServerError):
    """The model can't be trained here: training is off, or the repository can't be written."""

    reason = "not_trainable"


class NotCompiledError(NotTrainableError):
    """Neither the request nor the model file says how to train."""

    reason = "not_compiled"


class RunElsewhereError(NotTrainableError):
    """Another server on the same repository looks after the run. The text names it."""

    reason = "run_elsewhere"


class BusyError(ServerError):
    """A queue is full. `retry_after` is the time after which a place is likely, in seconds."""

    reason = "busy"

    def __init__(self, text: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(text)


class TooLargeError(ServerError):
    """The request is larger than this server takes."""

    reason = "too_large"


class DeadlinePassedError(ServerError):
    """The caller's deadline passed before the answer was computed."""

    reason = "deadline_passed"


class CallCancelledError(ServerError):
    """The caller went away."""

    reason = "cancelled"


class IdleStreamError(ServerError):
    """The caller of a stream sent, or took, nothing for longer than the server waits."""

    reason = "idle"


class UnknownMethodError(ServerError):
    """The server has no method of this name, or the call isn't made as the method is."""

    reason = "unknown_method"


class UnavailableError(ServerError):
    """The server, or the version, isn't ready to answer now."""

    reason = "unavailable"


def safe_text(text: str, limit: int = MAX_TEXT) -> str:
    """Turns a text into one line that any transport and log can carry, of `limit` characters at the most.

    Names in it may come from callers and files, so control characters and lone surrogates are escaped.
    """
    # Cut first: the text may be as long as a message. What is escaped only gets longer.
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text[: limit + 1]
    )
    return line if len(line) <= limit else line[: limit - 4] + " ..."
