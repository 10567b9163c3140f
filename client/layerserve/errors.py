"""Errors of the client. Every status that a server can send has one, and some have finer ones below it.

    LayerserveError                   root; `status`, `code`, `details` and `metadata` on each
    ├── InvalidArgument               a request doesn't fit the model; also a ValueError
    │   ├── InvalidTensor             an array doesn't: `name`, `got`, `expected`
    │   ├── UnknownInput              the model has no input of this name
    │   ├── UnknownOutput             the model has no output or tensor of this name
    │   └── MissingInput              an input of the model was left out
    ├── OutOfRange                    also a ValueError
    ├── NotFound                      also a LookupError
    │   ├── ModelNotFound
    │   ├── VersionNotFound
    │   ├── LabelNotFound
    │   ├── LayerNotFound             also a KeyError
    │   └── RunNotFound
    ├── AlreadyExists
    ├── FailedPrecondition
    │   ├── ModelNotReady             the version failed to load
    │   ├── NotCompiled               neither the request nor the file says how to train
    │   ├── RunElsewhere              another server on the same repository looks after the run
    │   └── ClientClosed              the client was used after `close()`
    ├── Overloaded                    a queue is full: `retry_after` in seconds, where the server knows it
    ├── DeadlineExceeded              also a TimeoutError
    ├── Unavailable                   no server there, or it is draining; also a ConnectionError
    ├── Cancelled
    │   └── TrainingCancelled         a run was stopped on request: `run_id`, `epoch`
    ├── Aborted
    │   └── TrainingFailed            a run ended by an error: `run_id`, `reason`, `epoch`, `step`, `resumable`
    ├── Unauthenticated
    ├── PermissionDenied
    ├── DataLoss                      data is damaged or incomplete
    ├── Unimplemented                 the server is older than this call
    ├── Internal                      a defect of the server: `correlation_id` finds it in the server's log
    └── UnknownError                  the server, or something before it, gave no reason

A server says which of the finer errors it means by a word in the trailing metadata, `layerserve-reason`; `CODES` lists
the words. An unknown word, or none, gives the error of the status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import grpc

#: Trailing metadata key of the machine-readable word, such as "model_not_found".
REASON_KEY = "layerserve-reason"
#: Trailing metadata key of the id under which the server logged a defect of its own.
CORRELATION_KEY = "layerserve-correlation-id"
#: Trailing metadata key of gRPC itself: when to try again, in milliseconds; negative means not at all.
PUSHBACK_KEY = "grpc-retry-pushback-ms"
#: The same from a transport that can't send gRPC's own key.
OWN_PUSHBACK_KEY = "layerserve-retry-pushback-ms"


class LayerserveError(Exception):
    """Root of all errors of the client.

    `status` is the gRPC status, `code` a machine-readable word ("model_not_found") or empty, `details` the text for a
    person, `metadata` the trailing metadata that came with it.
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
        # The initialisers differ; rebuilding from the attributes makes all of them picklable alike.
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(cls: type[LayerserveError], args: tuple[Any, ...], attributes: dict[str, Any]) -> LayerserveError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InvalidArgument(LayerserveError, ValueError):
    """A request doesn't fit the model, or an argument is wrong in itself."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class InvalidTensor(InvalidArgument):
    """An array doesn't fit: `name` says which, `got` what came and `expected` what was expected.

    A server sends only the text; the three attributes are then empty.
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
            details = f"tensor {name!r}: got {got}, expected {expected}"
        super().__init__(details, code=code, metadata=metadata)


class UnknownInput(InvalidArgument):
    """The model has no input of this name."""

    code = "unknown_input"


class UnknownOutput(InvalidArgument):
    """The model has no output or tensor of this name."""

    code = "unknown_output"


class MissingInput(InvalidArgument):
    """An input of the model was left out."""

    code = "missing_input"


class OutOfRange(LayerserveError, ValueError):
    """A value lies outside of what the server has."""

    status = grpc.StatusCode.OUT_OF_RANGE


class NotFound(LayerserveError, LookupError):
    """What the request names isn't there."""

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


class AlreadyExists(LayerserveError):
    """What the request would make is there already."""

    status = grpc.StatusCode.ALREADY_EXISTS


class FailedPrecondition(LayerserveError):
    """The request is right, but the server's state doesn't allow it."""

    status = grpc.StatusCode.FAILED_PRECONDITION


class ModelNotReady(FailedPrecondition):
    """The version is there but failed to load; the text says why."""

    code = "model_not_ready"


class NotCompiled(FailedPrecondition):
    """Neither the request nor the model file says how to train: no optimizer or no loss."""

    code = "not_compiled"


class RunElsewhere(FailedPrecondition):
    """Another server on the same repository looks after the run; the text says which."""

    code = "run_elsewhere"


class ClientClosed(FailedPrecondition):
    """The client was used after it was closed."""

    code = "client_closed"


