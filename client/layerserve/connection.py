"""How the client connects: addresses, TLS, tokens and the options of the channel."""

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

#: Where a server listens that was told nothing else.
DEFAULT_ADDRESS = "localhost:8500"
#: Seconds that a call may take, where neither client nor call say otherwise.
DEFAULT_TIMEOUT = 60.0

ChannelOptions = Sequence[tuple[str, Any]]

#: Calls that find no server are repeated for about two seconds, where repeating is safe. The server may ask for other
#: pauses by `grpc-retry-pushback-ms`.
RETRY_POLICY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "1s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}


@dataclass(frozen=True)
class TLS:
    """Files for a connection with TLS, in PEM.

    `ca` holds the authorities to trust (default: those that gRPC brings), `certificate` and `key` say who the client
    is, for servers that ask (mutual TLS). `server_name` is the name to expect in the server's certificate where it
    isn't the address.
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
    """All that is needed to open a channel, blocking or asyncio."""

    address: str
    tls: TLS | None
    token: str | None
    options: ChannelOptions

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    @property
    def channel_options(self) -> list[tuple[str, Any]]:
        """Ours, then the user's, which win."""
        options = dict(CHANNEL_OPTIONS)
        if self.tls is not None and self.tls.server_name:
            options["grpc.ssl_target_name_override"] = self.tls.server_name
        options.update(dict(self.options))
        return list(options.items())


def service_config() -> str:
    """Balance over all addresses of the name, and repeat what may be repeated."""
    names = [{"service": method.service, "method": method.name} for method in METHODS if method.repeatable]
    return json.dumps(
        {
            "loadBalancingConfig": [{"round_robin": {}}],
            "methodConfig": [{"name": names, "retryPolicy": RETRY_POLICY}],
        }
    )


CHANNEL_OPTIONS: dict[str, Any] = {
    # gRPC's own limit of 4 MiB is less than seven float images of 224x224x3.
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.service_config": service_config(),
    "grpc.enable_retries": 1,
    "grpc.primary_user_agent": "layerserve-python",
    # A silent training stream must outlive the idle limits of load balancers (often 350 s), and a dead server be seen.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.http2.max_pings_without_data": 0,
}


def connection(address: str, tls: bool | TLS, token: str | None, options: ChannelOptions) -> Connection:
    """The connection that a client's arguments ask for. Raises InvalidArgument for what is no address."""
    if not address:
        raise InvalidArgument("address: got an empty string, expected host:port")
    if address.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise InvalidArgument(f"address: got {address!r}, expected host:port; use tls=True for TLS")
    return Connection(address, TLS() if tls is True else (tls or None), token, tuple(options))


class Deadline:
    """When an operation has to be done, however many calls it takes. `seconds` None or infinite: never."""

    def __init__(self, seconds: float | None) -> None:
        if seconds is not None and not seconds > 0:
            raise InvalidArgument(
                f"timeout: got {seconds}, expected a positive number of seconds, or math.inf for no timeout"
            )
        self._seconds = seconds
        self._end = math.inf if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left for the next call, None for no limit. Raises DeadlineExceeded where none are left."""
        if self._end == math.inf:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise DeadlineExceeded(f"no answer within {self._seconds:g} s")
        return left


def rpc_error(error: grpc.RpcError, address: str) -> LayerserveError:
    """The client's error for one that gRPC raised, blocking or asyncio."""
    # Each RpcError that a call raises is also a grpc.Call or an AioRpcError, which have these.
    details = error.details()
    metadata: Any = error.trailing_metadata()  # pairs, whatever the two call them
    translated = from_status(error.code(), details, metadata)
    if isinstance(translated, Unavailable) and not translated.code:
        translated.details = f"server {address}: {details}"
    return translated
