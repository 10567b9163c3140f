"""When a batch leaves, which requests wait, and which are refused. Without gRPC and torch.

A BatchQueue stands before one model version. There is no idle wait: what arrived while the last batch ran is the next
one. Rows are counted, not requests.

What runs is a Group: a batch taken from the queue, or requests that came together and need no queue. Each is refused,
timed, counted, and freed of requests at fault by the same lines. Batches run one after another, each in the thread that
leads: one that brought requests when no other led, as waking another thread costs more than a small model does; or the
queue's own.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    DeadlinePassedError,
    InvalidRequestError,
    UnavailableError,
)
from layerserve_server.inference.queue import Arrays, Piece, QueuedBatch, QueuedRequest

#: Batches that a thread runs for others before it goes on with its own work.
MAX_TURNS = 16

logger = logging.getLogger(__name__)

#: A model is quick while its batches take less than this, in seconds of a thread's own time: then calls are best
#: computed where they were taken, although no further call is taken meanwhile.
QUICK_SECONDS = 0.002


#: Part of a batch's time that the next one may be held up for callers who have just got their answers; the least and
#: the most that it may be, in seconds.
GATHER_PART, MIN_GATHER_SECONDS, MAX_GATHER_SECONDS = 0.05, 0.0005, 0.01


class Executor(Protocol):
    """Runs one batch. Raises InvalidRequestError where the content of an input is at fault."""

    def __call__(self, outputs: tuple[str, ...], arrays: Arrays) -> Arrays:
        """Gives the arrays of `outputs`; of inputs with joined rows, arrays with as many rows."""


class Waiting(Protocol):
    """A request that waits for its answer."""

    @property
    def answered(self) -> bool:
        """Whether it has its answer, or its caller has gone."""

    @property
    def arrived(self) -> float:
        """When it came, as `time.monotonic` counts."""

    @property
    def deadline(self) -> float | None:
        """When its caller stops waiting, as `time.monotonic` counts. None: never."""

    def fail(self, error: Exception) -> None:
        """Answers with an error."""


class Group(Protocol):
    """Requests whose rows run as one batch."""

    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def joinable(self) -> bool:
        """Whether the outputs have as many rows as the inputs."""

    @property
    def rows(self) -> int:
        """Rows of all requests together."""

    @property
    def size(self) -> int:
        """Number of requests, or pieces of them."""

    def arrays(self) -> Arrays:
        """The rows of all requests, joined."""

    def deliver(self, results: Arrays) -> None:
        """Answers each request with its rows of the results."""

    def fail(self, error: Exception) -> None:
        """Answers all requests with an error."""

    def split(self) -> Sequence[Group]:
        """A group for each request, or piece of one."""


class CoalescedGroup(Group, Protocol):
    """Requests with as many rows each that came together: they need no queue where the model is quick and free."""

    @property
    def request_rows(self) -> int:
        """Rows of each request."""

    @property
    def max_wait(self) -> float | None:
        """Seconds after which a request would rather be refused than wait on. None: never."""

    @property
    def requests(self) -> Sequence[Waiting]: ...

    def parts(self, max_rows: int) -> Sequence[CoalescedGroup]:
        """Groups of as many requests as fit into `max_rows`."""

    def drop_answered(self) -> None:
        """Leaves out the requests that have their answer."""


class BatchObserver(Protocol):
    """What counts batches: metrics."""

    def batch_ran(self, rows: int, requests: int, seconds: float) -> None:
        """A batch ran in `seconds`."""

    def requests_waited(self, seconds: Sequence[float]) -> None:
        """The first batches of some requests began so many seconds after they came."""


class BatchQueue:
    """The queue before one version. All methods may be called from any thread."""

    def __init__(
        self, name: str, execute: Executor, *, max_batch_rows: int, max_queue_rows: int, observer: BatchObserver
    ) -> None:
        self._name = name
        self._execute = execute
        #: Most rows that one batch has.
        self.max_batch_rows = max_batch_rows
        self._max_queue_rows = max_queue_rows
        self._observer = observer
        self._queue: deque[QueuedRequest] = deque()
        self._queued_rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        #: Whether a thread runs batches: it looks at the queue again before it ceases to.
        self._led = False
        self._closed = False
        #: Rows that a client which never rested had been served by now, and those after which a client's next is due.
        self._clock = 0.0
        self._turns: dict[object, float] = {}
        self._thread: threading.Thread | None = None
        self._seconds_per_row = 0.0
        #: When the last batch ended, the seconds that it took, and its requests with those that waited then.
        self._last = (0.0, 0.0, 0)
        #: Whether the queue's own thread waits for more requests, with some there or none.
        self._gathering = False
        #: What the observer has yet to count: seconds that requests waited; rows, requests and seconds of batches.
        self._waits: list[float] = []
        self._ran: list[tuple[int, int, float]] = []
        #: What batches took of a thread's own time, by the bits of their number of rows; infinite where not known.
        self._took = [math.inf] * (max_batch_rows.bit_length() + 1)

    def put(self, request: QueuedRequest) -> None:
        """Puts a request into the queue; one of the methods `run...` must follow.

        Raises BusyError if the queue is full. A request that is larger than the whole queue waits in an empty one.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError(f"{self._name} is being unloaded")
            if self._queued_rows and self._queued_rows + request.rows > self._max_queue_rows:
                raise BusyError(
                    f"the queue of {self._name} is full: {self._queued_rows} rows wait, {request.rows} more would pass "
                    f"the limit of {self._max_queue_rows}",
                    retry_after=self._wait_seconds(),
                )
            self._give_turn(request)
            self._insert(request)
            self._queued_rows += request.rows
            if self._gathering:
                self._wake.notify()

    def submit(self, request: QueuedRequest) -> None:
        """Puts a request into the queue and returns; its batch runs in the queue's own thread, or that of others.

        Raises BusyError if the queue is full.
        """
        self.put(request)
        self.run_elsewhere()

    def run_together(self, group: CoalescedGroup) -> bool:
        """Runs requests that came together at once, in this thread. They must be joinable.

        Gives False, and does nothing, where the model isn't quick with so many rows, batches run already, requests
        wait, or one of these is larger than a batch: then each must be `put`.
        """
        most = self.max_batch_rows
        if group.request_rows > most or self._expected(min(group.rows, most)) >= QUICK_SECONDS:
            return False
        with self._lock:
            if self._led or self._queue or self._closed:
                return False
            self._led = True
        try:
            for part in group.parts(most):
                if self._drop_expired(part):
                    self._run(part, report_first=False)
        finally:
            # After the answers, which would wait for it.
            self._report()
            self._lead()
        return True

    def run(self) -> None:
        """Runs batches in this thread, unless one does already: until nothing waits, or the queue's own takes over."""
        with self._lock:
            if self._led or not self._queue:
                return
            self._led = True
        self._lead()

    def run_if_quick(self) -> None:
        """As `run`, if the model is quick; else the queue's own thread runs what waits."""
        if self._expected(self._queued_rows) < QUICK_SECONDS:
            self.run()
        else:
            self.run_elsewhere()

    def run_elsewhere(self) -> None:
        """Lets the queue's own thread run what waits, unless another thread does; returns at once."""
        with self._wake:
            if self._led or self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"batches of {self._name}", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Ends the queue after the batch that runs. Requests that still wait get UnavailableError."""
        with self._wake:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._queued_rows = 0
            self._wake.notify()
        for request in left:
            request.fail(UnavailableError(f"{self._name} is being unloaded"))

    @property
    def queued_rows(self) -> int:
        """Rows that wait now."""
        return self._queued_rows

    def _give_turn(self, request: QueuedRequest) -> None:
        """Start-time fair queueing: a client's requests are due as if each client were served the same rows at a time.

        So one that sends thousands keeps no other waiting for more than its share (Goyal, Vin and Cheng, 1996).
        """
        if not self._queue:
            self._clock, self._turns = 0.0, {}
            return
        client = request.client()
        request.turn = max(self._clock, self._turns.get(client, 0.0))
        self._turns[client] = request.turn + request.rows

    def _insert(self, request: QueuedRequest) -> None:
        """Behind all that have more priority, or as much and an earlier turn."""
        place = len(self._queue)
        while place:
            before = self._queue[place - 1]
            if before.priority > request.priority or (
                before.priority == request.priority and before.turn <= request.turn
            ):
                break
            place -= 1
        self._queue.insert(place, request)

    def _expected(self, rows: int) -> float:
        """Seconds of a thread's own time that a batch of so many rows, or all that one holds, may take at the most."""
        size = min(rows.bit_length(), len(self._took) - 1)
        for smaller in range(size, -1, -1):
            if self._took[smaller] < math.inf:
                return self._took[smaller] * 2.0 ** (size - smaller)
        return min(self._took)

    def _wait_seconds(self) -> float:
        """How long the queue will last, within reason."""
        return min(10.0, max(0.01, self._queued_rows * self._seconds_per_row))

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._closed and (self._led or not self._queue):
                    self._wake.wait()
                if self._closed:
                    return
                self._led = True
            self._lead(None)

    def _gather(self) -> None:
        """Lets those come whose answers went out a moment ago.

        Else the first one runs alone, and the rest after it; or those that came during the batch run without them, and
        callers stay parted in two groups. Only after a batch that took long, and for a small part of that; neither
        idle queues nor lone callers ever wait.
        """
        ended, seconds, expected = self._last
        end = ended + min(GATHER_PART * seconds, MAX_GATHER_SECONDS)
        if expected < 2 or GATHER_PART * seconds < MIN_GATHER_SECONDS:
            return
        self._gathering = True
        while len(self._queue) < expected and not self._closed and (left := end - time.monotonic()) > 0:
            self._wake.wait(left)
        self._gathering = False

    def _lead(self, turns: int | None = MAX_TURNS) -> None:
        """Runs batches until nothing waits.

        After so many turns the queue's own thread takes over: one that brought a request has other things to do.
        """
        while True:
            if turns is not None:
                turns -= 1
            with self._lock:
                if turns is None:
                    self._gather()
                if not self._queue:
                    self._led = False
                    return
                pieces, refused = self._form()
            for request, error in refused:
                request.fail(error)
            if not pieces:
                continue
            try:
                self._run(QueuedBatch(pieces), report_first=True)
            except Exception:
                # A defect outside of the model. The thread that leads must go on: all that wait depend on it.
                logger.exception("a batch of %s", self._name)
            self._report()
            if turns is not None and turns <= 0:
                with self._lock:
                    self._led = False
                self.run_elsewhere()
                return

    def _form(self) -> tuple[list[Piece], list[tuple[QueuedRequest, Exception]]]:
        """Takes the next batch from the queue: the oldest request, and those behind it that may run with it, in order.

        Gives besides those that it refuses. A request larger than a batch gives one batch's rows and goes behind the
        others of its priority, so that it shares the queue instead of holding it.
        """
        pieces: list[Piece] = []
        refused: list[tuple[QueuedRequest, Exception]] = []
        kept: list[QueuedRequest] = []
        room = self.max_batch_rows
        key: object = None
        now = time.monotonic()
        unfinished: QueuedRequest | None = None
        while self._queue and room > 0:
            request = self._queue.popleft()
            # One that has begun waits no more, so it goes on: what was computed isn't thrown away.
            refusal = self._refusal(request, request.give_up if request.started is None else None, now)
            if refusal is not None:
                self._queued_rows -= request.rows_left
                refused.append((request, refusal))
                continue
            if key is None:
                key = request.key
            elif not request.joinable or request.key != key:
                kept.append(request)
                continue
            elif request.rows_left > room and request.rows <= self.max_batch_rows:
                # It runs whole in the next batch. A smaller one behind it may not take its turn.
                kept.append(request)
                break
            if request.started is None:
                request.started = now
                self._clock = max(self._clock, request.turn)
                self._waits.append(now - request.arrived)
            piece = request.take(room)
            self._queued_rows -= piece.rows
            pieces.append(piece)
            room -= piece.rows
            if request.rows_left:
                unfinished = request
            if not request.joinable:
                break
        self._queue.extendleft(reversed(kept))
        if unfinished is not None:
            same = (other.turn for other in self._queue if other.priority == unfinished.priority)
            unfinished.turn = max(same, default=unfinished.turn)
            self._insert(unfinished)
        return pieces, refused

    def _drop_expired(self, group: CoalescedGroup) -> bool:
        """Refuses the requests of a group that aren't to be computed any more; gives whether any are left."""
        now, wait = time.monotonic(), group.max_wait
        before = len(self._waits)
        for request in group.requests:
            refusal = self._refusal(request, None if wait is None else request.arrived + wait, now)
            if refusal is None:
                self._waits.append(now - request.arrived)
            else:
                request.fail(refusal)
        left = len(self._waits) - before
        if left < group.size:
            group.drop_answered()
        return left > 0

    def _refusal(self, request: Waiting, give_up: float | None, now: float) -> Exception | None:
        """Why a request that waited isn't computed any more. None: it is."""
        if request.answered:
            return CallCancelledError("the caller has gone")
        if request.deadline is not None and request.deadline <= now:
            return DeadlinePassedError("the deadline passed while the request waited")
        if give_up is not None and give_up <= now:
            return BusyError("the request waited for longer than it wanted to", retry_after=self._wait_seconds())
        return None

    def _run(self, group: Group, *, report_first: bool) -> None:
        """Runs a batch, and answers its requests. The observer counts it before the answers, or at the next report."""
        try:
            results = self._compute(group)
        except InvalidRequestError as error:
            if group.size > 1:
                # One request's content is at fault, and the others must not fail for it.
                for part in group.split():
                    self._run(part, report_first=report_first)
            else:
                group.fail(error)
        except Exception as error:
            group.fail(error)
        else:
            if report_first:
                self._report()
            group.deliver(results)

    def _compute(self, group: Group) -> Arrays:
        arrays = group.arrays()
        rows, requests = group.rows, group.size
        began, busy = time.monotonic(), time.thread_time()
        results = self._execute(group.outputs, arrays)
        if group.joinable:
            _check_rows(results, rows)
        seconds = time.monotonic() - began
        self._seconds_per_row = seconds / max(rows, 1)
        # By the thread's own time, as waiting for other threads makes no model slow. The first batch is often much
        # longer than the rest, and must not count for long.
        busy = time.thread_time() - busy
        size = min(rows.bit_length(), len(self._took) - 1)
        self._took[size] = min(busy, (self._took[size] + busy) / 2)
        self._last = began + seconds, seconds, requests + len(self._queue)
        self._ran.append((rows, requests, seconds))
        return results

    def _report(self) -> None:
        """Has the observer count what has waited and run since the last report. Only for the thread that leads."""
        if self._waits:
            waits, self._waits = self._waits, []
            self._observer.requests_waited(waits)
        if self._ran:
            ran, self._ran = self._ran, []
            for batch in ran:
                self._observer.batch_ran(*batch)


def _check_rows(results: Arrays, rows: int) -> None:
    """Guards the promise that no reply holds another's rows, whatever the executor does."""
    for name, array in results.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RuntimeError(f"output '{name}' has shape {array.shape} for a batch of {rows} rows")
