"""What a transport takes; see the settings of the same names."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve_server.errors import TooLargeError

#: Slowest that a caller may take a reply, in bytes a second: how far one has come with it can't be seen.
SLOWEST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes, counts and times that callers can't exceed."""

    max_message_bytes: int
    rpc_threads: int
    max_streams: int
    max_calls: int
    #: Of one address.
    max_peer_streams: int = 64
    #: Of messages, replies and queued requests together.
    max_buffered_bytes: int = 1 << 30
    #: Time that a stream may wait for its caller's next message, in seconds.
    stream_idle_seconds: float = 300.0
    #: Time that a caller may take nothing of what is sent to it, in seconds.
    stalled_seconds: float = 30.0
    #: Time in which a new connection must begin to speak HTTP/2, in seconds.
    handshake_seconds: float = 20.0
    #: Time after which a connection without calls is closed, in seconds.
    connection_idle_seconds: float = 3600.0
    #: Calls that one connection may cancel in a second.
    max_resets_per_second: int = 500
    #: Connections at once.
    max_connections: int = 4096
    #: Connections of one address at once.
    max_peer_connections: int = 1024
    #: Calls of one connection at once; further ones wait at the client.
    max_connection_calls: int = 1024

    def check_size(self, message: bytes) -> None:
        """Raises TooLargeError for a message that is larger than those that are taken."""
        if len(message) > self.max_message_bytes:
            raise self.too_large(len(message))

    def too_large(self, size: int) -> TooLargeError:
        """The error of a message of `size` bytes that is larger than those that are taken."""
        return TooLargeError(f"got {size} bytes, expected at most {self.max_message_bytes}")

    def patience(self, size: int) -> float:
        """Time that a caller has to take a message of `size` bytes, in seconds."""
        return self.stalled_seconds + size / SLOWEST_BYTES
