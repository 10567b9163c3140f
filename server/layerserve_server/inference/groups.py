"""What the queue batches, whatever its messages are: requests that wait, and groups of them that run as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from layerserve_server.inference.queue import Arrays
from layerserve_server.transport.call import Trace


class PendingRequest(Protocol):
    """A request that waits for its reply."""

    @property
    def answered(self) -> bool:
        """Whether it was answered or cancelled."""

    @property
    def arrived(self) -> float:
        """Arrival time, on the clock of `time.monotonic`, in seconds."""

    @property
    def deadline(self) -> float | None:
        """The client's deadline, on the clock of `time.monotonic`, in seconds; None if it set none."""

    def fail(self, error: Exception) -> None:
        """Answers with an error."""


class Group(Protocol):
    """Requests, or pieces of them, that run as one batch."""

    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def joinable(self) -> bool:
        """Whether rows of several requests may be joined: the outputs have as many rows as the inputs."""

    @property
    def rows(self) -> int:
        """Total number of rows."""

    @property
    def size(self) -> int:
        """Number of requests or pieces."""

    def traces(self) -> Sequence[Trace]:
        """Returns the traces of the requests that are sampled."""

    def arrays(self) -> Arrays:
        """Returns the joined arrays, of `rows` rows."""

    def deliver(self, results: Arrays) -> None:
        """Answers each request with its rows of the results."""

    def fail(self, error: Exception) -> None:
        """Answers all requests with an error."""

    def split(self) -> Sequence[Group]:
        """Returns a group per request or piece."""


class CoalescedGroup(Group, Protocol):
    """Requests with equal numbers of rows that arrived together. Bypasses the queue if the model is quick and idle."""

    @property
    def request_rows(self) -> int:
        """Number of rows of each request."""

    @property
    def max_wait(self) -> float | None:
        """Maximum time in the queue, in seconds, after which a request is refused; None if unlimited."""

    @property
    def requests(self) -> Sequence[PendingRequest]: ...

    def parts(self, max_rows: int) -> Sequence[CoalescedGroup]:
        """Splits the requests into groups of at most `max_rows` rows."""

    def drop_answered(self) -> None:
        """Removes the requests that were answered."""
