"""Limits of a transport; see the settings of the same names."""

from __future__ import annotations

from dataclasses import dataclass

from layerserve_server.errors import MessageTooLargeError

#: Minimum rate at which a client has to read a reply, in bytes per second. Progress within a reply can't be observed.
SLOWEST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on sizes, counts and times, all enforced against clients."""

    max_message_bytes: int
    rpc_threads: int
    max_streams: int
    max_calls: int
    #: Maximum number of open streams per client address.
    max_peer_streams: int = 64
    #: Maximum bytes of messages, replies and queued requests together.
    max_buffered_bytes: int = 1 << 30
    #: Time that a stream waits for the client's next message, in seconds.
    stream_idle_seconds: float = 300.0
    #: Time that a client may read nothing of a pending reply, in seconds.
    stalled_seconds: float = 30.0
    #: Time in which a new connection must send its HTTP/2 preface, in seconds.
    handshake_seconds: float = 20.0
    #: Time after which a connection without calls is closed, in seconds.
    connection_idle_seconds: float = 3600.0
    #: Time without data after which a connection is pinged, and time to answer the ping, in seconds.
    keepalive_seconds: float = 60.0
    keepalive_timeout_seconds: float = 20.0
    #: Age at which a connection is closed to new calls, and time for its open calls after that, in seconds. 0 means
    #: unlimited.
    max_connection_age_seconds: float = 0.0
    max_connection_age_grace_seconds: float = 0.0
    #: Maximum number of calls that a connection may cancel per second.
    max_resets_per_second: int = 500
    #: Maximum number of open connections.
    max_connections: int = 4096
    #: Maximum number of open connections per client address.
    max_peer_connections: int = 1024
    #: Maximum number of open calls per connection; further ones wait at the client.
    max_connection_calls: int = 1024

    def check_size(self, message: bytes) -> None:
        """Raises MessageTooLargeError if a message is larger than `max_message_bytes`."""
        if len(message) > self.max_message_bytes:
            raise self.too_large(len(message))

    def too_large(self, size: int) -> MessageTooLargeError:
        """Returns the error for a message of `size` bytes, larger than `max_message_bytes`."""
        return MessageTooLargeError(
            f"the message has {size} bytes, expected at most {self.max_message_bytes} (setting 'max_message_bytes'); "
            "send fewer rows at a time"
        )

    def patience(self, size: int) -> float:
        """Returns the time that a client has to read a message of `size` bytes, in seconds."""
        return self.stalled_seconds + size / SLOWEST_BYTES
