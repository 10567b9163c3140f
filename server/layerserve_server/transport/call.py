"""Interface between transports and handlers: calls and streams of serialized messages, routes, call observer."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from layerserve_server.access.caller import Caller
from layerserve_server.transport.perimeter.memory import MemoryBudget

T = TypeVar("T")


#: Method label for calls of methods that don't exist. Labelling them by name would create a time series per name.
UNKNOWN_METHOD = "unknown"


class Call(Protocol):
    """A unary call. It may be answered after its handler has returned, and from any thread.

    A handler calls `answer` or `fail`, once. Further calls are ignored, and so are calls after the client has
    cancelled. If a handler raises an error, the call fails with it.
    """

    @property
    def method(self) -> str:
        """Full name, such as "/layerserve.v1.PredictionService/Predict"."""

    @property
    def caller(self) -> Caller:
        """Who calls. May call the method; whether also for a model, the handler asks it (`Caller.check_model`)."""

    @property
    def request(self) -> bytes:
        """The request message."""

    @property
    def arrived(self) -> float:
        """Arrival time, on the clock of `time.monotonic`, in seconds."""

    @property
    def deadline(self) -> float | None:
        """The client's deadline, on the clock of `time.monotonic`, in seconds; None if it set none."""

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The client's metadata."""

    def client(self) -> object:
        """Identifies the client's connection: equal for calls on the same connection."""

    def certificate_names(self) -> Sequence[str]:
        """Returns the names in the client's verified certificate; empty without one."""

    #: Whether another process of this server answers it, which counts it.
    forwarded: bool

    @property
    def stream(self) -> OpenStream | None:
        """The stream that it is a request of; None for other calls."""

    def on_gone(self, callback: Callable[[], None]) -> None:
        """Registers a callback for a cancellation or a passed deadline. Runs it now if either has happened."""

    @property
    def answered(self) -> bool:
        """Whether the call was answered, was cancelled or passed its deadline."""

    def answer(self, message: bytes) -> bool:
        """Answers with a serialized message. Returns whether it is sent: not if the client has left, for example."""

    def fail(self, error: Exception) -> None:
        """Answers with an error."""

    @property
    def trace(self) -> Trace | None:
        """The spans of the call; None if it isn't sampled."""

    def set_metric_labels(self, model: str, version: int) -> None:
        """Sets the model and version labels of the call's metrics. Only existing names: each creates a time series."""

    def hold(self, size: int) -> None:
        """Counts `size` bytes towards the memory budget until the call has ended. Raises BusyError if it is used up."""

    def after_batch(self, work: Callable[[], None]) -> None:
        """Runs `work` in this thread after the handlers of all calls of this event batch have returned.

        If several of these calls pass the same `work`, it runs once.
        """

    def coalesce(self, work: Callable[[Sequence[Any]], None], item: object) -> None:
        """Like `after_batch`, but calls `work` with the items of all calls of the event batch that passed it."""

    def in_pool(self, work: Callable[[], None]) -> None:
        """Runs `work` in a pool thread, where it may block. If it raises, the call fails with that error."""


class OpenStream(Protocol):
    """A stream, as the calls see it that are its requests."""

    def on_end(self, callback: Callable[[], None]) -> None:
        """Registers a callback for the end of the stream, run in any thread. Runs it now if the stream has ended."""


class Stream(Protocol):
    """A call that is answered by a stream of messages. Its request is one message or a stream.

    Handlers are async generators, so a waiting stream occupies no thread.
    """

    @property
    def method(self) -> str:
        """Full name, such as "/layerserve.v1.TrainingService/Train"."""

    @property
    def caller(self) -> Caller:
        """See Call."""

    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]:
        """The client's metadata."""

    def certificate_names(self) -> Sequence[str]:
        """Returns the names in the client's verified certificate; empty without one."""

    @property
    def deadline(self) -> float | None:
        """The client's deadline, on the clock of `time.monotonic`, in seconds; None if it set none."""

    @property
    def trace(self) -> Trace | None:
        """The spans of the stream; None if it isn't sampled."""

    @property
    def peer(self) -> str:
        """The client's address without its port; empty if unknown."""

    @property
    def memory(self) -> MemoryBudget:
        """Budget for the memory that the requests and replies of all clients occupy."""

    def client(self) -> object:
        """Identifies the client's connection: equal for calls on the same connection."""

    async def first(self) -> bytes:
        """Returns the first request message. Raises InvalidRequestError if there is none, or as `requests` does."""

    def requests(self) -> AsyncIterator[bytes]:
        """Iterates over the remaining request messages, until the client half-closes.

        Raises CallCancelledError if the client cancels, DeadlinePassedError if its deadline passes, and IdleStreamError
        if it sends nothing for too long.
        """

    async def blocking(self, work: Callable[[], T]) -> T:
        """Runs blocking `work` in a pool thread and returns its result. It runs to its end if the client cancels."""

    def listens(self) -> bool:
        """Whether the client still waits for replies."""

    def open(self) -> bool:
        """Whether the client still waits for replies and the server isn't stopping."""

    def on_closed(self, callback: Callable[[], None]) -> None:
        """Registers a callback, run in the event loop when `open` becomes False; runs it now if that is so already."""

    def soon(self, work: Callable[[], None]) -> None:
        """Schedules `work` in the event loop. Thread-safe."""

    def set_metric_labels(self, model: str, version: int, *, whole: bool = True) -> None:
        """Sets the model and version labels of the stream's metrics.

        If the `whole` stream is of this model, it ends when the model isn't open to its caller any more. Otherwise the
        handler asks for each request.
        """

    def count(self, model: str, version: str, status: str, seconds: float) -> None:
        """Counts one of the stream's requests, answered `seconds` after its arrival with a status such as "OK"."""


