"""Errors of the server, independent of the transport; `transport.status` maps them to gRPC statuses.

ServerError
├── NotFoundError               an object named in the request doesn't exist
│   ├── UnknownModelError
│   ├── UnknownVersionError
│   ├── UnknownLabelError
│   ├── UnknownLayerError
│   ├── UnknownRunError
│   ├── UnknownDatasetError
│   └── UnknownCheckpointError
├── InvalidRequestError         the request can't be parsed, or doesn't match the model
│   ├── InvalidTensorError
│   ├── UnknownInputError
│   ├── MissingInputError
│   ├── UnknownOutputError
│   ├── UnknownSignatureError
│   └── SequenceLostError       the sequence that the request is a step of isn't under way
├── ForbiddenPathError          a path leads out of the data root
├── IncompleteDataError         a stream of data ended early, or its digest differs
├── VersionFailedError          the version exists but can't be loaded
│   └── NotLoadedError          the model is unloaded, or its settings don't serve the version
├── RefusedChangeError          a change of the repository that something depends on, or that can't be written
├── NotTrainableError           the model can't be trained on this server
│   ├── NotCompiledError
│   ├── RunElsewhereError       another server on the same repository owns the run
│   └── VersionConflictError    another version than expected is the newest of the model
├── UnauthenticatedError        the call needs a token or certificate, and has none that is valid
│   └── TokenExpiredError
├── ForbiddenError              the caller doesn't have the right that the call needs
├── BusyError                   a limit on concurrency is reached; the same request may succeed later
│   └── QuotaError              a limit of this caller
├── TooLargeError               more than a budget, the disk or a limit allows; retrying is of no use
│   └── MessageTooLargeError    the message itself
├── DeadlinePassedError         the client's deadline passed before the reply was ready
├── CallCancelledError          the client cancelled the call
├── IdleStreamError             the client of a stream sent, or read, nothing for too long
├── TakenOverError              another stream has taken over the session
├── UnknownMethodError          this server has no such method
└── UnavailableError            starting, loading or stopping; another replica may answer
"""

from __future__ import annotations

from typing import ClassVar

#: Error text of calls that a stopping server refuses.
STOPPING = "the server is stopping"
#: Maximum length of an error text sent to a client, in characters: a call's trailing metadata may have 8 KiB in total.
MAX_TEXT = 1500


class ServerError(Exception):
    """Base class of the server's errors. The text is sent to the client."""

    #: Machine-readable code, sent in addition to the status; `layerserve.errors` has the same codes.
    reason: ClassVar[str] = "error"


class NotFoundError(ServerError):
    """An object named in the request doesn't exist."""

    reason = "not_found"


class UnknownModelError(NotFoundError):
    """No model has this name. `model` is the name if a request has it, and `hint` names similar models."""

    reason = "model_not_found"

    def __init__(self, text: str, model: str = "", hint: str = "") -> None:
        self.model = model
        self.hint = hint
        super().__init__(text)


class UnknownVersionError(NotFoundError):
    """The model doesn't have this version. `model` and `version` are those of a request, and `hint` names others."""

    reason = "version_not_found"

    def __init__(self, text: str, model: str = "", version: int = 0, hint: str = "") -> None:
        self.model = model
        self.version = version
        self.hint = hint
        super().__init__(text)


class UnknownLabelError(NotFoundError):
    """The model doesn't have this label."""

    reason = "label_not_found"


class UnknownLayerError(NotFoundError):
    """The model doesn't have this layer."""

    reason = "layer_not_found"


class UnknownRunError(NotFoundError):
    """No training run has this id."""

    reason = "run_not_found"


class UnknownDatasetError(NotFoundError):
    """No dataset has this id, or none that the caller may see."""

    reason = "dataset_not_found"


class UnknownCheckpointError(NotFoundError):
    """The run keeps no checkpoint of this id."""

    reason = "checkpoint_not_found"


class InvalidRequestError(ServerError):
    """The request can't be parsed, or doesn't match the model. The text names the field, what was got and expected."""

    reason = "invalid_request"


class InvalidTensorError(InvalidRequestError):
    """An array's dtype, shape, number of rows or content is invalid."""

    reason = "invalid_tensor"


class UnknownInputError(InvalidRequestError):
    """The model has no input of this name."""

    reason = "unknown_input"


class MissingInputError(InvalidRequestError):
    """An input that the outputs depend on is missing."""

    reason = "missing_input"


