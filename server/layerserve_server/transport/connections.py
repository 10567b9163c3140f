"""The connections of a port, as the kernel counts them: those that pile up bytes, take or send nothing are ended.

Neither library under the transports bounds what connections make it keep: parts of messages, and replies that are not
taken. The kernel knows what each connection has sent and taken, and can end one, whoever reads it. Linux only:
elsewhere nothing is watched.
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
from layerserve_server.transport.limits import Limits
from layerserve_server.transport.peers import endpoint, endpoint_of

logger = logging.getLogger(__name__)

#: Maximum time between two looks, in seconds; less while the memory for callers fills up.
LOOK_SECONDS = 0.1
#: Minimum time between two looks: in seconds, and as a multiple of the time that a look takes.
LEAST_SECONDS, LEAST_LOOKS = 0.02, 10.0
#: Share of the memory for callers; replies that take more since the last look bring the next look forward.
UNSEEN = 0.125
#: Share of `max_connections` above which the addresses with the most connections lose some.
CROWDED = 0.875
#: Bytes that a call may take on the wire besides its message: both transports bound its metadata.
CALL_BYTES = 80 * 1024
#: Memory that a byte of a message takes that isn't whole: the libraries read into buffers that they hardly fill.
UNFINISHED_WEIGHT = 2.0
#: Time in which what is counted of messages that don't come whole is halved: their calls may have been cancelled.
HALF_LIFE_SECONDS = 60.0
#: Time in which half of what a connection took is free again that was ended for it: its library has to notice.
ENDING_SECONDS = 0.5
#: Less than this isn't counted as kept: buffers of the kernel and of the libraries.
SLACK_BYTES = 1 << 20
#: What every client of HTTP/2 sends at once: its preface and the head of a SETTINGS frame.
HANDSHAKE_BYTES = 33
#: Looks until what was counted for an address without a connection is forgotten.
MAX_MISSED = 8

SOCKETS = Path("/proc/self/fd")
#: Linux's number of a socket, which no other ever has (asm-generic/socket.h), and how it is read.
SO_COOKIE = 57
COOKIE = struct.Struct("=Q")
#: Descriptors above the last one in use among which a new one is looked for: the kernel gives the lowest that is free.
FREE_DESCRIPTORS = 64
#: Where `bytes_acked` and `bytes_received` stand in Linux's struct tcp_info (linux/tcp.h).
TCP_BYTES = struct.Struct("=QQ")
TCP_BYTES_OFFSET = 120


class Traffic:
    """What the transport has seen of one connection."""

    __slots__ = ("calls", "missed", "received", "replied", "resets", "seen_resets")

    def __init__(self) -> None:
        self.calls = 0
        #: Bytes of messages that came whole, and of replies that were given out.
        self.received = 0
        self.replied = 0
        #: Calls that the caller cancelled.
        self.resets = 0
        #: Those of them before the last look.
        self.seen_resets = 0
        self.missed = 0


class Connection:
    """One connection. Its descriptor is the library's, and so looked at only while it is the same socket."""

    def __init__(self, descriptor: int, cookie: int, where: tuple[str, int]) -> None:
        self.descriptor = descriptor
        #: The socket's number: another one never has the same.
        self.cookie = cookie
        self.where = where
        self.began = time.monotonic()
        #: When it last sent anything.
        self.heard = self.began
        #: Bytes that came of messages that aren't whole, and of replies that are not taken yet.
        self.coming = 0.0
        self.leaving = 0.0
        self.seen = Traffic()
        self.total_received = 0
        self.total_acked = 0
        #: Since when it has taken nothing although there is something to take.
        self.stalled_since: float | None = None
        #: Calls that it cancelled in the second that began then.
        self.resets = 0
        self._second = self.began

    @property
    def kept(self) -> int:
        """Bytes that a library keeps for it."""
        kept = int(UNFINISHED_WEIGHT * self.coming + self.leaving)
        return kept if kept > SLACK_BYTES else 0

    def look(self, traffic: Traffic, now: float, decay: float) -> None:
        """Counts what has come and gone since the last look. Raises OSError where it is closed."""
        info = socket_option(self.descriptor, socket.IPPROTO_TCP, socket.TCP_INFO, TCP_BYTES_OFFSET + TCP_BYTES.size)
        acked, received = TCP_BYTES.unpack_from(info, TCP_BYTES_OFFSET)
        whole = traffic.received - self.seen.received + CALL_BYTES * (traffic.calls - self.seen.calls)
        self.coming = max(0.0, self.coming * decay + received - self.total_received - whole)
        replied = traffic.replied - self.seen.replied
        self.leaving = max(0.0, self.leaving + replied - (acked - self.total_acked))
        if self.leaving < SLACK_BYTES or acked > self.total_acked:
            self.stalled_since = None
        elif self.stalled_since is None:
            self.stalled_since = now
        if received > self.total_received:
            self.heard = now
        self.resets = traffic.resets - self.seen.resets
        traffic.seen_resets = traffic.resets
        if now - self._second >= 1.0:
            self._second, self.seen.resets = now, traffic.resets
        self.total_received, self.total_acked = received, acked
        self.seen.calls, self.seen.received, self.seen.replied = traffic.calls, traffic.received, traffic.replied

    def end(self) -> None:
        """Shuts it down, for the library as if the caller had."""
        try:
            # A descriptor of our own can't come to mean another socket between the look and the end.
            with socket.socket(fileno=os.dup(self.descriptor)) as own:
                if cookie_of(own.fileno()) == self.cookie:
                    own.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it has ended by itself


