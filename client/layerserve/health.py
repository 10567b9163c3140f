"""gRPC's standard health check. Its two messages are small enough to be encoded here."""

from __future__ import annotations

import time
from dataclasses import dataclass

from layerserve.errors import DeadlineExceeded, LayerserveError, Unavailable
from layerserve.flow import Flow, Pause, call
from layerserve.methods import Method

#: Time between two checks, in seconds.
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class HealthCheckRequest:
    """`grpc.health.v1.HealthCheckRequest` for the whole server: no field is set, so it has no bytes."""

    def SerializeToString(self) -> bytes:  # noqa: N802
        return b""

    def ByteSize(self) -> int:  # noqa: N802
        return 0

    @staticmethod
    def FromString(s: bytes, /) -> HealthCheckRequest:  # noqa: N802
        return HealthCheckRequest()


@dataclass(frozen=True)
class HealthCheckResponse:
    """`grpc.health.v1.HealthCheckResponse`: field 1 is an enum in which 1 means SERVING."""

    serving: bool

    def SerializeToString(self) -> bytes:  # noqa: N802
        return b"\x08\x01" if self.serving else b"\x08\x02"

    def ByteSize(self) -> int:  # noqa: N802
        return 2

    @staticmethod
    def FromString(s: bytes, /) -> HealthCheckResponse:  # noqa: N802
        return HealthCheckResponse(serving=s[:2] == b"\x08\x01")


CHECK = Method("grpc.health.v1.Health", "Check", HealthCheckRequest, HealthCheckResponse)


def wait_until_ready(address: str, timeout: float) -> Flow[None]:
    """Flow that polls until the server is serving. Raises the last error after `timeout` seconds."""
    end = time.monotonic() + timeout
    failure: LayerserveError | None = None
    while True:
        try:
            reply = yield from call(CHECK, HealthCheckRequest())
            if reply.serving:
                return
            failure = Unavailable(f"the server at {address} is still loading its models, or is stopping")
        except Unavailable as error:
            failure = error
        except DeadlineExceeded as error:
            failure = failure or error
        if time.monotonic() >= end:
            raise failure
        yield Pause(POLL_SECONDS)
