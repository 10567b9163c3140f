"""Connection settings: address, TLS, token, channel options and deadlines."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from layerserve.errors import DeadlineExceeded, InvalidArgument, LayerserveError, Unavailable, from_status
from layerserve.methods import METHODS

#: The server's default address.
DEFAULT_ADDRESS = "localhost:8500"
#: Default timeout of a call, in seconds.
DEFAULT_TIMEOUT = 60.0

ChannelOptions = Sequence[tuple[str, Any]]

#: Calls that are safe to repeat are retried for about two seconds if no server is available. The server may set other
#: delays by `grpc-retry-pushback-ms`.
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@dataclass(frozen=True)
class TLS:
    """PEM files for a TLS connection.

    `ca` has the trusted root certificates (default: those included in gRPC). `certificate` and `key` are the client's,
    for servers that require them (mutual TLS). `server_name` is the expected name in the server's certificate if it
    differs from the address.
    """

    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None
    server_name: str | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("TLS: got one of certificate and key, expected both or none")
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


@dataclass(frozen=True)
class Connection:
    """Settings for opening a channel, blocking or asyncio."""

    address: str
    tls: TLS | None
    token: str | None
    options: ChannelOptions

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def channel_options(self) -> list[tuple[str, Any]]:
        """The client's channel options, overridden by the user's."""
        options = dict(CHANNEL_OPTIONS)
        if self.tls is not None and self.tls.server_name:
            options["grpc.ssl_target_name_override"] = self.tls.server_name
        options.update(dict(self.options))
        return list(options.items())


def service_config() -> str:
    """Returns gRPC's service config: balances calls over all addresses, and retries repeatable methods."""
    names = [{"service": method.service, "method": method.name} for method in METHODS if method.repeatable]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}],
        }
    )


CHANNEL_OPTIONS: dict[str, Any] = {
    # gRPC's default limit of 4 MiB is less than seven float32 images of 224x224x3.
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.service_config": service_config(),
    "grpc.enable_retries": 1,
    "grpc.primary_user_agent": "layerserve-python",
    # Keeps idle training streams open through load balancers (idle timeout often 350 s), and detects a dead server.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.http2.max_pings_without_data": 0,
}


def connection(address: str, tls: bool | TLS, token: str | None, options: ChannelOptions) -> Connection:
    """Returns the connection for a client's arguments. Raises InvalidArgument if the address is invalid."""
    if not address:
        raise InvalidArgument("address: got an empty string, expected host:port")
    if address.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise InvalidArgument(f"address: got {address!r}, expected host:port; use tls=True for TLS")
    return Connection(address, TLS() if tls is True else (tls or None), token, tuple(options))


class Deadline:
    """Deadline of an operation of one or more calls."""

    def __init__(self, seconds: float | None) -> None:
        """`seconds` from now; None or infinite for no deadline. Raises InvalidArgument if it isn't positive."""
        if seconds is not None and not seconds > 0:
            raise InvalidArgument(
                f"timeout: got {seconds}, expected a positive number of seconds, or math.inf for no timeout"
            )
        self._seconds = seconds
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Returns the seconds left for the next call; None for no limit. Raises DeadlineExceeded if none are left."""
        if self._end == math.inf:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no reply within {self._seconds:g} s")
        return left


def rpc_error(error: grpc.RpcError, address: str) -> LayerserveError:
    """Converts an error of gRPC, blocking or asyncio, to the client's."""
    # All RpcErrors raised by calls are also a grpc.Call or an AioRpcError, which have these methods.
    details = error.details()
    metadata: Any = error.trailing_metadata()  # pairs in both, of different types
    translated = from_status(error.code(), details, metadata)
    if isinstance(translated, Unavailable) and not translated.code:
        translated.details = f"server {address}: {details}"
    return translated
