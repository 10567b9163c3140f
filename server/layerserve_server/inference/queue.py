"""Queued requests and batches of them. Uses neither gRPC nor torch."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from layerserve_server.errors import CallCancelledError
from layerserve_server.transport.call import Trace

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]


def bytes_of(array: npt.NDArray[Any]) -> int:
    """Returns the size of an array in bytes: of text, its pointers and the texts, which NumPy doesn't count."""
    return array.nbytes + (sum(map(len, array.ravel().tolist())) if array.dtype == object else 0)


class Padding(Protocol):
    """Pads rows of different shapes to a common one, and removes the padding from results."""

    def join(self, parts: Sequence[Arrays]) -> Arrays:
        """Returns the rows of all parts, padded to the same shape."""

    def cut(self, results: Arrays, part: Arrays) -> Arrays:
        """Returns the results for the rows of one part, without padding."""


def _one_client() -> object:
    """The default client: the same for all requests."""
    return None


@dataclass(slots=True, eq=False)
class QueuedRequest:
    """A request in the queue, and its results.

    `done` is called exactly once, with `error` or `results` set, in the thread that runs its batch or that cancels it.
    Times are on the clock of `time.monotonic`, in seconds.
    """

    outputs: tuple[str, ...]
    arrays: Arrays
    #: Number of rows of all arrays. If not `joinable`, the number of rows that it counts as in the queue.
    rows: int
    #: Whether its rows may be batched with those of other requests, and split among several batches.
    joinable: bool
    done: Callable[[QueuedRequest], None]
    #: The client's deadline; None if it set none.
    deadline: float | None = None
    #: Requests with a higher priority run first.
    priority: int = 0
    #: Time at which it is refused if it hasn't started; None if unlimited.
    queue_deadline: float | None = None
    #: Returns an object that identifies the client, for fair queueing. Called only if other requests are queued.
    client: Callable[[], object] = _one_client
    #: Requests of equal groups may be batched; None to compare outputs, dtypes and shapes.
    group: object = None
    #: Pads requests of the group that differ in shape; None if they don't.
    padding: Padding | None = None
    arrived: float = field(default_factory=time.monotonic)
    #: The spans of the request; None if it isn't sampled.
    trace: Trace | None = None
    #: Start of its first batch; None before.
    started: float | None = None
    results: Arrays | None = None
    error: Exception | None = None
    #: Start in the virtual time of fair queueing: orders the requests of a priority (see BatchQueue._position).
    virtual_start: float = 0.0
    _parts: list[Arrays] | None = None
    _taken: int = 0
    #: Acquired by the thread that answers, so that only one does.
    _once: threading.Lock = field(default_factory=threading.Lock)

    @property
    def key(self) -> object:
        """Requests with equal keys may be batched."""
        if self.group is not None:
            return self.group
        shapes = tuple((name, array.dtype.str, array.shape[1:]) for name, array in sorted(self.arrays.items()))
        return self.outputs, shapes

    @property
    def rows_left(self) -> int:
        """Number of rows that aren't in a batch yet."""
        return self.rows - self._taken

    @property
    def answered(self) -> bool:
        """Whether it was answered or cancelled."""
        return self._once.locked()

    def cancel(self) -> None:
        """Cancels the request: its remaining rows aren't computed."""
        self.fail(CallCancelledError("the client cancelled the call"))

    def fail(self, error: Exception) -> None:
        """Answers with an error, unless it was answered."""
        if self._once.acquire(False):
            self.error = error
            self.done(self)

    def take(self, room: int) -> Piece:
        """Takes the next rows for a batch: at most `room` if joinable, otherwise all."""
        start = self._taken
        stop = min(self.rows, start + room) if self.joinable else self.rows
        self._taken = stop
        undivided = start == 0 and stop == self.rows
        arrays = self.arrays if undivided else {name: array[start:stop] for name, array in self.arrays.items()}
        return Piece(self, arrays, stop - start)

    def add_part(self, part: Arrays) -> None:
        """Adds the results of a piece, in the order of `take`. Answers the request after the last one."""
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
    """Rows of a request in a batch."""

    owner: QueuedRequest
    arrays: Arrays
    rows: int


class QueuedBatch:
    """Pieces of queued requests that run as one batch (see batching.Group)."""

    __slots__ = ("_pieces", "joinable", "outputs", "rows")

    def __init__(self, pieces: Sequence[Piece]) -> None:
        """All pieces have equal keys."""
        self._pieces = pieces
        self.outputs = pieces[0].owner.outputs
        self.joinable = pieces[0].owner.joinable
        self.rows = sum(piece.rows for piece in pieces)

    @property
    def size(self) -> int:
        """Number of pieces."""
        return len(self._pieces)

    def traces(self) -> list[Trace]:
        """Returns the traces of the requests that are sampled."""
        return [piece.owner.trace for piece in self._pieces if piece.owner.trace is not None]

    def arrays(self) -> Arrays:
        """Returns the joined arrays of all pieces."""
        parts = [piece.arrays for piece in self._pieces]
        padding = self._pieces[0].owner.padding
        return padding.join(parts) if padding and len(parts) > 1 else joined(parts)

    def deliver(self, results: Arrays) -> None:
        """Passes each request its rows of the results."""
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
        """Returns a batch per piece."""
        return [QueuedBatch([piece]) for piece in self._pieces]


def joined(parts: Sequence[Arrays]) -> Arrays:
    """Concatenates the rows of all parts, as writable arrays."""
    if len(parts) == 1:
        # Arrays within a message are read-only and may be unaligned; executors may write to their inputs.
        return {name: array if array.flags.writeable else array.copy() for name, array in parts[0].items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
