"""A request in the queue: its arrays, its own clock and its own reply; and batches of such. Without gRPC and torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from layerserve_server.errors import CallCancelledError

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Padding(Protocol):
    """Joins rows whose arrays differ in shape, and takes them apart again."""

    def join(self, parts: Sequence[Arrays]) -> Arrays:
        """The rows of all parts, filled up to one shape."""

    def cut(self, results: Arrays, part: Arrays) -> Arrays:
        """The results for the rows of one part, without what they were filled up with."""


def _one_client() -> object:
    """All callers as one."""
    return None


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request on its way: what it asks, its own clock, and its own reply.

    `done` is called exactly once, with `error` or `results` set: from the thread that runs batches, or that cancels.
    """

    outputs: tuple[str, ...]
    arrays: Arrays
    #: Rows of every array. Without `joinable`, only what the request counts for.
    rows: int
    #: Whether other requests' rows may run in the same batch, and the rows of this one in several.
    joinable: bool
    done: Callable[[QueuedRequest], None]
    #: When the caller stops waiting, as `time.monotonic` counts.
    deadline: float | None = None
    #: Goes before what has less.
    priority: int = 0
    #: When it would rather be refused than wait on, as `time.monotonic` counts.
    give_up: float | None = None
    #: Who asks, as far as others are to have their turn: asked for only where requests wait.
    client: Callable[[], object] = _one_client
    #: What it may run together with, where the caller knows; else found from the arrays.
    group: object = None
    #: Where requests of one group differ in shape.
    padding: Padding | None = None
    arrived: float = field(default_factory=time.monotonic)
    #: When its first batch began; None before.
    started: float | None = None
    results: Arrays | None = None
    error: Exception | None = None
    #: Its place among those of its priority (see BatchQueue._give_turn).
    turn: float = 0.0
    _parts: list[Arrays] | None = None
    _taken: int = 0
    #: Taken by whoever answers: two threads can't both.
    _once: threading.Lock = field(default_factory=threading.Lock)

    @property
    def key(self) -> object:
        """What this request may run together with."""
        if self.group is not None:
            return self.group
        shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(self.arrays.items()))
        return self.outputs, shapes

    @property
    def rows_left(self) -> int:
        """Rows that no batch has taken yet."""
        return self.rows - self._taken

    @property
    def answered(self) -> bool:
        """Whether it has its answer."""
        return self._once.locked()

    def cancel(self) -> None:
        """The caller has gone: what hasn't run doesn't run."""
        self.fail(CallCancelledError("the caller has gone"))

    def fail(self, error: Exception) -> None:
        """Answers with an error, if it has no answer yet."""
        if self._once.acquire(False):
            self.error = error
            self.done(self)

    def take(self, room: int) -> Piece:
        """Takes the next rows, `room` at the most, for a batch."""
        start = self._taken
        stop = min(self.rows, start + room) if self.joinable else self.rows
        self._taken = stop
        whole = start == 0 and stop == self.rows
        arrays = self.arrays if whole else {name: array[start:stop] for name, array in self.arrays.items()}
        return Piece(self, arrays, stop - start)

    def add_part(self, part: Arrays) -> None:
        """Adds the results of a piece, in the order taken. With the last one the request has its answer."""
        if self._parts is not None or self._taken != self.rows:
            self._parts = [*(self._parts or ()), part]
            if self.rows_left:
                return
            part = joined(self._parts)
        if self._once.acquire(False):
            self.results = part
            self.done(self)


@dataclass(slots=True, eq=False)
class Piece:
    """Rows of one request in one batch."""

    owner: QueuedRequest
    arrays: Arrays
    rows: int


class QueuedBatch:
    """Pieces of queued requests that run as one batch (see batching.Group)."""

    __slots__ = ("_pieces", "joinable", "outputs", "rows")

    def __init__(self, pieces: Sequence[Piece]) -> None:
        """All pieces ask for the same outputs, and may run together."""
        self._pieces = pieces
        self.outputs = pieces[0].owner.outputs
        self.joinable = pieces[0].owner.joinable
        self.rows = sum(piece.rows for piece in pieces)

    @property
    def size(self) -> int:
        """Number of pieces."""
        return len(self._pieces)

    def arrays(self) -> Arrays:
        """The rows of all pieces, joined."""
        parts = [piece.arrays for piece in self._pieces]
        padding = self._pieces[0].owner.padding
        return padding.join(parts) if padding and len(parts) > 1 else joined(parts)

    def deliver(self, results: Arrays) -> None:
        """Gives each request its rows of the results."""
        if len(self._pieces) == 1:
            self._pieces[0].owner.add_part(results)
            return
        start = 0
        for piece in self._pieces:
            stop = start + piece.rows
            part: Arrays = {name: array[start:stop] for name, array in results.items()}
            padding = piece.owner.padding
            piece.owner.add_part(padding.cut(part, piece.arrays) if padding else part)
            start = stop

    def fail(self, error: Exception) -> None:
        """Answers all requests with an error."""
        for piece in self._pieces:
            piece.owner.fail(error)

    def split(self) -> Sequence[QueuedBatch]:
        """A batch for each piece."""
        return [QueuedBatch([piece]) for piece in self._pieces]


def joined(parts: Sequence[Arrays]) -> Arrays:
    """The rows of all parts, as arrays that can be written to."""
    if len(parts) == 1:
        # What lies within a message can't be written to, as executors may, nor need it be aligned.
        return {name: array if array.flags.writeable else array.copy() for name, array in parts[0].items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
