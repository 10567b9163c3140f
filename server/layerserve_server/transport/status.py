"""Table of gRPC statuses by error class, and the wire form of an error."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from layerserve.errors import CORRELATION_KEY, PUSHBACK_KEY, REASON_KEY

from layerserve_server import errors
from layerserve_server.transport.request_ids import KEY as REQUEST_ID_KEY

logger = logging.getLogger(__name__)

#: Error texts of calls that ended without a decision of their handler.
GONE = "the client cancelled the call"
LATE = "the deadline passed before the reply was ready"

#: Metadata key for a google.rpc.Status with details (https://google.aip.dev/193).
DETAILS_KEY = "grpc-status-details-bin"
#: Maximum length of a field's description, in characters: the trailing metadata of a call may have 8 KiB in total.
MAX_DESCRIPTION = 300
#: Domain of the reasons in ErrorInfo.
DOMAIN = "layerserve"

#: Classes that aren't listed have the status of their base class.
STATUS: dict[type[errors.ServerError], grpc.StatusCode] = {
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    # As servers answer whose protocols have signatures.
    errors.UnknownSignatureError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ForbiddenPathError: grpc.StatusCode.PERMISSION_DENIED,
    errors.IncompleteDataError: grpc.StatusCode.DATA_LOSS,
    errors.VersionFailedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RefusedChangeError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotTrainableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.ForbiddenError: grpc.StatusCode.PERMISSION_DENIED,
    errors.BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooLargeError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.MessageTooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlinePassedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CallCancelledError: grpc.StatusCode.CANCELLED,
    errors.IdleStreamError: grpc.StatusCode.ABORTED,
    errors.TakenOverError: grpc.StatusCode.ABORTED,
    errors.UnknownMethodError: grpc.StatusCode.UNIMPLEMENTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


#: Makes the text of an error in the words of a protocol; None if it has none of its own.
Words: TypeAlias = Callable[[errors.ServerError], str | None]
#: By service. Set when the extensions are known (see `Extension.words`).
WORDS: dict[str, Words] = {}


@dataclass(frozen=True, slots=True)
class Failure:
    """The wire form of an error: a gRPC status with its text and trailing metadata."""

    code: grpc.StatusCode
    text: str
    metadata: tuple[tuple[str, str | bytes], ...]


def gone_error(deadline: float | None) -> errors.ServerError:
    """Returns the error of a cancelled call: DeadlinePassedError if its deadline (`time.monotonic`) has passed."""
    if deadline is not None and time.monotonic() >= deadline:
        return errors.DeadlinePassedError(LATE)
    return errors.CallCancelledError(GONE)


class StatusError(Exception):
    """An error received from another server, already in wire form."""

    def __init__(self, wire: Failure) -> None:
        self.wire = wire
        super().__init__(wire.text)


def failure(error: Exception, method: str, request_id: str = "", trace_id: str = "") -> Failure:
    """Converts an error to its wire form. It has the request's id, if there is one.

    Errors other than ServerError are logged, and the client gets only the id of the log line.
    """
    if isinstance(error, StatusError):
        return error.wire
    if isinstance(error, errors.ServerError):
        code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        text = errors.safe_text(_text(error, method))
        metadata: list[tuple[str, str | bytes]] = [(REASON_KEY, error.reason)]
        if request_id:
            metadata.append((REQUEST_ID_KEY, request_id))
        if isinstance(error, errors.BusyError):
            metadata.append((PUSHBACK_KEY, str(max(1, round(error.retry_after * 1000)))))
        elif isinstance(error, errors.TooLargeError):
            metadata.append((PUSHBACK_KEY, "-1"))
        metadata.append((DETAILS_KEY, _details(code, text, error)))
        return Failure(code, text, tuple(metadata))
    correlation = secrets.token_hex(8)
    ids = {name: value for name, value in (("request_id", request_id), ("trace_id", trace_id)) if value}
    logger.error(
        "internal error in %s", method, exc_info=error, extra={"correlation_id": correlation, "method": method, **ids}
    )
    text = f"internal error; see {correlation} in the server's log"
    own = ((REQUEST_ID_KEY, request_id),) if request_id else ()
    return Failure(grpc.StatusCode.INTERNAL, text, ((REASON_KEY, "internal"), (CORRELATION_KEY, correlation), *own))


def _text(error: errors.ServerError, method: str) -> str:
    """Returns the text of an error, in the words of the method's protocol."""
    words = WORDS.get(method.strip("/").partition("/")[0])
    return (words and words(error)) or str(error)


def _details(code: grpc.StatusCode, text: str, error: errors.ServerError) -> bytes:
    """Returns a google.rpc.Status, whose details any gRPC client can read without our metadata keys."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason.upper(), domain=DOMAIN)]
    if isinstance(error, errors.InvalidRequestError):
        # Our error texts begin with the invalid field: "input 'x': got ..., expected ...".
        field, colon, _ = text.partition(": ")
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=field if colon else "", description=text[:MAX_DESCRIPTION], reason=error.reason.upper()
        )
        details.append(error_details_pb2.BadRequest(field_violations=[violation]))
    elif isinstance(error, errors.BusyError):
        delay = Duration()
        delay.FromMilliseconds(max(1, round(error.retry_after * 1000)))
        details.append(error_details_pb2.RetryInfo(retry_delay=delay))
    status = status_pb2.Status(code=code.value[0], message=text)
    for detail in details:
        status.details.add().Pack(detail)
    encoded: bytes = status.SerializeToString()
    return encoded
