"""Connection settings: address, TLS, token, channel options and deadlines."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc

from layerserve.addresses import authority, may_be_several, target
from layerserve.errors import DeadlineExceeded, InvalidArgument, LayerserveError, Unavailable, from_status
from layerserve.service_config import MAX_RETRIES, LoadBalancing, service_config
from layerserve.tokens import Token, TokenSource, token_source, warn_if_plaintext

#: The server's default address.
DEFAULT_ADDRESS = "localhost:8500"
#: Default timeout of a call, in seconds.
DEFAULT_TIMEOUT = 60.0
#: Timeouts above this count as none, in seconds (30 years): gRPC counts nanoseconds, and longer ones pass at once.
LONGEST_TIMEOUT = 1e9

ChannelOptions = Sequence[tuple[str, Any]]

#: gRPC's texts for a server that can't be connected to, with the last address that was tried, and the reason.
_NO_CONNECTION = re.compile(
    r"(?s).*; last error: [A-Z_]+: (?:ipv[46]:)?(\S+): "
    r"(?:Failed to connect to remote host: |connect failed: addr: \S+ error: )?(.+)"
)
#: Reasons that only readers of gRPC's code understand: what they contain, and what they mean.
_REASONS = {
    "Failed parsing HTTP/2": "it isn't a port for gRPC, expected the one that the server names at its start",
    "WRONG_VERSION_NUMBER": "the server has no TLS, expected tls=False, or no --tls",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate isn't of a trusted authority, expected its PEM file as "
    "TLS(ca=...), or --ca",
    "Hostname Verification": "the server's certificate has another name than the address, expected its name as the "
    "address, or TLS(server_name=...)",
    "Socket closed": "the server closed the connection; if it has TLS, expected tls=True, or --tls, and the client "
    "certificate that it may require",
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
    """Settings for opening a channel, blocking or asyncio. `target` is the address as gRPC takes it."""

    address: str
    target: str
    tls: TLS | None
    token: TokenSource
    retries: int
    #: The client's channel options, overridden by the user's.
    channel_options: list[tuple[str, Any]]


CHANNEL_OPTIONS: dict[str, Any] = {
    # gRPC's default limit of 4 MiB is less than seven float32 images of 224x224x3.
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.enable_retries": 1,
    # gRPC repeats no call whose request is larger than this; its default is 256 KiB. Requests aren't copied for it.
    "grpc.per_rpc_retry_buffer_size": 2**31 - 1,
    "grpc.primary_user_agent": "layerserve-python",
    # Keeps idle training streams open through load balancers (idle timeout often 350 s), and detects a dead server.
    "grpc.keepalive_time_ms": 60_000,
    "grpc.keepalive_timeout_ms": 20_000,
    "grpc.keepalive_permit_without_calls": 0,
    "grpc.http2.max_pings_without_data": 0,
    # A server that has restarted is found again within seconds; gRPC's default is up to two minutes.
    "grpc.initial_reconnect_backoff_ms": 500,
    "grpc.max_reconnect_backoff_ms": 3_000,
    # So are new servers of a name, once a connection to an old one has ended; the default is 30 s.
    "grpc.dns_min_time_between_resolutions_ms": 10_000,
}


def connection(
    address: str,
    *,
    tls: bool | TLS = False,
    token: Token | None = None,
    retries: int = MAX_RETRIES,
    load_balancing: LoadBalancing = "round_robin",
    options: ChannelOptions = (),
    stacklevel: int = 2,
) -> Connection:
    """Returns the connection for a client's arguments. Raises InvalidArgument if one is invalid.

    Warns if a token is sent to another machine without TLS, at the caller given by `stacklevel`.
    """
    found = target(address)
    files = TLS() if tls is True else (tls or None)
    source = token_source(token)
    if files is None:
        warn_if_plaintext(source, address, stacklevel + 1)
    # With one server there is none to turn to, and its own errors describe more than gRPC's "unhealthy".
    config = service_config(retries, load_balancing, health=may_be_several(address))
    chosen = {**CHANNEL_OPTIONS, "grpc.service_config": config}
    if files is not None and files.server_name:
        chosen["grpc.ssl_target_name_override"] = files.server_name
    elif (name := authority(address)) is not None:
        chosen["grpc.default_authority"] = name
    return Connection(address, found, files, source, retries, list({**chosen, **dict(options)}.items()))


class Deadline:
    """Deadline of an operation of one or more calls."""

    def __init__(self, seconds: float | None) -> None:
        """`seconds` from now; None or infinite for no deadline. Raises InvalidArgument if it isn't positive."""
        if seconds is not None and not seconds > 0:
            raise InvalidArgument(
                f"timeout: got {seconds}, expected a positive number of seconds, or math.inf for no timeout"
            )
        self._seconds = seconds
        self._end = math.inf if seconds is None or seconds > LONGEST_TIMEOUT else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Returns the seconds left for the next call; None for no limit. Raises DeadlineExceeded if none are left."""
        if self._end == math.inf:
            return None
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def exceeded(self) -> DeadlineExceeded:
        """Returns the error for a deadline that has passed."""
        return DeadlineExceeded(f"no reply within {self._seconds:g} s")

    def leaves(self, seconds: float) -> bool:
        """Whether more than this many seconds are left."""
        return self._end - time.monotonic() > seconds

    def limit(self, seconds: float) -> float:
        """Returns this many seconds, or those that are left if they are fewer."""
        return max(0.0, min(seconds, self._end - time.monotonic()))


#: No deadline.
NEVER = Deadline(None)


def rpc_error(error: grpc.RpcError, address: str) -> LayerserveError:
    """Converts an error of gRPC, blocking or asyncio, to the client's."""
    # All RpcErrors raised by calls are also a grpc.Call or an AioRpcError, which have these methods.
    details = error.details()
    metadata: Any = error.trailing_metadata()  # pairs in both, of different types
    translated = from_status(error.code(), details, metadata)
    if isinstance(translated, Unavailable) and not translated.code:
        translated.details = f"server {address}: {_plain(details or '')}"
    return translated


def _plain(details: str) -> str:
    """Returns gRPC's text for an error of a connection, without what only matters within gRPC."""
    found = _NO_CONNECTION.fullmatch(details)
    if not found:
        return details
    reason = next((meaning for sign, meaning in _REASONS.items() if sign in found[2]), found[2])
    return f"can't connect to {unquote(found[1])}: {reason}"
