"""Conversations with the server as generators that do no I/O.

A flow yields steps (call this, open that stream, wait) and is sent what each gave, or has the step's error raised at
its `yield`. `Client` and `AsyncClient` carry the same flows out, one blocking and one on asyncio, so that what is said
to the server is written once.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from layerserve.methods import Message, Method, Q, R

T = TypeVar("T")
Reply = TypeVar("Reply", bound=Message, covariant=True)


@dataclass(frozen=True)
class Call:
    """Call a unary RPC. Gives its reply."""

    method: Method[Any, Any]
    request: Message


@dataclass(frozen=True)
class Open:
    """Open a stream. `requests` is a message, or an iterable of them where requests are a stream. Gives a Stream."""

    method: Method[Any, Any]
    requests: Message | Iterable[Message]


@dataclass(frozen=True)
class Stream(Generic[Reply]):
    """An open stream; `handle` belongs to the shell that opened it."""

    handle: Any


@dataclass(frozen=True)
class Receive:
    """Wait for the next message of a stream. Gives it, or None at the stream's end."""

    stream: Stream[Any]


@dataclass(frozen=True)
class Close:
    """Close a stream before its end. Gives None."""

    stream: Stream[Any]


@dataclass(frozen=True)
class Pause:
    """Wait for some seconds. Gives None."""

    seconds: float


@dataclass(frozen=True)
class Work:
    """Run a function that may block on a disk. Gives what it returns; what it raises is raised at the `yield`."""

    function: Callable[[], Any]


Step = Call | Open | Receive | Close | Pause | Work
Flow = Generator[Step, Any, T]


def call(method: Method[Q, R], request: Q) -> Flow[R]:
    reply: R = yield Call(method, request)
    return reply


def open_stream(method: Method[Q, R], requests: Q | Iterable[Q]) -> Flow[Stream[R]]:
    stream: Stream[R] = yield Open(method, requests)
    return stream


def receive(stream: Stream[R]) -> Flow[R | None]:
    reply: R | None = yield Receive(stream)
    return reply


def work(function: Callable[[], T]) -> Flow[T]:
    result: T = yield Work(function)
    return result
