"""Flows: operations of the client as generators without I/O.

A flow yields steps (call an RPC, open a stream, wait). It is sent each step's result, or the step's error is raised at
its `yield`. `Client` and `AsyncClient` run the same flows, one blocking and one on asyncio, so that each operation is
written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from layerserve.calls.methods import Message, Method, Q, R, rpc
from layerserve.calls.tokens import Metadata, Tail

T = TypeVar("T")
Reply = TypeVar("Reply", bound=Message, covariant=True)


@dataclass(frozen=True)
class Call:
    """Step: call a unary RPC, with metadata beside the client's own. Its result is the reply.

    The trailing metadata of the reply are added to `tail`.
    """

    method: Method[Any, Any]
    request: Message
    metadata: Metadata = ()
    tail: Tail | None = None


@dataclass(frozen=True)
class Open:
    """Step: open a stream. `requests` is a message, or an iterable if requests are streamed. Its result is a Stream."""

    method: Method[Any, Any]
    requests: Message | Iterable[Message]
    metadata: Metadata = ()


@dataclass(frozen=True)
class Stream(Generic[Reply]):
    """An open stream; `handle` is the channel's object for it."""

    handle: Any


@dataclass(frozen=True)
class Receive:
    """Step: wait for the next message of a stream. Its result is the message, or None at the end of the stream."""

    stream: Stream[Any]


@dataclass(frozen=True)
class Close:
    """Step: close a stream before its end. Its result is None."""

    stream: Stream[Any]


@dataclass(frozen=True)
class Pause:
    """Step: wait for some seconds. Its result is None."""

    seconds: float


@dataclass(frozen=True)
class Renew:
    """Step: give the next calls the client's timeout anew, unless the caller has set one for all."""


@dataclass(frozen=True)
class Work:
    """Step: run a function that may block on a disk. Its result is the function's."""

    function: Callable[[], Any]


Step = Call | Open | Receive | Close | Pause | Work
Flow = Generator[Step | Renew, Any, T]


def call(request: Message, reply: type[R], metadata: Metadata = (), tail: Tail | None = None) -> Flow[R]:
    """Flow of a unary call: of the RPC that has requests of this type, and replies of type `reply`."""
    answer: R = yield Call(rpc(type(request), reply), request, metadata, tail)
    return answer


def open_stream(method: Method[Q, R], requests: Q | Iterable[Q], metadata: Metadata = ()) -> Flow[Stream[R]]:
    stream: Stream[R] = yield Open(method, requests, metadata)
    return stream


def receive(stream: Stream[R]) -> Flow[R | None]:
    reply: R | None = yield Receive(stream)
    return reply


def work(function: Callable[[], T]) -> Flow[T]:
    result: T = yield Work(function)
    return result
