"""The client's errors for those of gRPC, with why a server can't be reached."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

import grpc

from layerserve.calls.connection import Connection
from layerserve.errors import DeadlineExceeded, LayerserveError, Unavailable, from_status

#: gRPC's texts for a server that can't be connected to, with the last address that was tried, and the reason.
_NO_CONNECTION = re.compile(
    r"(?s).*; last error: [A-Z_]+: (?:ipv[46]:)?(\S+): "
    r"(?:Failed to connect to remote host: |connect failed: addr: \S+ error: )?(.+)"
)
#: How gRPC's texts for calls begin that were sent to no server.
_UNSENT = ("failed to connect to all addresses; ", "connections to all backends failing; ")
#: gRPC's texts for a name without an address, with the resolver's reason.
_NO_ADDRESS = re.compile(r"(?s)(?:errors resolving|DNS resolution failed for) .*: (.+?)\]?")
#: Reasons that only readers of gRPC's code understand: what they contain, and what they mean.
_REASONS = {
    "Failed parsing HTTP/2": "it isn't a port for gRPC, expected the one that the server names at its start",
    "WRONG_VERSION_NUMBER": "the server has no TLS, expected tls=False, or no --tls",
    "CERTIFICATE_VERIFY_FAILED": "the server's certificate isn't of a trusted authority, expected its PEM file as "
    "TLS(ca=...), or --ca",
    "Hostname Verification": "the server's certificate has another name than the address, expected its name as the "
    "address, or TLS(server_name=...)",
    "Socket closed": "the server closed the connection; if it has TLS, expected tls=True, or --tls",
}
#: The last of them for a client that has TLS.
_CLOSED = (
    "the server closed the connection; it may require a client certificate of an authority that it trusts, expected as "
    "TLS(certificate=..., key=...), or --cert and --key"
)
#: Time for the other address of "localhost" to answer, in seconds.
_PROBE_SECONDS = 1.0


def rpc_error(error: grpc.RpcError, connection: Connection) -> LayerserveError:
    """Converts an error of gRPC, blocking or asyncio, to the client's. Blocks for a moment if it is UNAVAILABLE."""
    # All RpcErrors raised by calls are also a grpc.Call or an AioRpcError, which have these methods.
    details = error.details()
    metadata: Any = error.trailing_metadata()  # pairs in both, of different types
    translated = from_status(error.code(), details, metadata)
    if isinstance(translated, Unavailable) and not translated.code:
        translated.details = f"server {connection.address}: {_described(connection, details or '')}"
    elif isinstance(translated, DeadlineExceeded) and not translated.code:
        translated.details = f"server {connection.address}: no reply before the end of the timeout"
    return translated


def is_unsent(error: grpc.RpcError) -> bool:
    """Whether no server got the call of an error that is UNAVAILABLE: none is connected, or those that are drain."""
    return (error.details() or "").startswith(_UNSENT)


def _described(connection: Connection, details: str) -> str:
    """Returns gRPC's text for an error of a connection in plain words. It may block for up to a second."""
    details = _telling(connection, details)
    if found := _NO_ADDRESS.fullmatch(details):
        return f"the host's name has no address: {found[1]}"
    found = _NO_CONNECTION.fullmatch(details)
    if not found:
        return details
    closed = connection.tls is not None and "Socket closed" in found[2]
    return f"can't connect to {unquote(found[1])}: {_CLOSED if closed else _meaning(found[2]) or found[2]}"


def _telling(connection: Connection, details: str) -> str:
    """Returns the text that says more of the two addresses of "localhost"; `details` for any other address.

    gRPC's text is that of the address it tried last. A server listens at one of the two, so that "[::1]: Connection
    refused" hides what is wrong with the other. It is asked once more, which blocks for up to a second.
    """
    host, _, port = connection.address.rpartition(":")
    found = _NO_CONNECTION.fullmatch(details)
    if host != "localhost" or not found or _meaning(found[2]):
        return details
    other = f"ipv4:127.0.0.1:{port}" if "::1" in unquote(found[1]) else f"ipv6:[::1]:{port}"
    text = _refusal(connection, other, host)
    found = _NO_CONNECTION.fullmatch(text)
    # If nothing listens at either, the one that servers have by default is named.
    return text if found and (_meaning(found[2]) or "127.0.0.1" in found[1]) else details


def _refusal(connection: Connection, target: str, host: str) -> str:
    """Returns gRPC's text for a call to a target of a connection's server; empty if it is answered."""
    options = {**dict(connection.channel_options), "grpc.enable_retries": 0}
    if connection.tls is not None:
        options.setdefault("grpc.ssl_target_name_override", host)
    with replace(connection, target=target, channel_options=list(options.items())).open(grpc) as channel:
        try:
            ask: Callable[..., Any] = channel.unary_unary("/grpc.health.v1.Health/Check")
            ask(b"", timeout=_PROBE_SECONDS)
        except grpc.RpcError as error:
            return error.details() or ""
    return ""


def _meaning(reason: str) -> str:
    return next((meaning for sign, meaning in _REASONS.items() if sign in reason), "")
