"""The one table from domain errors to gRPC statuses, and the wire form of an error."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass

import grpc
from layerserve.errors import CORRELATION_KEY, PUSHBACK_KEY, REASON_KEY

from layerserve_server import errors

logger = logging.getLogger(__name__)

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
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as it goes over the wire."""

    code: grpc.StatusCode
    text: str
    metadata: tuple[tuple[str, str], ...]


def failure(error: Exception, method: str) -> Failure:
    """Turns any error into its wire form. One not of the domain is logged under an id, and only the id is told."""
    if isinstance(error, errors.ServerError):
        code = next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)
        metadata = [(REASON_KEY, error.reason)]
        if isinstance(error, errors.BusyError):
            metadata.append((PUSHBACK_KEY, str(max(1, round(error.retry_after * 1000)))))
        elif isinstance(error, errors.TooLargeError):
            metadata.append((PUSHBACK_KEY, "-1"))
        return Failure(code, errors.safe_text(str(error)), tuple(metadata))
    correlation = secrets.token_hex(8)
    logger.error(
        "internal error in %s", method, exc_info=error, extra={"correlation_id": correlation, "method": method}
    )
    text = f"internal error; the server's log has it under {correlation}"
    return Failure(grpc.StatusCode.INTERNAL, text, ((REASON_KEY, "internal"), (CORRELATION_KEY, correlation)))