class UnknownOutputError(InvalidRequestError):
    """The model has no output or tensor of this name."""

    reason = "unknown_output"


class UnknownSignatureError(InvalidRequestError):
    """The model has no signature of this name."""

    reason = "unknown_signature"


class SequenceLostError(InvalidRequestError):
    """The sequence isn't under way: it hasn't begun here, has ended, or was dropped. The text says why."""

    reason = "sequence_lost"


class ForbiddenPathError(ServerError):
    """A path leads out of the data root, the folder with clients' data files."""

    reason = "forbidden_path"


class IncompleteDataError(ServerError):
    """A stream of data ended before all declared data was received, or the data doesn't match its digest."""

    reason = "incomplete_data"


class VersionFailedError(ServerError):
    """The version exists but failed to load. The text has the reason."""

    reason = "model_not_ready"


class NotLoadedError(VersionFailedError):
    """The model is unloaded, or its settings don't serve the version."""


class RefusedChangeError(ServerError):
    """A change of the repository is refused: something depends on what would go, or the disk can't be written."""

    reason = "change_refused"


class NotTrainableError(ServerError):
    """The model can't be trained on this server: training is off, or the repository can't be written."""

    reason = "not_trainable"


class NotCompiledError(NotTrainableError):
    """Neither the request nor the model file has an optimizer and a loss."""

    reason = "not_compiled"


class RunElsewhereError(NotTrainableError):
    """Another server on the same repository owns the run. The text names it."""

    reason = "run_elsewhere"


class ModelGoneError(NotTrainableError):
    """The model that a run began with was deleted, so that its result isn't published."""


class NotFiniteError(NotTrainableError):
    """A model isn't published, since a weight isn't finite. The text names the weight."""


class VersionConflictError(NotTrainableError):
    """Another version than the request expects is the newest of the model. `newest` is that version."""

    reason = "version_conflict"

    def __init__(self, model: str, expected: int, newest: int) -> None:
        self.newest = newest
        super().__init__(f"model '{model}': got version {newest} as its newest, expected version {expected}")


class UnauthenticatedError(ServerError):
    """The call needs a token or a client certificate, and has none, or one that isn't valid."""

    reason = "unauthenticated"


class TokenExpiredError(UnauthenticatedError):
    """The token was valid until it expired."""

    reason = "token_expired"


class ForbiddenError(ServerError):
    """The caller doesn't have the right that the call needs. The text is the same whether the model exists or not."""

    reason = "forbidden"


class BusyError(ServerError):
    """A queue is full or another limit is reached. `retry_after` is the time after which to retry, in seconds."""

    reason = "busy"

    def __init__(self, text: str, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__(text)


class QuotaError(BusyError):
    """The caller has used up its quota of rows, or has too many runs."""

    reason = "quota_exceeded"


class TooLargeError(ServerError):
    """What is asked for exceeds a budget, the room on the disk or a limit of this server. The text has the numbers."""

    reason = "too_large"


class MessageTooLargeError(TooLargeError):
    """The message is larger than this server takes. Its status is the one that gRPC itself has for that."""


class DeadlinePassedError(ServerError):
    """The client's deadline passed before the reply was ready."""

    reason = "deadline_passed"


class CallCancelledError(ServerError):
    """The client cancelled the call."""

    reason = "cancelled"


class IdleStreamError(ServerError):
    """The client of a stream sent, or read, nothing for longer than the server waits."""

    reason = "idle"


class TakenOverError(ServerError):
    """Another stream has taken over the session of this one."""

    reason = "taken_over"


class UnknownMethodError(ServerError):
    """The server has no method of this name, or the method doesn't take this number of messages."""

    reason = "unknown_method"


class UnavailableError(ServerError):
    """The server, or the version, isn't ready."""

    reason = "unavailable"


def error_text(error: Exception) -> str:
    """Returns what an error says. Of an OSError, only the reason: its text has the path, too."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def safe_text(text: str, limit: int = MAX_TEXT) -> str:
    """Converts a text to a single line of at most `limit` characters that is valid in any transport and log.

    Control characters and lone surrogates, in names from clients and files, are escaped.
    """
    # Cut first, since the text may be as long as a message; escaping only makes it longer.
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode("ascii")
        for c in text[: limit + 1]
    )
    return line if len(line) <= limit else line[: limit - 4] + " ..."
