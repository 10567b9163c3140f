"""What a transport hands to a handler: a call, with raw message bytes and a way to answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from layerserve_server.transport.memory import MemoryBudget

T = TypeVar("T")


#: What calls of methods that don't exist are counted as: each name would make a time series.
UNKNOWN_METHOD = "unknown"


class Call(Protocol):
    """A unary call. A handler returns at once or works; the answer may come later and from any thread.

    `reply` or `fail` is called exactly once; what comes after the first is ignored, as is what comes after the caller
    has gone.
    """

    @property
    def method(self) -> str:
        """Full name, such as "/layerserve.v1.PredictionService/Predict"."""

    @property
    def request(self) -> bytes:
        """The request message."""

    @property
    def arrived(self) -> float:
        """When it came, on the clock of `time.monotonic`, in seconds."""

    @property
    def deadline(self) -> float | None:
        """When the caller stops waiting, on the clock of `time.monotonic`, in seconds. None: never."""

    def client(self) -> object:
        """Who calls: equal for calls that come over one connection."""

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Calls back when the caller cancels or its deadline passes; at once where that has happened."""

    @property
    def answered(self) -> bool:
        """Whether it has its answer, or nobody waits for one any more."""

    def reply(self, encode: Callable[[], bytes]) -> None:
        """Answers with what `encode` gives. The transport chooses the thread that it runs in."""

    def answer(self, message: bytes) -> None:
        """Answers with a message that is ready."""

    def fail(self, error: Exception) -> None:
        """Answers with an error."""

    def about(self, model: str, version: int) -> None:
        """Says which version the call is for, for metrics. Only names that exist: each makes a time series."""

    def afterwards(self, work: Callable[[], None]) -> None:
        """Runs `work` in this thread once its handlers have seen all calls that came together with this one.

        The same `work` of several of them runs once.
        """

    def gather(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        """As `afterwards`, and the calls that named the same `work` have their items come to it together."""

    def may_block(self, work: Callable[[], None]) -> None:
        """Runs `work` in a thread that may be kept; an error in it is the call's."""


class Stream(Protocol):
    """A call whose answer is a stream of messages; the request is one message, or a stream too.

    Its handler is a coroutine: a stream that waits holds no thread.
    """

    @property
    def method(self) -> str:
        """Full name, such as "/layerserve.v1.TrainingService/Train"."""

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The caller's metadata."""

    @property
    def deadline(self) -> float | None:
        """When the caller stops waiting, on the clock of `time.monotonic`, in seconds. None: never."""

    @property
    def peer(self) -> str:
        """The address that calls, without its port; empty where it isn't known."""

    @property
    def memory(self) -> MemoryBudget:
        """The bound for what all callers make the server keep."""

    def client(self) -> object:
        """Who calls: equal for calls that come over one connection."""

    async def first(self) -> bytes:
        """The first request message. Raises InvalidRequestError where the caller sends none, and as `requests`."""

    def requests(self) -> AsyncIterator[bytes]:
        """The further request messages. Ends when the caller half-closes.

        Raises CallCancelledError when the caller goes away, and IdleStreamError when it sends nothing for too long.
        """

    async def blocking(self, work: Callable[[], T]) -> T:
        """Runs work that may block in a thread, also to its end where the caller goes away meanwhile."""

    def listens(self) -> bool:
        """Whether the caller still listens."""

    def open(self) -> bool:
        """Whether the caller still listens and the server isn't stopping."""

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Calls back, in the event loop, when `open` becomes False; at once where it is so."""

    def soon(self, work: Callable[[], None]) -> None:
        """Runs work in the event loop, soon. May be called from any thread."""

    def about(self, model: str, version: int) -> None:
        """Says which version the stream is for, for metrics."""


Handler: TypeAlias = Callable[[Call], None]
StreamHandler: TypeAlias = Callable[[Stream], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Routes:
    """Which handler answers which method, by full name."""

    unary: dict[str, Handler] = field(default_factory=dict)
    #: Methods of `unary` whose handlers return at once, but for what they run by `Call.may_block`. A transport may run
    #: them in the thread that takes the calls.
    prompt: set[str] = field(default_factory=set)
    #: Methods with one request message and a stream of answers.
    server_streams: dict[str, StreamHandler] = field(default_factory=dict)
    #: Methods with streams both ways.
    both_streams: dict[str, StreamHandler] = field(default_factory=dict)

    def add(self, others: Routes) -> None:
        """Takes the methods of another service."""
        self.unary.update(others.unary)
        self.prompt.update(others.prompt)
        self.server_streams.update(others.server_streams)
        self.both_streams.update(others.both_streams)

    @property
    def streams(self) -> dict[str, StreamHandler]:
        """All methods that stream."""
        return {**self.server_streams, **self.both_streams}

    def services(self) -> list[str]:
        """Names of all services that a method belongs to."""
        methods = [*self.unary, *self.server_streams, *self.both_streams]
        return sorted({method.split("/")[1] for method in methods})


class Ended(NamedTuple):
    """A call that was answered, `seconds` after it came. `status` is a gRPC status name, such as "NOT_FOUND"."""

    method: str
    model: str
    version: str
    status: str
    seconds: float


class Observer(Protocol):
    """What is told about calls: metrics. Many at a time, as telling costs more than a call of it is worth."""

    def calls_began(self, method: str, count: int) -> None:
        """So many calls of a method came in."""

    def calls_ended(self, calls: Sequence[Ended]) -> None:
        """These were answered."""

    def before_reading(self, tell: Callable[[], None]) -> None:
        """`tell` is called before somebody reads what was told, so that what has yet to be told is."""
