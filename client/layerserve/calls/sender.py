"""The requests of a call that sends content: first what is sent, then the content once the server has accepted it."""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Generic, TypeVar

from layerserve.errors import InvalidArgument, LayerserveError

M = TypeVar("M")


class Sender(Iterable[M], AsyncIterable[M], Generic[M]):
    """Requests, made one by one while they are sent. Can be iterated once.

    The content is sent after the server has accepted the first request. So nothing is sent in vain, and grpc.aio has no
    pending write when a request is refused: it would report the failed write in place of the server's status (grpcio
    1.85).

    `error` is an error while the content is read. The stream then ends early, so that the server drops what it has, and
    the reader of the replies raises this error.
    """

    #: The content in error texts.
    what = "data"

    def __init__(self) -> None:
        self.error: LayerserveError | None = None
        self._decided = threading.Event()
        self._wanted = False

    @abstractmethod
    def first(self) -> M:
        """Returns the first request."""

    @abstractmethod
    def content(self) -> Iterator[M]:
        """Yields the other requests. May raise any error, and ends when the content isn't `wanted` any more."""

    @property
    def wanted(self) -> bool:
        """Whether the content is to be sent."""
        return self._wanted

    def accept(self) -> None:
        """Starts sending the content."""
        self._wanted = True
        self._decided.set()

    def abandon(self) -> None:
        """Ends the requests, and releases the waiting sender."""
        self._wanted = False
        self._decided.set()

    def __iter__(self) -> Iterator[M]:
        yield self.first()
        self._decided.wait()
        yield from self._content()

    async def __aiter__(self) -> AsyncIterator[M]:
        yield self.first()
        await asyncio.to_thread(self._decided.wait)
        content = self._content()
        while (message := await asyncio.to_thread(next, content, None)) is not None:
            yield message

    def _content(self) -> Iterator[M]:
        if not self._wanted:
            return
        try:
            yield from self.content()
        except LayerserveError as error:
            self.error = error
        except Exception as error:  # slicing, files and callbacks may raise any error
            self.error = InvalidArgument(f"{self.what}: {type(error).__name__}: {error}")
