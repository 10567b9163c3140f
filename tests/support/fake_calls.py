"""Calls without a transport: their answers are kept instead of sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from layerserve_server.access.caller import ANYONE
from layerserve_server.access.gate import Gate
from layerserve_server.transport.call import Ended
from layerserve_server.transport.event_batch import BatchedCall, EventBatches
from layerserve_server.transport.perimeter.memory import MemoryBudget
from layerserve_server.transport.status import Failure
from some_limits import some_limits


class CallObserver:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.began: dict[str, int] = {}
        self.ended: list[Ended] = []
        self.before: list[Callable[[], None]] = []

    def calls_began(self, method: str, count: int) -> None:
        self.began[method] = self.began.get(method, 0) + count

    def calls_ended(self, calls: Sequence[Ended]) -> None:
        self.ended += calls

    def streamed(self, requests: Sequence[Ended]) -> None:
        self.ended += requests

    def before_collect(self, report: Callable[[], None]) -> None:
        self.before.append(report)


def event_batches_here(observer: CallObserver, memory: int = 1 << 30, **limits: int) -> EventBatches:
    """Event batches whose calls this thread takes."""
    usual = {"max_message_bytes": 1 << 20, "rpc_threads": 2, "max_streams": 8, "max_calls": 100}
    batches = EventBatches(observer, some_limits(**{**usual, **limits}), MemoryBudget(memory), Gate())
    batches.bind_to_thread()
    return batches


class FakeCall(BatchedCall):
    """A call that has come."""

    metadata = ()

    def __init__(
        self,
        batches: EventBatches,
        request: bytes = b"",
        *,
        method: str = "/a/B",
        deadline: float | None = None,
        arrived: float | None = None,
    ) -> None:
        super().__init__(batches, method, request, time.monotonic() if arrived is None else arrived, deadline)
        self.caller = ANYONE
        self.sent: list[bytes | Failure] = []

    def send(self, message: bytes) -> None:
        self.sent.append(message)
        self.drop()

    def send_failure(self, wire: Failure) -> None:
        self.sent.append(wire)
        self.drop()

    def client(self) -> object:
        return None

    @property
    def outcome(self) -> str | None:
        """OK, the status of an error, or None while it waits."""
        assert len(self.sent) <= 1
        if not self.sent:
            return None
        return self.sent[0].code.name if isinstance(self.sent[0], Failure) else "OK"
