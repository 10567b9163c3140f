"""gRPC's standard health check, whose two messages are encoded here."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve.calls.methods import Method


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
