"""Every limit on what callers send, have open, or make the server keep: in the order in which a request meets them.

`Limits` are those that an operator sets. The constants are the others. Each is named once, here; in brackets are the
modules that enforce it. What a method allows beyond that, such as rows of a model, its service knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from layerserve_server.errors import MessageTooLargeError

# Connections. Neither library limits what it buffers for one, so the kernel's counters are watched.

#: Fraction of `max_connections` above which connections of the addresses with the most are closed: before all are in
#: use, so that a new client finds room [perimeter.connections].
CROWDED_SHARE = 0.875
#: Fraction of the memory budget above which the connections with the most buffered bytes are relieved or closed: before
#: it is used up, so that the requests of others aren't refused for them [perimeter.connections].
RELIEF_SHARE = 0.75
#: Number of pings in quick succession, without data in between, after which a connection is closed. A client on a slow
#: machine sends several while it receives one large reply [grpcio].
PING_STRIKES = 100
#: Number of requests on a connection of HTTP, so that load balancers rebalance, and of those sent before the replies to
#: earlier ones [http.connection].
HTTP_REQUESTS, HTTP_PIPELINED = 100_000, 16
#: Size of the buffer that asyncio has for each connection with TLS, in bytes; its own choice is 256 KiB
#: [http.handshake].
TLS_BUFFER_BYTES = 32 * 1024
#: Minimum rate at which a client has to read a reply, in bytes per second. Progress within a reply can't be observed
#: [streams]. Below, `Limits.patience` follows from it.
SLOWEST_BYTES = 256 * 1024

# Calls.

#: Size of a call's metadata, or of a request's line and headers, in bytes. It is grpcio's own limit; the native front
#: refuses four times as much by itself, with a status that clients see as UNKNOWN [native, http.connection].
METADATA_BYTES = 16 * 1024
#: Bytes of a call on the wire besides its message, at most: the metadata that a front lets through, and frames
#: [perimeter.connections].
CALL_BYTES = 5 * METADATA_BYTES
#: Number of calls per event batch. In a larger one the first call would wait until the last is parsed
#: [completion_queue, native].
BATCH_CALLS = 256
#: One in this many streams is reserved for other methods than the busiest one, so that none can take all [streams].
OTHERS_SHARE = 4
#: Length of a name whose health is watched, in characters: a watch keeps it as long as it is open [health].
HEALTH_NAME_LENGTH = 1024

# Messages.

#: Smaller messages don't count towards the memory budget, in bytes: the number of calls is limited
#: [event_batch, http.app, services.rest.infer].
COUNTED_BYTES = 4096
#: Size of what the receiving thread decompresses, translates, or joins with the head of a reply, in bytes. More would
#: delay other calls, and is for a pool [perimeter.compression, http.app, services.rest.infer]. Bodies sent ahead of
#: replies aren't read beyond it [http.connection]. Messages up to this size can't have so many elements that they are
#: looked through [perimeter.message_size].
PROMPT_BYTES = 64 * 1024
#: Number of elements of a message, unless its method allows more; and of those that a nested message counts as. An
#: element is a field, or 64 bytes of packed integers. Fields take up to 8 MiB, and as much again as Python's objects;
#: integers take up to 16 MiB [perimeter.message_size, services.messages].
ELEMENTS, NESTED_ELEMENTS = 1 << 18, 4
#: Messages above this size in bytes, or with more elements, are parsed in a pool [perimeter.message_size].
LONG_BYTES, LONG_ELEMENTS = 1 << 20, 1 << 12
#: Size above which a JSON text is read by another process, in bytes: shorter ones take a few milliseconds
#: [services.rest.body_reader].
LONG_JSON_BYTES = 256 * 1024
#: Memory that this process may take, in bytes, and in bytes per byte of its text: numbers take up to twenty
#: [services.rest.body_reader].
JSON_MEMORY_BYTES, JSON_MEMORY_FACTOR = 64 << 20, 20
#: Its time, in seconds; and, for large bodies, the minimum throughput in bytes per second [services.rest.body_reader].
JSON_SECONDS, JSON_BYTES_PER_SECOND = 10.0, 1_000_000

# Threads.

#: Threads for blocking work, such as loading a version from disk [event_batch].
BLOCKING_THREADS = 8
#: Threads that decompress large requests: few, since each may occupy a core [event_batch].
DECOMPRESSING_THREADS = 2
#: Threads that translate large requests of HTTP, and large replies: few, for the same reason [http.app].
TRANSLATING_THREADS, REPLYING_THREADS = 4, 2
#: Threads that make lists of models, runs, nodes or the like: a long list takes tens of milliseconds of Python's lock,
#: and several threads would keep it from the receiving thread [list_call_queue].
LIST_THREADS = 1


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits that an operator sets; see the settings of the same names."""

    max_message_bytes: int
    rpc_threads: int
    max_streams: int
    max_calls: int
    #: Maximum number of open streams per client address.
    max_peer_streams: int
    #: Maximum bytes of messages, replies and queued requests together.
    max_buffered_bytes: int
    #: Time that a stream waits for the client's next message, in seconds.
    stream_idle_seconds: float
    #: Time that a client may read nothing of a pending reply, in seconds.
    stalled_seconds: float
    #: Time in which a new connection must send its HTTP/2 preface, in seconds.
    handshake_seconds: float
    #: Time after which a connection without calls is closed, in seconds.
    connection_idle_seconds: float
    #: Time without data after which a connection is pinged, and time to answer the ping, in seconds.
    keepalive_seconds: float
    keepalive_timeout_seconds: float
    #: Age at which a connection is closed to new calls, and time for its open calls after that, in seconds. 0 means
    #: unlimited.
    max_connection_age_seconds: float
    max_connection_age_grace_seconds: float
    #: Maximum number of calls that a connection may cancel per second.
    max_resets_per_second: int
    #: Maximum number of open connections.
    max_connections: int
    #: Maximum number of open connections per client address.
    max_peer_connections: int
    #: Maximum number of open calls per connection; further ones wait at the client.
    max_connection_calls: int

    def check_size(self, size: int) -> None:
        """Raises MessageTooLargeError if a message of `size` bytes is larger than `max_message_bytes`."""
        if size > self.max_message_bytes:
            raise MessageTooLargeError(
                f"the message has {size} bytes, expected at most {self.max_message_bytes} (setting "
                "'max_message_bytes'); send fewer rows at a time"
            )

    def patience(self, size: int) -> float:
        """Returns the time that a client has to read a message of `size` bytes, in seconds."""
        return self.stalled_seconds + size / SLOWEST_BYTES
