"""A request of HTTP as a unary call."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from layerserve_server.access.gate import Pairs
from layerserve_server.errors import InvalidRequestError, safe_text
from layerserve_server.transport.call import Ended, Observer
from layerserve_server.transport.event_batch import BatchedCall, EventBatches
from layerserve_server.transport.http.exchange import HttpReply, HttpRoute
from layerserve_server.transport.http.head import TIMEOUT, HttpHead
from layerserve_server.transport.status import Failure
from layerserve_server.transport.timing import CallTimes

#: Seconds by unit of the time in the header TIMEOUT.
UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
#: Header of a reply with the version that answered.
VERSION = "layerserve-version"
#: Before the name of a method in the label of metrics.
LABEL = "http:"


class Connection(Protocol):
    """A connection of a client."""

    #: Names in the client's verified certificate; empty without one.
    certificate_names: Sequence[str]


class Answering(Protocol):
    """What sends the replies to calls."""

    loop: asyncio.AbstractEventLoop

    def end(self, call: HttpCall, outcome: bytes | Failure) -> None:
        """Sends a reply message or an error. Called in the event loop."""


class HttpCall(BatchedCall):
    """A call that came by HTTP."""

    __slots__ = ("_app", "connection", "head", "reply", "route", "timer", "unread")

    def __init__(
        self,
        app: Answering,
        batches: EventBatches,
        route: HttpRoute,
        head: HttpHead,
        connection: Connection,
        arrived: float,
    ) -> None:
        super().__init__(batches, route.method, b"", arrived, None)
        self._app = app
        self.connection = connection
        self.head = head
        self.route = route
        #: Makes the reply of the reply message; None for one that is written as HTTP by the handler.
        self.reply: Callable[[bytes], HttpReply] | None = None
        #: Ends it if its body doesn't come, or its deadline passes.
        self.timer: asyncio.TimerHandle | None = None
        #: Whether it was refused before all of its body was read.
        self.unread = False

    def client(self) -> object:
        # Not the connection itself, which a queue would keep in memory.
        return str(self.connection)

    @property
    def metadata(self) -> Pairs:
        return self.head.pairs

    def certificate_names(self) -> Sequence[str]:
        return self.connection.certificate_names

    def tail(self) -> tuple[tuple[str, str], ...]:
        """Returns further headers of a successful reply, among them the version of the model that answered."""
        found = super().tail() if isinstance(self.trace, CallTimes) else self.head.ids
        return (*found, (VERSION, self.version)) if self.version else found

    def send(self, message: bytes) -> None:
        self._end_with(message)

    def send_failure(self, wire: Failure) -> None:
        self._end_with(wire)

    def fail(self, error: Exception) -> None:
        if isinstance(error, UnicodeEncodeError):
            error = InvalidRequestError("the body: got a string with half of a surrogate pair, expected Unicode")
        super().fail(error)

    def stop_timer(self) -> None:
        """Stops the timer, if there is one."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    @property
    def held(self) -> int:
        """Bytes of it that count towards the memory budget."""
        return self._held

    def _end_with(self, outcome: bytes | Failure) -> None:
        if self._batches.in_thread():
            self._app.end(self, outcome)
        else:
            self._app.loop.call_soon_threadsafe(self._app.end, self, outcome)


def timeout_of(headers: Mapping[str, str]) -> float | None:
    """Returns the time that the client waits, in seconds; None if it doesn't say. Raises InvalidRequestError."""
    given = headers.get(TIMEOUT)
    if given is None:
        return None
    match = _TIMEOUT.fullmatch(given)
    if match is None:
        raise InvalidRequestError(
            f"header '{TIMEOUT}': got '{safe_text(given, 40)}', expected up to 8 digits and one of H, M, S, m, u, n, "
            "such as 500m for 500 milliseconds"
        )
    return int(match[1]) * UNITS[match[2]]


class HttpObserver:
    """Passes counts and times on, with methods labelled as called by HTTP (see transport.call.Observer)."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._labels: dict[str, str] = {}

    def calls_began(self, method: str, count: int) -> None:
        """Counts calls that arrived."""
        self._observer.calls_began(self._label(method), count)

    def calls_ended(self, calls: Sequence[Ended]) -> None:
        """Counts calls that ended."""
        self._observer.calls_ended([Ended(self._label(call[0]), *call[1:]) for call in calls])

    def streamed(self, requests: Sequence[Ended]) -> None:
        """Counts requests of streams, which HTTP doesn't have."""
        self._observer.streamed(requests)

    def before_collect(self, report: Callable[[], None]) -> None:
        """Registers a callback that runs before metrics are collected."""
        self._observer.before_collect(report)

    def _label(self, method: str) -> str:
        label = self._labels.get(method)
        if label is None:
            label = self._labels[method] = LABEL + method.rpartition("/")[2]
        return label
