"""The requests of a stream that is answered one by one."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Generic, TypeVar

M = TypeVar("M")


class Outbox(Iterable[M], AsyncIterable[M], Generic[M]):
    """The requests of a stream, which are added while it is open. Can be iterated once."""

    def __init__(self) -> None:
        self._messages: deque[M] = deque()
        self._closed = False
        self._changed = threading.Condition()
        self._wake: asyncio.Event | None = None

    def put(self, message: M) -> None:
        with self._changed:
            self._messages.append(message)
            self._changed.notify()
        if self._wake is not None:
            self._wake.set()

    def close(self) -> None:
        """Ends the requests."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._wake is not None:
            self._wake.set()

    def __iter__(self) -> Iterator[M]:
        while True:
            with self._changed:
                while not self._messages and not self._closed:
                    self._changed.wait()
                if not self._messages:
                    return
                message = self._messages.popleft()
            yield message

    async def __aiter__(self) -> AsyncIterator[M]:
        self._wake = asyncio.Event()
        while True:
            self._wake.clear()
            while self._messages:
                yield self._messages.popleft()
            if self._closed:
                return
            if not self._messages:
                await self._wake.wait()