class Overloaded(LayerserveError):
    """A queue of the server is full, or a message is larger than it takes.

    `retry_after` is when to try again, in seconds; None where the server doesn't say.
    """

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    @property
    def retry_after(self) -> float | None:
        try:
            milliseconds = int(self.metadata.get(PUSHBACK_KEY) or self.metadata.get(OWN_PUSHBACK_KEY, ""))
        except ValueError:
            return None
        return milliseconds / 1000 if milliseconds >= 0 else None


class DeadlineExceeded(LayerserveError, TimeoutError):
    """The answer didn't come within the timeout."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class Unavailable(LayerserveError, ConnectionError):
    """No server answers at the address, or it is draining. Safe to try again for anything but `train`."""

    status = grpc.StatusCode.UNAVAILABLE


class Cancelled(LayerserveError):
    """The call was cancelled."""

    status = grpc.StatusCode.CANCELLED


class TrainingCancelled(Cancelled):
    """A run was stopped on request. `epoch` counts from 1; 0 before the first."""

    code = "training_cancelled"

    def __init__(self, run_id: str = "", epoch: int = 0) -> None:
        self.run_id, self.epoch = run_id, epoch
        super().__init__(f"training run {run_id!r} was cancelled" + (f" in epoch {epoch}" if epoch else ""))


class Aborted(LayerserveError):
    """The server gave the operation up."""

    status = grpc.StatusCode.ABORTED


class TrainingFailed(Aborted):
    """A run ended by an error. `epoch` and `step` count from 1; 0 outside of one.

    A `resumable` one was interrupted (its process was killed, the server was stopped): `TrainingRun.resume` goes on.
    """

    code = "training_failed"

    def __init__(
        self, run_id: str = "", reason: str = "", epoch: int = 0, step: int = 0, *, resumable: bool = False
    ) -> None:
        self.run_id, self.reason, self.epoch, self.step, self.resumable = run_id, reason, epoch, step, resumable
        super().__init__(f"training run {run_id!r} failed{_place(epoch, step)}: {reason}")


def _place(epoch: int, step: int) -> str:
    if not epoch:
        return ""
    return f" in epoch {epoch}, step {step}" if step else f" in epoch {epoch}"


class Unauthenticated(LayerserveError):
    """The server wants a token or a client certificate, or doesn't know this one."""

    status = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LayerserveError):
    """The server knows the caller and doesn't allow this."""

    status = grpc.StatusCode.PERMISSION_DENIED


class DataLoss(LayerserveError):
    """Data is damaged, or ended before all of it came."""

    status = grpc.StatusCode.DATA_LOSS


class Unimplemented(LayerserveError):
    """The server doesn't have this call: it is older, or no layerserve at all."""

    status = grpc.StatusCode.UNIMPLEMENTED


class Internal(LayerserveError):
    """A defect of the server. `correlation_id` finds it in the server's log; empty where there is none."""

    status = grpc.StatusCode.INTERNAL

    @property
    def correlation_id(self) -> str:
        return self.metadata.get(CORRELATION_KEY, "")


class UnknownError(LayerserveError):
    """The server, or something before it, gave no reason."""

    status = grpc.StatusCode.UNKNOWN


#: The error of each status.
STATUSES: dict[grpc.StatusCode, type[LayerserveError]] = {
    cls.status: cls
    for cls in (
        InvalidArgument,
        OutOfRange,
        NotFound,
        AlreadyExists,
        FailedPrecondition,
        Overloaded,
        DeadlineExceeded,
        Unavailable,
        Cancelled,
        Aborted,
        Unauthenticated,
        PermissionDenied,
        DataLoss,
        Unimplemented,
        Internal,
        UnknownError,
    )
}

#: The error of each word that a server sends under `layerserve-reason`.
CODES: dict[str, type[LayerserveError]] = {
    cls.code: cls
    for cls in (
        InvalidTensor,
        UnknownInput,
        UnknownOutput,
        MissingInput,
        ModelNotFound,
        VersionNotFound,
        LabelNotFound,
        LayerNotFound,
        RunNotFound,
        ModelNotReady,
        NotCompiled,
        RunElsewhere,
    )
}


def from_status(
    status: grpc.StatusCode, details: str | None, metadata: Iterable[tuple[str, str | bytes]] | None = None
) -> LayerserveError:
    """The error for what a server sent. A word that belongs to another status is kept as `code` but doesn't choose."""
    pairs = {key: value for key, value in metadata or () if isinstance(value, str)}
    word = pairs.get(REASON_KEY, "")
    cls = STATUSES[status]
    finer = CODES.get(word)
    if finer is not None and finer.status is status:
        cls = finer
    return cls(details or "", code=word, metadata=pairs)


def trailing_metadata(error: LayerserveError) -> tuple[tuple[str, str], ...]:
    """What a server sends with the status so that `from_status` gives an equal error."""
    pairs = dict(error.metadata)
    if error.code:
        pairs[REASON_KEY] = error.code
    return tuple(pairs.items())