Handler: TypeAlias = Callable[[Call], None]
StreamHandler: TypeAlias = Callable[[Stream], AsyncGenerator[bytes, None]]


@dataclass(frozen=True, slots=True)
class Routes:
    """Handlers by full method name."""

    unary: dict[str, Handler] = field(default_factory=dict)
    #: Methods of `unary` whose handlers never block, except in `Call.in_pool`. A transport may run them in the thread
    #: that receives the calls.
    prompt: set[str] = field(default_factory=set)
    #: Methods of `unary` that list all models, runs, nodes or the like: of these, one call runs at a time.
    lists: set[str] = field(default_factory=set)
    #: Methods with one request message and a stream of replies.
    server_streams: dict[str, StreamHandler] = field(default_factory=dict)
    #: Bidirectional streaming methods.
    both_streams: dict[str, StreamHandler] = field(default_factory=dict)

    def add(self, others: Routes) -> None:
        """Adds the methods of another service."""
        self.unary.update(others.unary)
        self.prompt.update(others.prompt)
        self.lists.update(others.lists)
        self.server_streams.update(others.server_streams)
        self.both_streams.update(others.both_streams)

    @property
    def streams(self) -> dict[str, StreamHandler]:
        """All streaming methods."""
        return {**self.server_streams, **self.both_streams}

    def services(self) -> list[str]:
        """Names of the services of all methods, sorted."""
        methods = [*self.unary, *self.server_streams, *self.both_streams]
        return sorted({method.split("/")[1] for method in methods})


class Trace(Protocol):
    """The spans of a sampled call. Times are on the clock of `time.monotonic`, in seconds."""

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits."""

    #: Time at which the request was read and queued; None for one that bypassed the queue.
    queued: float | None

    def computed(
        self, taken: float, began: float, ended: float, rows: int, traces: Sequence[Trace], error: str = ""
    ) -> None:
        """Adds a batch with rows of this request.

        It was taken from the queue at `taken`, ran from `began` to `ended` with `rows` rows in total, and `traces` are
        those of all of its requests. `error` is the class of the error with which it failed; empty if it succeeded.
        """

    def request(self) -> Trace:
        """Returns the trace of one request of a stream."""

    def begin_run(self, folder: Path, metadata: Sequence[tuple[str, str | bytes]]) -> None:
        """Begins the span of a run below this one, with the caller's baggage.

        It outlives the call, so it is in the run's folder. Whichever server ends the run exports it.
        """

    def end(self, model: str, version: str, status: str, **attributes: str) -> None:
        """Ends the trace."""


class Finished(Protocol):
    """A call or stream that has ended."""

    @property
    def method(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def metadata(self) -> Sequence[tuple[str, str | bytes]]: ...
    @property
    def trace(self) -> Trace | None: ...
    @property
    def request_id(self) -> str:
        """The id that the client sent, or that an error was given; empty if neither."""

    def client(self) -> object: ...


class Telemetry(Protocol):
    """Receives each call and stream, for traces and the access log. Must not block or raise."""

    def begin(self, method: str, metadata: Sequence[tuple[str, str | bytes]], arrived: float) -> Trace | None:
        """Returns the trace of a call that arrived; None if it isn't sampled."""

    def ended(self, call: Finished, status: str, seconds: float) -> None:
        """Called when a call has ended, `seconds` after its arrival."""


#: In place of the status of a call that another process has answered, which counts it.
FORWARDED = "FORWARDED"


class Ended(NamedTuple):
    """A call that ended, `seconds` after its arrival. `status` is a gRPC status name, such as "NOT_FOUND"."""

    method: str
    model: str
    version: str
    status: str
    seconds: float
    #: Id of its trace; empty if it isn't sampled.
    trace_id: str = ""


class Observer(Protocol):
    """Receives counts and timings of calls for metrics, in batches: reporting calls one by one costs too much time."""

    def calls_began(self, method: str, count: int) -> None:
        """Counts `count` calls of a method that arrived."""

    def calls_ended(self, calls: Sequence[Ended]) -> None:
        """Counts calls that ended."""

    def streamed(self, requests: Sequence[Ended]) -> None:
        """Counts requests of a stream that were answered."""

    def before_collect(self, report: Callable[[], None]) -> None:
        """Registers a callback that runs before metrics are collected, to report calls that are still buffered."""
