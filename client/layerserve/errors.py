"""Errors of the client: one class per gRPC status, with subclasses for more specific errors.

    LayerserveError                   base class; has `status`, `code`, `details` and `metadata`
    ├── InvalidArgument               a request or argument is invalid; also a ValueError
    │   ├── InvalidTensor             an array is invalid: `name`, `got`, `expected`
    │   ├── UnknownInput              the model has no input of this name
    │   ├── UnknownOutput             the model has no output or tensor of this name
    │   ├── MissingInput              an input of the model is missing
    │   └── SequenceLost              the sequence isn't under way any more: begin it anew
    ├── OutOfRange                    also a ValueError
    ├── NotFound                      also a LookupError
    │   ├── ModelNotFound
    │   ├── VersionNotFound
    │   ├── LabelNotFound
    │   ├── LayerNotFound             also a KeyError
    │   ├── RunNotFound
    │   ├── DatasetNotFound           or none that the caller may see
    │   └── CheckpointNotFound
    ├── AlreadyExists
    ├── FailedPrecondition
    │   ├── ModelNotReady             the version failed to load
    │   ├── NotCompiled               neither the request nor the file has an optimizer and a loss
    │   ├── RunElsewhere              another server on the same repository owns the run
    │   ├── VersionConflict           another version than expected is the newest of the model
    │   ├── TooLarge                  more than a budget, the disk or a limit of the server allows: don't retry
    │   ├── ModelMismatch              the model isn't the one of a class by `layerserve codegen`, or of a Scorer
    │   └── ClientClosed              the client was used after `close()`
    ├── Overloaded                    a limit of the server is reached: `retry_after` in seconds, if known
    │   └── QuotaExceeded             a limit of this caller: its rows per time, or its runs
    ├── DeadlineExceeded              also a TimeoutError
    ├── Unavailable                   no server at the address, or it isn't serving; also a ConnectionError
    ├── Cancelled
    │   └── TrainingCancelled         a run was cancelled: `run_id`, `epoch`
    ├── Aborted
    │   ├── TrainingFailed            a run ended with an error: `run_id`, `reason`, `epoch`, `step`, `resumable`
    │   └── TakenOver                 another client has taken over the session
    ├── Unauthenticated               no valid token or certificate
    │   └── TokenExpired
    ├── PermissionDenied
    │   └── Forbidden                 the caller doesn't have the right that the call needs, or not on this model
    ├── DataLoss                      data is corrupt or incomplete
    ├── Unimplemented                 the server doesn't have this RPC, such as an older one
    ├── Internal                      internal error of the server: `correlation_id` identifies it in the server's log
    └── UnknownError                  an error without a known status

The server selects a subclass by a code in the trailing metadata, `layerserve-reason`; `CODES` lists the codes. Without
a known code the error has the class of its status.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import grpc

#: Trailing metadata key for the machine-readable code, such as "model_not_found".
REASON_KEY = "layerserve-reason"
#: Trailing metadata key for the id of an internal error in the server's log.
CORRELATION_KEY = "layerserve-correlation-id"
#: Trailing metadata key of gRPC for the time after which to retry, in milliseconds; negative for not at all.
PUSHBACK_KEY = "grpc-retry-pushback-ms"
#: The same key for transports that can't send gRPC's own.
OWN_PUSHBACK_KEY = "layerserve-retry-pushback-ms"


#: What gRPC itself says of a message that is larger than the server takes; it has no code.
_LARGE = re.compile(r"(?<!CLIENT: )Received message larger than max \((\d+) vs\. (\d+)\)")


class LayerserveError(Exception):
    """Base class of the client's errors.

    `status` is the gRPC status, `code` a machine-readable code ("model_not_found") or empty, `details` the error text,
    `metadata` the trailing metadata.
    """

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    code: str = ""

    def __init__(self, details: str = "", *, code: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(details)
        self.details = details
        self.code = code or type(self).code
        self.metadata: dict[str, str] = dict(metadata or {})

    def __str__(self) -> str:
        return self.details or self.status.name

    def __reduce__(self) -> tuple[Any, ...]:
        # The subclasses' initializers differ, so errors are unpickled from their attributes.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[LayerserveError], args: tuple[Any, ...], attributes: dict[str, Any]) -> LayerserveError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InvalidArgument(LayerserveError, ValueError):
    """A request doesn't match the model, or an argument is invalid."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidTensor(InvalidArgument):
    """An array is invalid: `name` is its name, `got` and `expected` describe the difference.

    A server sends only the text; the three attributes are empty then.
    """

    code = "invalid_tensor"

    def __init__(
        self,
        details: str = "",
        *,
        name: str = "",
        got: str = "",
        expected: str = "",
        code: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.got, self.expected = name, got, expected
        if got:
            # The tensor of a model's only input may come without a name.
            tensor = f"tensor {name!r}" if name else "tensor without a name"
            details = f"{tensor}: got {got}, expected {expected}"
        super().__init__(details, code=code, metadata=metadata)


class UnknownInput(InvalidArgument):
    """The model has no input of this name."""

    code = "unknown_input"


class UnknownOutput(InvalidArgument):
    """The model has no output or tensor of this name."""

    code = "unknown_output"


class MissingInput(InvalidArgument):
    """An input of the model is missing."""

    code = "missing_input"


class SequenceLost(InvalidArgument):
    """The sequence that a request is a step of isn't under way: the server has dropped it, or was started anew.

    The text says why. Its states are gone: begin the sequence anew.
    """

    code = "sequence_lost"


class OutOfRange(LayerserveError, ValueError):
    """A value is out of range."""

    status = grpc.StatusCode.OUT_OF_RANGE


class NotFound(LayerserveError, LookupError):
    """An object named in the request doesn't exist."""

    status = grpc.StatusCode.NOT_FOUND


class ModelNotFound(NotFound):
    """The server has no model of this name."""

    code = "model_not_found"


class VersionNotFound(NotFound):
    """The model has no version of this number."""

    code = "version_not_found"


class LabelNotFound(NotFound):
    """No version of the model has this label."""

    code = "label_not_found"


class LayerNotFound(NotFound, KeyError):
    """The model has no layer at this path."""

    code = "layer_not_found"


class RunNotFound(NotFound):
    """The server has no training run with this id."""

    code = "run_not_found"


class DatasetNotFound(NotFound):
    """The server has no dataset with this id, or none that the caller may see."""

    code = "dataset_not_found"


class CheckpointNotFound(NotFound):
    """The run keeps no checkpoint with this id."""

    code = "checkpoint_not_found"


class AlreadyExists(LayerserveError):
    """The object to create exists already."""

    status = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(LayerserveError):
    """The request is valid, but the server's state doesn't allow it."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class ModelNotReady(FailedPrecondition):
    """The version exists but failed to load; the text has the reason."""

    code = "model_not_ready"


class NotCompiled(FailedPrecondition):
    """Neither the request nor the model file has an optimizer and a loss."""

    code = "not_compiled"


class RunElsewhere(FailedPrecondition):
    """Another server on the same repository owns the run; the text names it."""

    code = "run_elsewhere"


class VersionConflict(FailedPrecondition):
    """Another version than `expected_base_version` is the newest of the model."""

    code = "version_conflict"


class TooLarge(FailedPrecondition):
    """More than a budget, the server's disk or one of its limits allows, such as that of a message's size.

    The text has the numbers. The same call fails again.
    """

    code = "too_large"


class ModelMismatch(FailedPrecondition):
    """The model isn't the one that was expected.

    It has other inputs or outputs than the class that `layerserve codegen` wrote for it, or other files than when a
    `Scorer` was made.
    """

    code = "model_changed"


class ClientClosed(FailedPrecondition):
    """The client was used after it was closed."""

    code = "client_closed"


class Overloaded(LayerserveError):
    """A queue of the server is full, or another limit on what it does at a time is reached: the call may succeed later.

    `retry_after` is the time after which to retry, in seconds; None if the server doesn't send one.
    """

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    @property
    def retry_after(self) -> float | None:
        try:
            seconds = int(self.metadata.get(PUSHBACK_KEY) or self.metadata.get(OWN_PUSHBACK_KEY, "")) / 1000
        except (ValueError, OverflowError):
            return None
        return seconds if seconds >= 0 else None


class QuotaExceeded(Overloaded):
    """The caller has used up its quota of rows, or has too many runs."""

    code = "quota_exceeded"


class DeadlineExceeded(LayerserveError, TimeoutError):
    """No reply was received within the timeout."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(LayerserveError, ConnectionError):
    """No server answers at the address, or it isn't serving. Safe to retry for all calls but `train`."""

    status = grpc.StatusCode.UNAVAILABLE


class Cancelled(LayerserveError):
    """The call was cancelled."""

    status = grpc.StatusCode.CANCELLED


class TrainingCancelled(Cancelled):
    """A run was cancelled. `epoch` counts from 1; 0 before the first."""

    code = "training_cancelled"

    def __init__(self, run_id: str = "", epoch: int = 0) -> None:
        self.run_id, self.epoch = run_id, epoch
        super().__init__(f"training run {run_id!r} was cancelled" + (f" in epoch {epoch}" if epoch else ""))


class Aborted(LayerserveError):
    """The server aborted the operation."""

    status = grpc.StatusCode.ABORTED


class TrainingFailed(Aborted):
    """A run ended with an error. `epoch` and `step` count from 1; 0 outside of one.

    A `resumable` run was interrupted (its process was killed, the server was stopped): see `TrainingRun.resume`.
    """

    code = "training_failed"

    def __init__(
        self, run_id: str = "", reason: str = "", epoch: int = 0, step: int = 0, *, resumable: bool = False
    ) -> None:
        self.run_id, self.reason, self.epoch, self.step, self.resumable = run_id, reason, epoch, step, resumable
        super().__init__(f"training run {run_id!r} failed{_position_text(epoch, step)}: {reason}")


class TakenOver(Aborted):
    """Another client has taken over the session of online training."""

    code = "taken_over"


def _position_text(epoch: int, step: int) -> str:
    if not epoch:
        return ""
    return f" in epoch {epoch}, step {step}" if step else f" in epoch {epoch}"


class Unauthenticated(LayerserveError):
    """The server requires a valid token or client certificate."""

    status = grpc.StatusCode.UNAUTHENTICATED


class TokenExpired(Unauthenticated):
    """The token was valid, and has expired."""

    code = "token_expired"


class PermissionDenied(LayerserveError):
    """The client isn't allowed to do this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class Forbidden(PermissionDenied):
    """The caller doesn't have the right that the call needs, or not on this model, whether the model exists or not."""

    code = "forbidden"


class DataLoss(LayerserveError):
    """Data is corrupt or incomplete."""

    status = grpc.StatusCode.DATA_LOSS


class Unimplemented(LayerserveError):
    """The server doesn't have this RPC: it is an older release, or not a layerserve server."""

    status = grpc.StatusCode.UNIMPLEMENTED


class Internal(LayerserveError):
    """An internal error of the server. `correlation_id` identifies it in the server's log; may be empty."""

    status = grpc.StatusCode.INTERNAL

    @property
    def correlation_id(self) -> str:
        return self.metadata.get(CORRELATION_KEY, "")


class UnknownError(LayerserveError):
    """An error without a known status, from the server or a proxy."""

    status = grpc.StatusCode.UNKNOWN


#: Error classes by status.
STATUSES: dict[grpc.StatusCode, type[LayerserveError]] = {cls.status: cls for cls in LayerserveError.__subclasses__()}

#: Error classes by the code that a server sends as `layerserve-reason`. Those of runs come as events of the run.
CODES: dict[str, type[LayerserveError]] = {
    cls.code: cls
    for status in STATUSES.values()
    for cls in status.__subclasses__()
    if cls not in (TrainingCancelled, TrainingFailed)
}


def from_status(
    status: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None = None
) -> LayerserveError:
    """Returns the error for a server's reply. A code of another status becomes `code` but doesn't select the class."""
    pairs = {key: value for key, value in metadata or () if isinstance(value, str)}
    code = pairs.get(REASON_KEY, "")
    cls = STATUSES[status]
    if status is grpc.StatusCode.RESOURCE_EXHAUSTED and (large := _LARGE.search(details or "")):
        code = TooLarge.code
        details = (
            f"the message has {large[1]} bytes, expected at most {large[2]} (setting 'max_message_bytes'); send fewer "
            "rows at a time"
        )
    specific = CODES.get(code)
    # The status for a message that is too large is gRPC's.
    if specific is not None and (specific.status is status or specific is TooLarge):
        cls = specific
    return cls(details or "", code=code, metadata=pairs)


def from_message(error: Any) -> LayerserveError:
    """Returns the error that a message of a stream has: number of its status, text and trailing metadata."""
    status = next((one for one in grpc.StatusCode if one.value[0] == error.code), grpc.StatusCode.UNKNOWN)
    return from_status(status, error.message, error.metadata.items())


def trailing_metadata(error: LayerserveError) -> tuple[tuple[str, str], ...]:
    """Returns the trailing metadata from which `from_status` makes an equal error."""
    pairs = dict(error.metadata)
    if error.code:
        pairs[REASON_KEY] = error.code
    return tuple(pairs.items())
