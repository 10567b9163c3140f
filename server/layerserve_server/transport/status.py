"""The one table from domain errors to gRPC statuses, and the wire form of an error."""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from layerserve.errors import CORRELATION_KEY, PUSHBACK_KEY, REASON_KEY

from layerserve_server import errors

logger = logging.getLogger(__name__)

#: Texts of ends that no handler decides on.
GONE = "the caller has gone"
LATE = "the deadline passed before the answer was there"

#: Where gRPC's clients look for a google.rpc.Status with details (https://google.aip.dev/193).
DETAILS_KEY = "grpc-status-details-bin"
#: Longest description of a field, in characters: trailing metadata of a call may hold 8 KiB in all.
MAX_DESCRIPTION = 300
#: What the reasons of ErrorInfo belong to.
DOMAIN = "layerserve"

#: A class that isn't here is looked up by its bases.
STATUS: dict[type[errors.ServerError], grpc.StatusCode] = {
    errors.NotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ForbiddenPathError: grpc.StatusCode.PERMISSION_DENIED,
    errors.IncompleteDataError: grpc.StatusCode.DATA_LOSS,
    errors.VersionFailedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.NotTrainableError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.BusyError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.TooLargeError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlinePassedError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.CallCancelledError: grpc.StatusCode.CANCELLED,
    errors.IdleStreamError: grpc.StatusCode.ABORTED,
    errors.UnknownMethodError: grpc.StatusCode.UNIMPLEMENTED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it goes over the wire."""

    code: grpc.StatusCode
    text: str
    metadata: tuple[tuple[str, str | bytes], ...]


def gone_error(deadline: float | None) -> errors.ServerError:
    """The error of a call whose caller went away: because of its deadline, on the clock of `time.monotonic`, or not."""
    if deadline is not None and time.monotonic() >= deadline:
        return errors.DeadlinePassedError(LATE)
    return errors.CallCancelledError(GONE)


class StatusError(Exception):
    """An error that has its wire form already: another server gave it."""

    def __init__(self, wire: Failure) -> None:
        self.wire = wire
        super().__init__(wire.text)


def failure(error: Exception, method: str) -> Failure:
    """Turns any error into its wire form. One not of the domain is logged, and the caller gets only the id of that."""
    if isinstance(error, StatusError):
        return error.wire
    if isinstance(error, errors.ServerError):
        code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        text = errors.safe_text(str(error))
        metadata: list[tuple[str, str | bytes]] = [(REASON_KEY, error.reason)]
        if isinstance(error, errors.BusyError):
            metadata.append((PUSHBACK_KEY, str(max(1, round(error.retry_after * 1000)))))
        elif isinstance(error, errors.TooLargeError):
            metadata.append((PUSHBACK_KEY, "-1"))
        metadata.append((DETAILS_KEY, _details(code, text, error)))
        return Failure(code, text, tuple(metadata))
    correlation = secrets.token_hex(8)
    logger.error(
        "internal error in %s", method, exc_info=error, extra={"correlation_id": correlation, "method": method}
    )
    text = f"internal error; the server's log has it under {correlation}"
    return Failure(grpc.StatusCode.INTERNAL, text, ((REASON_KEY, "internal"), (CORRELATION_KEY, correlation)))


def _details(code: grpc.StatusCode, text: str, error: errors.ServerError) -> bytes:
    """A google.rpc.Status: what all clients of gRPC can read of an error, beside our own metadata."""
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason.upper(), domain=DOMAIN)]
    if isinstance(error, errors.InvalidRequestError):
        # Our texts begin with the thing that is wrong: "input 'x': got ..., expected ...".
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
