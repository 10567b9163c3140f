"""Errors as HTTP replies: one table from the statuses of gRPC."""

from __future__ import annotations

import json
import math

import grpc
from layerserve.errors import CORRELATION_KEY, PUSHBACK_KEY, REASON_KEY

from layerserve_server.transport.http.exchange import JSON, HttpReply
from layerserve_server.transport.request_ids import KEY as REQUEST_ID_KEY
from layerserve_server.transport.status import Failure

STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.DATA_LOSS: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
#: Reasons with another status than the other errors of their status in gRPC.
OF_REASON = {"too_large": 413, "model_not_ready": 503}
#: Header with the machine-readable reason of an error, as gRPC's metadata have it.
REASON = REASON_KEY


def error_reply(text: str, status: int, reason: str, *headers: tuple[str, str]) -> HttpReply:
    """Returns the reply with an error."""
    body = json.dumps({"error": text}).encode()
    return HttpReply(body, (JSON, (REASON, reason), *headers), status)


def failure_reply(wire: Failure) -> HttpReply:
    """Returns the reply with the error of a call."""
    texts = {key: value for key, value in wire.metadata if isinstance(value, str)}
    reason = texts.get(REASON_KEY, "error")
    status = OF_REASON.get(reason) or STATUS.get(wire.code, 500)
    headers: list[tuple[str, str]] = []
    if status == 401:
        headers.append(("www-authenticate", "Bearer"))
    pushback = texts.get(PUSHBACK_KEY, "")
    if pushback.isdigit():
        headers.append(("retry-after", str(math.ceil(int(pushback) / 1000))))
    elif status == 503:
        headers.append(("retry-after", "1"))
    headers += [(key, texts[key]) for key in (CORRELATION_KEY, REQUEST_ID_KEY) if key in texts]
    return error_reply(wire.text, status, reason, *headers)
