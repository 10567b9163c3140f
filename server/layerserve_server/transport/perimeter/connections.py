"""Monitors the connections of a port through the kernel's counters, and closes those that overload the server.

Neither library under the transports limits what it buffers per connection: incomplete messages, and replies that the
client doesn't read. The kernel counts the bytes that each connection has sent and acknowledged, and can shut down a
connection that another library owns. Linux only: on other systems nothing is monitored.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from layerserve_server.system_memory import memory_of
from layerserve_server.transport.client_address import counted_by, endpoint, endpoint_of
from layerserve_server.transport.perimeter.limits import CALL_BYTES, CROWDED_SHARE, RELIEF_SHARE, Limits

logger = logging.getLogger(__name__)

#: Maximum time between two checks, in seconds; less while the memory budget fills up.
CHECK_SECONDS = 0.1
#: Minimum time between two checks: in seconds, and as a multiple of the duration of a check.
MIN_CHECK_SECONDS, MIN_CHECK_RATIO = 0.02, 10.0
#: Fraction of the memory budget: if replies since the last check exceed it, the next check runs at once.
UNCHECKED_SHARE = 0.125
#: Memory per received byte of an incomplete message: the libraries read into buffers that they hardly fill.
UNFINISHED_WEIGHT = 2.0
#: Half-life of the count of incomplete bytes, in seconds: their calls may have been cancelled.
HALF_LIFE_SECONDS = 60.0
#: Half-life of the memory of a closed connection, in seconds: its library has to notice that it is closed.
CLOSING_SECONDS = 0.5
#: Smaller amounts don't count as buffered: they lie in the regular buffers of the kernel and the libraries.
SLACK_BYTES = 1 << 20
#: Bytes that every HTTP/2 client sends at once: the preface and the header of a SETTINGS frame.
HANDSHAKE_BYTES = 33
#: Number of checks after which the traffic of an address without a connection is dropped.
MAX_MISSED = 8

SOCKETS = Path("/proc/self/fd")
#: Socket option of Linux for a number that is unique per socket (asm-generic/socket.h), and its format.
SO_COOKIE = 57
COOKIE = struct.Struct("=Q")
#: Number of descriptors above the highest one in use that are searched for new sockets: the kernel assigns the lowest
#: free one.
FREE_DESCRIPTORS = 64
#: Format and offset of `bytes_acked` and `bytes_received` in Linux's struct tcp_info (linux/tcp.h).
TCP_BYTES = struct.Struct("=QQ")
TCP_BYTES_OFFSET = 120


class Traffic:
    """Counts that a transport keeps of one connection."""

    __slots__ = ("calls", "checked_resets", "missed", "received", "replied", "resets")

    def __init__(self) -> None:
        self.calls = 0
        #: Bytes of complete messages received, and of replies passed to the library for sending.
        self.received = 0
        self.replied = 0
        #: Calls that the client cancelled.
        self.resets = 0
        #: `resets` at the last check.
        self.checked_resets = 0
        #: Checks since the connection was last open.
        self.missed = 0

    def count(self, size: int) -> None:
        """Counts a complete message of `size` bytes."""
        self.calls += 1
        self.received += size


class Connection:
    """A connection. The library owns its descriptor, which may come to refer to another socket: see `cookie`."""

    def __init__(self, descriptor: int, cookie: int, where: tuple[str, int]) -> None:
        self.descriptor = descriptor
        #: The kernel's unique number of the socket.
        self.cookie = cookie
        self.where = where
        self.began = time.monotonic()
        #: Time at which the client last sent a byte.
        self.last_received = self.began
        #: Received bytes of incomplete messages, and bytes of replies that the client hasn't acknowledged.
        self.incomplete = 0.0
        self.unacknowledged = 0.0
        self.seen = Traffic()
        self.total_received = 0
        self.total_acked = 0
        #: Time since which the client has acknowledged nothing although replies are pending; None if it isn't stalled.
        self.stalled_since: float | None = None
        #: Calls cancelled in the current second, which began at `_second`.
        self.resets = 0
        self._second = self.began

    @property
    def buffered(self) -> int:
        """Estimated bytes that the library buffers for the connection."""
        buffered = int(UNFINISHED_WEIGHT * self.incomplete + self.unacknowledged)
        return buffered if buffered > SLACK_BYTES else 0

    def update(self, traffic: Traffic, now: float, decay: float) -> None:
        """Updates the counts from the kernel's and the transport's. Raises OSError if the connection is closed."""
        info = socket_option(self.descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, TCP_BYTES_OFFSET + TCP_BYTES.size)
        acked, received = TCP_BYTES.unpack_from(info, TCP_BYTES_OFFSET)
        whole = traffic.received - self.seen.received + CALL_BYTES * (traffic.calls - self.seen.calls)
        self.incomplete = max(0.0, self.incomplete * decay + received - self.total_received - whole)
        replied = traffic.replied - self.seen.replied
        self.unacknowledged = max(0.0, self.unacknowledged + replied - (acked - self.total_acked))
        if self.unacknowledged < SLACK_BYTES or acked > self.total_acked:
            self.stalled_since = None
        elif self.stalled_since is None:
            self.stalled_since = now
        if received > self.total_received:
            self.last_received = now
        self.resets = traffic.resets - self.seen.resets
        traffic.checked_resets = traffic.resets
        if now - self._second >= 1.0:
            self._second, self.seen.resets = now, traffic.resets
        self.total_received, self.total_acked = received, acked
        self.seen.calls, self.seen.received, self.seen.replied = traffic.calls, traffic.received, traffic.replied

    def close(self) -> None:
        """Shuts the connection down. To the library it looks as if the client had closed it."""
        try:
            # A duplicate can't come to refer to another socket between the check and the shutdown.
            with socket.socket(fileno=os.dup(self.descriptor)) as own:
                if cookie_of(own.fileno()) == self.cookie:
                    own.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # closed meanwhile


class Connections:
    """Monitors the connections of a port in a thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Frees the incomplete messages of an address and port instead of closing its connection. Returns whether it
        #: freed any.
        self.relieve: Callable[[tuple[str, int]], bool] = lambda where: False
        #: Called after each check.
        self.after_check: Callable[[], None] = lambda: None
        self._port = 0
        self._traffic: dict[str, Traffic] = {}
        self._connections: dict[int, Connection] = {}
        #: Cookies of all sockets seen, connections or not.
        self._known: set[int] = set()
        #: The highest descriptor in use.
        self._highest = 0
        self._buffered = 0
        #: Bytes of replies passed to the library since the last check.
        self._unchecked = 0
        #: Number of such bytes above which the next check runs at once.
        self._max_unchecked = UNCHECKED_SHARE * limits.max_buffered_bytes
        #: Number of buffered bytes above which connections are relieved.
        self._max_buffered = int(RELIEF_SHARE * limits.max_buffered_bytes)
        #: Bytes that closed connections may still occupy.
        self._closing = 0.0
        self._check_now = threading.Event()
        #: Number of closed connections since the last log line, by address and reason.
        self._closed_count: Counter[tuple[str, str]] = Counter()
        #: Messages whose connection is unknown: those received by a server behind the front.
        self.unattributed = Traffic()
        self._seen_unattributed = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, port: int) -> None:
        """Starts to monitor the connections accepted on a port."""
        if sys.platform != "linux" or not port or not SOCKETS.is_dir():
            return
        try:
            with socket.socket() as one:
                cookie_of(one.fileno())
        except OSError as error:
            logger.warning("connections are not monitored: SO_COOKIE requires Linux 4.12 or newer (%s)", error)
            return
        self._port = port
        self._highest = max(int(entry) for entry in os.listdir(SOCKETS))
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Closes all connections and stops monitoring."""
        self._stopping.set()
        self._check_now.set()
        if self._thread is not None:
            self._thread.join()
            self._search()
        for connection in self._connections.values():
            connection.close()
        self._connections = {}

    def buffered(self) -> int:
        """Estimated bytes that the transport's library buffers for all connections, as of the last check."""
        return self._buffered + self._unchecked + int(self._closing)

    def count_reply(self, traffic: Traffic, size: int) -> None:
        """Counts a reply of `size` bytes that was passed to the transport's library for sending."""
        traffic.replied += size
        if self._thread is not None:
            self._unchecked += size
            if self._unchecked > self._max_unchecked:
                self._check_now.set()

    def count_reset(self, traffic: Traffic) -> None:
        """Counts a call that the client cancelled. Above `max_resets_per_second` the next check runs at once."""
        traffic.resets += 1
        if traffic.resets - traffic.checked_resets > self._limits.max_resets_per_second:
            self._check_now.set()

    def of(self, peer: str) -> Traffic:
        """Returns the counts of the connection with this peer address, for the transport to update."""
        found = self._traffic.get(peer)
        if found is None:
            found = Traffic()
            if self._thread is not None:  # otherwise no entry would ever be dropped
                found = self._traffic.setdefault(peer, found)
        return found

    def _watch(self) -> None:
        checked, rest, pause = time.monotonic(), 0.0, CHECK_SECONDS
        while not self._stopping.is_set():
            if self._check_now.wait(pause):
                self._stopping.wait(checked + rest - time.monotonic())
            self._check_now.clear()
            now, buffered = time.monotonic(), self._buffered
            try:
                self._search()
                self._check(now - checked)
                self.after_check()
            except Exception:
                logger.exception("failed to check the connections")
            rest = min(CHECK_SECONDS, max(MIN_CHECK_SECONDS, MIN_CHECK_RATIO * (time.monotonic() - now)))
            pause = max(rest, self._pause((self._buffered - buffered) / (now - checked)))
            checked = now

    def _pause(self, rate: float) -> float:
        """Returns the time until the next check: half the time until relief is due at `rate` bytes per second."""
        left = max(0, self._max_buffered - self._buffered)
        return min(CHECK_SECONDS, left / rate / 2) if rate > 0 else CHECK_SECONDS

    def _search(self) -> None:
        """Adds new connections and drops closed ones.

        Tries all descriptors in turn, since none of these calls releases the GIL. Listing /proc/self/fd would release
        it for each entry, and the polling thread would have to wait for it as often.
        """
        present: set[int] = set()
        descriptor, end = 0, self._highest + FREE_DESCRIPTORS
        while descriptor < end:
            try:
                cookie = cookie_of(descriptor)
            except OSError as error:
                used = error.errno != errno.EBADF
            else:
                used = True
                present.add(cookie)
                if cookie not in self._known:
                    self._known.add(cookie)
                    connection = self._taken(descriptor, cookie)
                    if connection is not None:
                        self._connections[cookie] = connection
            if used:
                self._highest, end = descriptor, max(end, descriptor + FREE_DESCRIPTORS)
            descriptor += 1
        self._known &= present
        for cookie in self._connections.keys() - present:
            del self._connections[cookie]

    def _taken(self, descriptor: int, cookie: int) -> Connection | None:
        """Returns the connection of a descriptor; None if the port hasn't accepted this socket."""
        try:
            with socket.socket(fileno=os.dup(descriptor)) as own:
                if own.type != socket.SOCK_STREAM or own.family not in (socket.AF_INET, socket.AF_INET6):
                    return None
                where = endpoint_of(own) if own.getsockname()[1] == self._port else None
        except OSError:
            return None  # a listening socket, or closed meanwhile
        return Connection(descriptor, cookie, where) if where is not None else None

    def _check(self, elapsed: float) -> None:
        """Updates all counts, `elapsed` seconds after the last check, and closes connections that violate a limit."""
        now, self._unchecked = time.monotonic(), 0
        decay = 0.5 ** (elapsed / HALF_LIFE_SECONDS)
        self._closing *= 0.5 ** (elapsed / CLOSING_SECONDS)
        traffic = self._by_endpoint()
        received = self.unattributed.received + CALL_BYTES * self.unattributed.calls
        forgiven, self._seen_unattributed = received - self._seen_unattributed, received
        for connection in tuple(self._connections.values()):
            try:
                connection.update(traffic.get(connection.where) or Traffic(), now, decay)
            except OSError:
                continue  # closed since the search
            connection.incomplete = max(0.0, connection.incomplete - forgiven)
            if reason := self._reason_to_close(connection, now):
                self._close(connection, reason)
        self._close_too_many()
        self._relieve_memory()
        self._log_closed()

    def _reason_to_close(self, connection: Connection, now: float) -> str:
        """Returns the reason to close a connection; empty if there is none."""
        limits = self._limits
        if connection.total_received < HANDSHAKE_BYTES and now - connection.began > limits.handshake_seconds:
            return f"received no HTTP/2 preface within {limits.handshake_seconds:g} seconds"
        if connection.resets > limits.max_resets_per_second:
            return f"more than {limits.max_resets_per_second} calls cancelled within a second"
        if connection.stalled_since is not None and now - connection.stalled_since > limits.stalled_seconds:
            return f"the client read no data for {limits.stalled_seconds:g} seconds"
        return ""

    def _close_too_many(self) -> None:
        """Closes connections of addresses that have more than their share, those longest without data first."""
        by_host: dict[str, list[Connection]] = {}
        for connection in self._connections.values():
            by_host.setdefault(counted_by(connection.where[0]), []).append(connection)
        limits, counts = self._limits, sorted(map(len, by_host.values()))
        share = min(limits.max_peer_connections, level(counts, int(CROWDED_SHARE * limits.max_connections)))
        for connections in by_host.values():
            if len(connections) > share:
                connections.sort(key=lambda one: one.last_received)
                for connection in connections[: len(connections) - share]:
                    self._close(connection, f"the address has more than {share} connections")

    def _relieve_memory(self) -> None:
        """Relieves or closes the connections with the most buffered bytes, until the total leaves room for others."""
        for connection in sorted(self._connections.values(), key=lambda one: one.buffered, reverse=True):
            self._buffered = self._total_buffered()
            if self._buffered <= self._max_buffered or not connection.buffered:
                return
            if self.relieve(connection.where):
                connection.incomplete = 0.0
            else:
                self._closing += connection.buffered
                self._close(connection, f"it had the most buffered bytes, and their total exceeds {self._max_buffered}")
        self._buffered = self._total_buffered()

    def _total_buffered(self) -> int:
        buffered = sum(one.buffered for one in self._connections.values())
        # Received bytes may have been forwarded to another process, and then don't occupy memory of this one.
        return min(buffered, own_memory()) if buffered > self._max_buffered / 2 else buffered

    def _close(self, connection: Connection, reason: str) -> None:
        self._closed_count[counted_by(connection.where[0]), reason] += 1
        connection.close()
        self._connections.pop(connection.cookie, None)

    def _log_closed(self) -> None:
        closed, self._closed_count = self._closed_count, Counter()
        for (host, reason), count in closed.items():
            logger.warning("closed %d connection%s of %s: %s", count, "s" if count > 1 else "", host, reason)

    def _by_endpoint(self) -> dict[tuple[str, int], Traffic]:
        """Returns the transport's counts by address and port; drops those of closed connections."""
        open_ = {connection.where for connection in self._connections.values()}
        found = {}
        for peer, traffic in tuple(self._traffic.items()):
            where = endpoint(peer)
            traffic.missed = 0 if where in open_ else traffic.missed + 1
            if where is None or traffic.missed > MAX_MISSED:
                self._traffic.pop(peer, None)
            else:
                found[where] = traffic
        return found


def cookie_of(descriptor: int) -> int:
    """Returns the kernel's unique number of a descriptor's socket. Raises OSError if the descriptor isn't a socket."""
    return int(COOKIE.unpack(socket_option(descriptor, socket.SOL_SOCKET, SO_COOKIE, COOKIE.size))[0])


def socket_option(descriptor: int, level: int, option: int, size: int) -> bytes:
    """Returns a socket option of a descriptor without taking ownership. Raises OSError if it isn't a socket."""
    # Otherwise Python would ask for the family, type and protocol of each.
    borrowed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, descriptor)
    try:
        return borrowed.getsockopt(level, option, size)
    finally:
        borrowed.detach()


def level(counts: Sequence[int], total: int) -> int:
    """Returns the highest cap for which the capped `counts` (ascending) sum to at most `total`; at least 1.

    >>> level([1, 2, 9, 9], 12)
    4
    """
    left = total
    for index, count in enumerate(counts):
        others = len(counts) - index
        if count * others > left:
            return max(1, left // others)
        left -= count
    return max(total, 1)


def own_memory() -> int:
    """Memory of this process without mapped files, in bytes."""
    return memory_of(os.getpid())
