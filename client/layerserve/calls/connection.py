"""Connection settings: address, TLS, token, channel options and deadlines."""

from __future__ import annotations

import math
import os
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from layerserve.calls.addresses import authority, may_be_several, servers, target
from layerserve.calls.certificate_files import load_authorities, load_pair
from layerserve.calls.service_config import MAX_RETRIES, LoadBalancing, service_config
from layerserve.calls.tokens import Token, TokenSource, token_source, warn_if_plaintext
from layerserve.errors import DeadlineExceeded, InvalidArgument

#: The server's default address.
DEFAULT_ADDRESS = "localhost:8500"
#: Default timeout of a call, in seconds.
DEFAULT_TIMEOUT = 60.0
#: Timeouts above this count as none, in seconds (30 years): gRPC counts nanoseconds, and longer ones pass at once.
LONGEST_TIMEOUT = 1e9

ChannelOptions = Sequence[tuple[str, Any]]


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
        """Returns gRPC's credentials. Raises InvalidArgument for files that can't be used, and OSError."""
        if (self.certificate is None) != (self.key is None):
            raise InvalidArgument("TLS: got one of certificate and key, expected both or none")
        # gRPC says of such files only that its handshaker can't be made, and says it at the first call.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            if self.ca is not None:
                load_authorities(context, Path(self.ca))
            if self.certificate is not None and self.key is not None:
                load_pair(context, Path(self.certificate), Path(self.key))
        except ValueError as error:
            raise InvalidArgument(f"TLS: {error}") from None
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.certificate))


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


@dataclass(frozen=True)
class Connection:
    """Settings for opening a channel, blocking or asyncio. `target` is the address as gRPC takes it."""

    address: str
    target: str
    tls: TLS | None
    #: gRPC's form of `tls`.
    credentials: grpc.ChannelCredentials | None
    token: TokenSource
    retries: int
    #: The client's channel options, overridden by the user's.
    channel_options: list[tuple[str, Any]]
    #: Number of servers that share the calls for a model; 0 if any server gets them.
    route_by_model: int = 0

    def open(self, library: Any) -> Any:
        """Opens a channel of `grpc` or `grpc.aio`."""
        if self.credentials is None:
            return library.insecure_channel(self.target, self.channel_options)
        return library.secure_channel(self.target, self.credentials, self.channel_options)

    def to(self, server: str) -> Connection:
        """Returns the connection to one server of a name or list, given as IP address and port.

        gRPC doesn't repeat its calls, as there are other servers. One that reports NOT_SERVING gets none.
        """
        options = {**dict(self.channel_options), "grpc.service_config": service_config(0, "round_robin", health=True)}
        given = options.get("grpc.default_authority") not in (None, authority(self.address))
        if not given and "grpc.ssl_target_name_override" not in options:
            # The name in the server's certificate is that of the address; one of a list has its own.
            listed = servers(self.address)
            options["grpc.default_authority"] = server if server in listed else listed[0]
        return replace(self, target=server, channel_options=list(options.items()))


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
    route_by_model: int = 0,
    options: ChannelOptions = (),
    stacklevel: int = 2,
) -> Connection:
    """Returns the connection for a client's arguments. Raises InvalidArgument if one is invalid, and OSError for files.

    Warns if a token is sent to another machine without TLS, at the caller given by `stacklevel`.
    """
    found = target(address)
    if isinstance(route_by_model, bool) or not isinstance(route_by_model, int) or route_by_model < 0:
        raise InvalidArgument(
            f"route_by_model: got {route_by_model!r}, expected the number of servers for each model, or 0 for all"
        )
    if route_by_model:
        servers(address)  # raises for an address that can't be routed
    if tls and not isinstance(tls, (bool, TLS)):
        raise InvalidArgument(f"tls: got {tls!r}, expected True, False or a layerserve.TLS with files")
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
    credentials = None if files is None else files.credentials()
    channel_options = list({**chosen, **dict(options)}.items())
    return Connection(address, found, files, credentials, source, retries, channel_options, route_by_model)


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
