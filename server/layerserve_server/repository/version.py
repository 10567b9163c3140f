"""A loaded version: its model, its queue, and who uses it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.runner import ModelRunner, ServedModel
from layerserve_server.repository.layout import FoundVersion


@dataclass(slots=True, eq=False)
class LoadedVersion:
    """A version in memory. Whoever uses it holds a lease; once retired, it is released with the last of them."""

    found: FoundVersion
    model: ServedModel
    runner: ModelRunner
    queue: BatchQueue
    parameter_count: int
    training_run: str
    #: Called once, when it is retired and nobody uses it any more.
    released: Callable[[LoadedVersion], None]
    ready_time: float = field(default_factory=time.time)
    last_used: float = field(default_factory=time.monotonic)
    #: Whether engines are still to be timed on it, or are being timed.
    choosing_engine: bool = False
    #: What services have ready for requests that ask for the same outputs.
    endpoints: dict[tuple[str, ...], Any] = field(default_factory=dict)
    _users: int = 0
    _retired: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.found.name

    @property
    def version(self) -> int:
        """Number of the version."""
        return self.found.version

    @property
    def retired(self) -> bool:
        """Whether it gives no more leases."""
        return self._retired

    def lease(self) -> Lease | None:
        """A right to use it; None where it has been retired."""
        with self._lock:
            if self._retired:
                return None
            self._users += 1
            self.last_used = time.monotonic()
        return Lease(self)

    def retire(self) -> None:
        """Gives no more leases, and releases the version when the last one has come back."""
        with self._lock:
            if self._retired:
                return
            self._retired = True
            unused = self._users == 0
        if unused:
            self._release()

    def give_back(self) -> None:
        """A lease has ended."""
        with self._lock:
            self._users -= 1
            unused = self._retired and self._users == 0
        if unused:
            self._release()

    def _release(self) -> None:
        self.queue.close()
        self.released(self)


class Lease:
    """The right to use a version. End it exactly once, with `end` or as a context."""

    __slots__ = ("_ended", "version")

    def __init__(self, version: LoadedVersion) -> None:
        self.version = version
        self._ended = False

    def end(self) -> None:
        """Gives the version back; later calls do nothing."""
        if not self._ended:
            self._ended = True
            self.version.give_back()

    def __enter__(self) -> LoadedVersion:
        return self.version

    def __exit__(self, *_: object) -> None:
        self.end()