class Connections:
    """Watches the connections of one port, in a thread of its own."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Frees what calls of an address and port keep, in place of an end; gives whether it did.
        self.relieve: Callable[[tuple[str, int]], bool] = lambda where: False
        #: Called after each look.
        self.after_look: Callable[[], None] = lambda: None
        self._port = 0
        self._traffic: dict[str, Traffic] = {}
        self._connections: dict[int, Connection] = {}
        #: Numbers of sockets that were looked at, whatever they are.
        self._known: set[int] = set()
        #: The highest descriptor in use.
        self._highest = 0
        self._kept = 0
        #: Bytes of replies that were given out since the last look.
        self._unseen = 0
        #: Bytes after which it is time for a look.
        self._most_unseen = UNSEEN * limits.max_buffered_bytes
        #: Bytes that connections took which were ended for it, and may take still.
        self._ending = 0.0
        self._look_now = threading.Event()
        #: Connections that were ended since this was last logged, by address and reason.
        self._ended: Counter[tuple[str, str]] = Counter()
        #: Messages of which it isn't known which connection they came through: those of a server behind the front.
        self.elsewhere = Traffic()
        self._seen_elsewhere = 0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, port: int) -> None:
        """Watches the connections that are taken on a port."""
        if sys.platform != "linux" or not port or not SOCKETS.is_dir():
            return
        try:
            with socket.socket() as one:
                cookie_of(one.fileno())
        except OSError as error:
            logger.warning("connections aren't watched: SO_COOKIE needs Linux 4.12 or newer (%s)", error)
            return
        self._port = port
        self._highest = max(int(entry) for entry in os.listdir(SOCKETS))
        self._thread = threading.Thread(target=self._watch, name="connections", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends all connections, and the watching."""
        self._stopping.set()
        self._look_now.set()
        if self._thread is not None:
            self._thread.join()
            self._search()
        for connection in self._connections.values():
            connection.end()
        self._connections = {}

    def kept(self) -> int:
        """Bytes that the transport's library keeps for all connections, as of the last look."""
        return self._kept + self._unseen + int(self._ending)

    def gave_out(self, traffic: Traffic, size: int) -> None:
        """A reply of so many bytes is the transport's library's to send."""
        traffic.replied += size
        if self._thread is not None:
            self._unseen += size
            if self._unseen > self._most_unseen:
                self._look_now.set()

    def was_reset(self, traffic: Traffic) -> None:
        """A caller has cancelled a call. One that does so without end is ended soon, not at the next usual look."""
        traffic.resets += 1
        if traffic.resets - traffic.seen_resets > self._limits.max_resets_per_second:
            self._look_now.set()

    def of(self, peer: str) -> Traffic:
        """What has been seen of the connection with this address, to be counted on."""
        found = self._traffic.get(peer)
        if found is None:
            found = Traffic()
            if self._thread is not None:  # else nothing would ever be forgotten
                found = self._traffic.setdefault(peer, found)
        return found

    def _watch(self) -> None:
        looked, rest, pause = time.monotonic(), 0.0, LOOK_SECONDS
        while not self._stopping.wait(rest):
            self._look_now.wait(pause - rest)
            self._look_now.clear()
            now, kept = time.monotonic(), self._kept
            try:
                self._search()
                self._look(now - looked)
                self.after_look()
            except Exception:
                logger.exception("a look at the connections")
            rest = min(LOOK_SECONDS, max(LEAST_SECONDS, LEAST_LOOKS * (time.monotonic() - now)))
            pause = max(rest, self._pause((self._kept - kept) / (now - looked)))
            looked = now

    def _pause(self, rate: float) -> float:
        """Time until the next look: half of that in which memory is full, with `rate` bytes more in each second."""
        left = max(0, self._limits.max_buffered_bytes - self._kept)
        return min(LOOK_SECONDS, left / rate / 2) if rate > 0 else LOOK_SECONDS

    def _search(self) -> None:
        """Finds connections that are new, and drops those that have ended.

        All descriptors are tried, as no call for that lets go of Python's lock: to list them would, for each one, and
        the thread that polls waits for the lock then as often.
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
        """The connection of a descriptor; None for other sockets than those that the port has taken."""
        try:
            with socket.socket(fileno=os.dup(descriptor)) as own:
                if own.type != socket.SOCK_STREAM or own.family not in (socket.AF_INET, socket.AF_INET6):
                    return None
                where = endpoint_of(own) if own.getsockname()[1] == self._port else None
        except OSError:
            return None  # it listens, or was closed meanwhile
        return Connection(descriptor, cookie, where) if where is not None else None

    def _look(self, elapsed: float) -> None:
        """Counts what has come and gone in the seconds since the last look, and ends what is at fault."""
        now, self._unseen = time.monotonic(), 0
        decay = 0.5 ** (elapsed / HALF_LIFE_SECONDS)
        self._ending *= 0.5 ** (elapsed / ENDING_SECONDS)
        traffic = self._by_endpoint()
        received = self.elsewhere.received + CALL_BYTES * self.elsewhere.calls
        forgiven, self._seen_elsewhere = received - self._seen_elsewhere, received
        for connection in tuple(self._connections.values()):
            try:
                connection.look(traffic.get(connection.where) or Traffic(), now, decay)
            except OSError:
                continue  # closed since the search
            connection.coming = max(0.0, connection.coming - forgiven)
            if reason := self._fault(connection, now):
                self._end(connection, reason)
        self._end_too_many()
        self._relieve_memory()
        self._log_ended()

    def _fault(self, connection: Connection, now: float) -> str:
        """Why a connection is ended; empty where it isn't."""
        limits = self._limits
        if connection.total_received < HANDSHAKE_BYTES and now - connection.began > limits.handshake_seconds:
            return f"no HTTP/2 preface came within {limits.handshake_seconds:g} seconds"
        if connection.resets > limits.max_resets_per_second:
            return f"more than {limits.max_resets_per_second} calls were cancelled in a second"
        if connection.stalled_since is not None and now - connection.stalled_since > limits.stalled_seconds:
            return f"nothing was taken for {limits.stalled_seconds:g} seconds"
        return ""

    def _end_too_many(self) -> None:
        """Ends connections of addresses that have more than their share: first those that have been silent longest."""
        by_host: dict[str, list[Connection]] = {}
        for connection in self._connections.values():
            by_host.setdefault(connection.where[0], []).append(connection)
        limits, counts = self._limits, sorted(map(len, by_host.values()))
        share = min(limits.max_peer_connections, level(counts, int(CROWDED * limits.max_connections)))
        for connections in by_host.values():
            if len(connections) > share:
                connections.sort(key=lambda one: one.heard)
                for connection in connections[: len(connections) - share]:
                    self._end(connection, f"this address has more than {share} connections")

    def _relieve_memory(self) -> None:
        """Ends those that keep most, until all are within the limit."""
        limit = self._limits.max_buffered_bytes
        for connection in sorted(self._connections.values(), key=lambda one: one.kept, reverse=True):
            self._kept = self._all_kept()
            if self._kept <= limit or not connection.kept:
                return
            if self.relieve(connection.where):
                connection.coming = 0.0
            else:
                self._ending += connection.kept
                self._end(connection, "most bytes were kept for it, and all have their limit")
        self._kept = self._all_kept()

    def _all_kept(self) -> int:
        kept = sum(one.kept for one in self._connections.values())
        # What came may have gone on to another process, and is no memory of this one then.
        return min(kept, own_memory()) if kept > self._limits.max_buffered_bytes / 2 else kept

    def _end(self, connection: Connection, reason: str) -> None:
        self._ended[connection.where[0], reason] += 1
        connection.end()
        self._connections.pop(connection.cookie, None)

    def _log_ended(self) -> None:
        ended, self._ended = self._ended, Counter()
        for (host, reason), count in ended.items():
            logger.warning("ended %d connection%s of %s: %s", count, "s" if count > 1 else "", host, reason)

    def _by_endpoint(self) -> dict[tuple[str, int], Traffic]:
        """What was counted, by address; what belongs to no connection any more is forgotten."""
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
    """The number of the socket that a descriptor stands for. Raises OSError where it stands for none."""
    return int(COOKIE.unpack(socket_option(descriptor, socket.SOL_SOCKET, SO_COOKIE, COOKIE.size))[0])


def socket_option(descriptor: int, level: int, option: int, size: int) -> bytes:
    """An option of a socket that stays its owner's. Raises OSError where the descriptor stands for none."""
    borrowed = socket.socket(fileno=descriptor)
    try:
        return borrowed.getsockopt(level, option, size)
    finally:
        borrowed.detach()


def level(counts: Sequence[int], total: int) -> int:
    """The highest level that cuts `counts`, the smallest first, so that no more than `total` of them are left.

    >>> level([1, 2, 9, 9], 12)
    4
    """
    left = total
    for place, count in enumerate(counts):
        others = len(counts) - place
        if count * others > left:
            return max(1, left // others)
        left -= count
    return max(total, 1)


def own_memory() -> int:
    """Memory of this process, without files that it maps, in bytes."""
    return memory_of(os.getpid())
