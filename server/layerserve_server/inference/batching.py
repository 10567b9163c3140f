"""Batching: which requests form the next batch, which wait and which are refused. Uses neither gRPC nor torch.

Each loaded version has a BatchQueue. It never waits for a batch to fill up: the requests that arrived during a batch
form the next one. Sizes are measured in rows, not requests.

A batch is a `Group`: pieces taken from the queue, or requests that arrived together and bypass it. Both are refused,
timed, counted and split on errors by the same code. Batches run one after another in the leader thread. That is a
thread that added requests while there was no leader, since waking another thread costs more than a small model, or else
the queue's own thread.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from layergraph.execution.kept_plan import NotKeptError

from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    DeadlinePassedError,
    InvalidRequestError,
    TooLargeError,
    UnavailableError,
)
from layerserve_server.inference.batch_times import BatchTimes
from layerserve_server.inference.groups import CoalescedGroup, Group, PendingRequest
from layerserve_server.inference.queue import Arrays, Piece, QueuedBatch, QueuedRequest

#: Maximum number of batches that a thread runs as the leader before the queue's own thread takes over.
MAX_TURNS = 16

#: Maximum thread time of a batch for which a model counts as quick, in seconds. Its calls are best computed in the
#: thread that receives them, although that thread receives no further calls meanwhile.
QUICK_SECONDS = 0.002

#: Delay of the next batch for clients that have just received their replies: as a fraction of the last batch's time,
#: and its minimum and maximum in seconds.
GATHER_PART, MIN_GATHER_SECONDS, MAX_GATHER_SECONDS = 0.05, 0.0005, 0.01

#: Maximum number of clients whose virtual ends are kept, those that sent a request last. Each connection is one, and a
#: queue that is overloaded for hours is never empty.
MAX_CLIENTS = 4096

#: Factor between the expected time until a reply and the time that a deadline must leave for it.
HEADROOM = 1.25

logger = logging.getLogger(__name__)


class Executor(Protocol):
    """Runs a batch. Raises InvalidRequestError if the content of an input is invalid, TooLargeError for memory."""

    def __call__(self, outputs: tuple[str, ...], arrays: Arrays) -> Arrays:
        """Returns the arrays of `outputs`; for joinable requests, with as many rows as the inputs."""


class BatchObserver(Protocol):
    """Receives sizes and times of batches, for metrics."""

    def batch_ran(self, rows: int, requests: int, seconds: float) -> None:
        """Called after a batch, which took `seconds` to compute."""

    def requests_waited(self, seconds: Sequence[float]) -> None:
        """Called with the times, in seconds, from the arrival of requests to the start of their first batch."""


class BatchQueue:
    """The queue of a loaded version. Thread-safe."""

    def __init__(
        self,
        name: str,
        execute: Executor,
        *,
        max_batch_rows: int,
        max_queue_rows: int,
        observer: BatchObserver,
        nice: int = 0,
    ) -> None:
        """Unless `nice` is 0, all batches run in the queue's own thread, which has this niceness (Linux)."""
        self._name = name
        self._execute = execute
        #: Maximum number of rows per batch.
        self.max_batch_rows = max_batch_rows
        self.max_queue_rows = max_queue_rows
        self._observer = observer
        self._nice = nice
        self._queue: deque[QueuedRequest] = deque()
        self._queued_rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        #: Whether there is a leader, a thread that runs batches. It checks the queue again before it stops leading.
        self._has_leader = False
        self._closed = False
        #: Fair queueing: the virtual time, in rows served to a client that always has requests queued; and by client,
        #: the virtual time at which its last request ends.
        self._virtual_time = 0.0
        self._virtual_ends: dict[object, float] = {}
        self._thread: threading.Thread | None = None
        self._times = BatchTimes()
        #: Expected end of the batch that is being computed.
        self._busy_until = -math.inf
        #: Of the last batch: its end, the seconds that it took, and its number of requests plus those queued then.
        self._last = (-math.inf, 0.0, 0)
        #: Whether the queue's own thread waits for requests of clients that have just received their replies.
        self._gathering = False
        #: To be reported to the observer: seconds that requests waited; rows, requests and seconds of batches.
        self._waits: list[float] = []
        self._ran: list[tuple[int, int, float]] = []
        #: Thread time of batches in seconds, by the bit length of their number of rows; infinite if unknown.
        self._thread_seconds = [math.inf] * (max_batch_rows.bit_length() + 1)

    def set_limits(self, max_batch_rows: int, max_queue_rows: int) -> None:
        """Changes the maximum number of rows of a batch, and of the queue. Queued requests stay."""
        with self._lock:
            # Never shortened, since a batch that is running notes its time in it.
            missing = max_batch_rows.bit_length() + 1 - len(self._thread_seconds)
            self._thread_seconds += [math.inf] * missing
            self.max_batch_rows, self.max_queue_rows = max_batch_rows, max_queue_rows

    def put(self, request: QueuedRequest) -> None:
        """Adds a request to the queue. One of the methods `run...` must be called afterwards.

        An empty queue also accepts a request with more than `max_queue_rows` rows. Raises BusyError if the queue is
        full, or so long that the request's deadline would pass, and UnavailableError if it is closed.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError(f"{self._name} is being unloaded")
            if self._queued_rows and self._queued_rows + request.rows > self.max_queue_rows:
                raise BusyError(
                    f"the queue of {self._name} is full: it has {self._queued_rows} rows, {request.rows} more would "
                    f"exceed the limit of {self.max_queue_rows}",
                    retry_after=self._wait_seconds(),
                )
            client = request.client() if self._queue else None
            index, ahead = self._position(request, client)
            self._check_deadline(request, ahead)
            if self._queue:
                # The last one that was set is at the end.
                self._virtual_ends.pop(client, None)
                self._virtual_ends[client] = request.virtual_start + request.rows
                if len(self._virtual_ends) > MAX_CLIENTS:
                    del self._virtual_ends[next(iter(self._virtual_ends))]
            self._queue.insert(index, request)
            self._queued_rows += request.rows
            if self._gathering:
                self._wake.notify()

    def submit(self, request: QueuedRequest) -> None:
        """Adds a request to the queue, to be run by the queue's own thread or another leader. Raises as `put` does."""
        self.put(request)
        self.run_in_background()

    def run_together(self, group: CoalescedGroup) -> bool:
        """Runs joinable requests that arrived together immediately, in this thread.

        Returns False, and does nothing, if the model isn't quick with this number of rows, there is a leader, the queue
        isn't empty, or a request is larger than a batch. Then each request must be added with `put`.
        """
        max_rows = self.max_batch_rows
        if self._nice or group.request_rows > max_rows or self._expected(min(group.rows, max_rows)) >= QUICK_SECONDS:
            return False
        with self._lock:
            if self._has_leader or self._queue or self._closed:
                return False
            self._has_leader = True
        try:
            for part in group.parts(max_rows):
                if self._drop_expired(part):
                    self._run(part, report_first=False)
        finally:
            # After the replies, to not delay them.
            self._report()
            self._lead()
        return True

    def run(self) -> None:
        """Runs batches in this thread, unless there is a leader, until the queue is empty or its thread takes over."""
        with self._lock:
            if self._has_leader or not self._queue:
                return
            self._has_leader = True
        self._lead()

    def run_if_quick(self) -> None:
        """Like `run` if the model is quick, else like `run_in_background`."""
        if not self._nice and self._expected(self._queued_rows) < QUICK_SECONDS:
            self.run()
        else:
            self.run_in_background()

    def run_in_background(self) -> None:
        """Wakes the queue's own thread to run batches, unless there is a leader. Returns immediately."""
        with self._wake:
            if self._has_leader or self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"batches of {self._name}", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Closes the queue after the current batch. Queued requests fail with UnavailableError."""
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
        """Number of rows in the queue."""
        return self._queued_rows

    @property
    def queued_requests(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    def _position(self, request: QueuedRequest, client: object) -> tuple[int, int]:
        """Sets a request's virtual start, and returns its index in the queue and the number of rows before it.

        It is that of start-time fair queueing (Goyal, Vin and Cheng, 1996): clients with queued requests are served
        equal numbers of rows, so that none is delayed by one that sends thousands.
        """
        if self._queue:
            request.virtual_start = max(self._virtual_time, self._virtual_ends.get(client, 0.0))
        else:
            self._virtual_time, self._virtual_ends = 0.0, {}
        return self._find(request)

    def _find(self, request: QueuedRequest) -> tuple[int, int]:
        """Returns the index after the requests of a higher priority, or of the same and no later start.

        And the number of rows before it.
        """
        index, ahead = len(self._queue), self._queued_rows
        while index:
            before = self._queue[index - 1]
            if before.priority > request.priority or (
                before.priority == request.priority and before.virtual_start <= request.virtual_start
            ):
                break
            index -= 1
            ahead -= before.rows_left
        return index, ahead

    def _check_deadline(self, request: QueuedRequest, ahead: int) -> None:
        """Raises BusyError if a request would be computed too late: it would take the time of others for nothing.

        An idle queue accepts every request, so that the expected times are corrected if they are wrong.
        """
        now = time.monotonic()
        if request.deadline is None or request.deadline <= now or not self._has_leader:
            return
        wait = max(0.0, self._busy_until - now) + self._times.expected(ahead + request.rows)
        end = now + HEADROOM * wait
        if end > request.deadline:
            raise BusyError(
                f"the queue of {self._name} has {ahead} rows before the request, whose deadline would pass "
                f"{end - request.deadline:.3g} s before its reply",
                retry_after=self._wait_seconds(),
            )

    def _expected(self, rows: int) -> float:
        """Returns an upper estimate of the thread time of a batch with this number of rows, in seconds."""
        size = min(rows.bit_length(), len(self._thread_seconds) - 1)
        for smaller in range(size, -1, -1):
            if self._thread_seconds[smaller] < math.inf:
                return self._thread_seconds[smaller] * 2.0 ** (size - smaller)
        return min(self._thread_seconds)

    def _wait_seconds(self) -> float:
        """Returns the estimated time until the queue is empty, in seconds, from 0.01 to 10."""
        return min(10.0, max(0.01, self._times.expected(self._queued_rows)))

    def _work(self) -> None:
        if self._nice:
            with contextlib.suppress(OSError):
                # On Linux, niceness is a thread's; threads that this one starts, such as OpenMP's, inherit it.
                os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), self._nice)
        while True:
            with self._wake:
                while not self._closed and (self._has_leader or not self._queue):
                    self._wake.wait()
                if self._closed:
                    return
                self._has_leader = True
            self._lead(None)

    def _gather(self) -> None:
        """Waits briefly for the next requests of clients that have just received their replies.

        Otherwise the first of them would run alone before the rest, or the requests that arrived during the batch would
        run without them, and the clients would stay divided into two alternating groups. Waits only after a long batch,
        for a small fraction of its time. An idle queue or a single client never waits.
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
        """Runs batches until the queue is empty.

        The queue's own thread takes over after `turns` batches, since a thread that added a request has other work.
        None means that this is the queue's own thread.
        """
        while True:
            if turns is not None:
                turns -= 1
            with self._lock:
                if turns is None:
                    self._gather()
                if not self._queue:
                    self._has_leader = False
                    return
                pieces, refused = self._form()
            for request, error in refused:
                request.fail(error)
            if not pieces:
                continue
            batch = QueuedBatch(pieces)
            self._busy_until = time.monotonic() + self._times.expected(batch.rows)
            try:
                self._run(batch, report_first=True)
            except Exception:
                # A bug outside of the model. The leader must continue, since all queued requests depend on it.
                logger.exception("a batch of %s failed", self._name)
            self._report()
            if turns is not None and turns <= 0:
                with self._lock:
                    self._has_leader = False
                self.run_in_background()
                return

    def _form(self) -> tuple[list[Piece], list[tuple[QueuedRequest, Exception]]]:
        """Takes the next batch from the queue: the first request and the following ones that may be batched with it.

        Returns its pieces, and the refused requests with their errors. A request larger than a batch contributes the
        rows of one batch and is queued again after the others of its priority, so that it doesn't block them.
        """
        pieces: list[Piece] = []
        refused: list[tuple[QueuedRequest, Exception]] = []
        kept: list[QueuedRequest] = []
        room = self.max_batch_rows
        key: object = None
        now = time.monotonic()
        unfinished: QueuedRequest | None = None
        latest = math.inf
        while self._queue and room > 0:
            request = self._queue.popleft()
            # `queue_deadline` doesn't apply to a request that has been computed in part.
            refusal = self._refusal(request, request.queue_deadline if request.started is None else None, now)
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
                # It runs whole in the next batch. Smaller requests after it must not overtake it.
                kept.append(request)
                break
            elif (
                latest < math.inf
                and now + HEADROOM * self._times.expected(self.max_batch_rows - room + request.rows_left) > latest
            ):
                # The batch would last until after the deadline of a request in it.
                kept.append(request)
                break
            if request.started is None:
                request.started = now
                self._virtual_time = max(self._virtual_time, request.virtual_start)
                self._waits.append(now - request.arrived)
            piece = request.take(room)
            self._queued_rows -= piece.rows
            pieces.append(piece)
            room -= piece.rows
            if request.deadline is not None:
                end = now + HEADROOM * self._times.expected(self.max_batch_rows - room)
                # One that is late in any case delays no others.
                latest = min(latest, request.deadline) if end <= request.deadline else latest
            if request.rows_left:
                unfinished = request
            if not request.joinable:
                break
        self._queue.extendleft(reversed(kept))
        if unfinished is not None:
            same = (other.virtual_start for other in self._queue if other.priority == unfinished.priority)
            unfinished.virtual_start = max(same, default=unfinished.virtual_start)
            self._queue.insert(self._find(unfinished)[0], unfinished)
        return pieces, refused

    def _drop_expired(self, group: CoalescedGroup) -> bool:
        """Refuses the requests of a group that needn't be computed any more. Returns whether any are left."""
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

    def _refusal(self, request: PendingRequest, queue_deadline: float | None, now: float) -> Exception | None:
        """Returns the error of a request that needn't be computed any more; None if it is to be computed."""
        if request.answered:
            return CallCancelledError("the client cancelled the call")
        if request.deadline is not None and request.deadline <= now:
            return DeadlinePassedError("the deadline passed while the request was queued")
        if queue_deadline is not None and queue_deadline <= now:
            return BusyError("the request was queued longer than its max_queue_ms", retry_after=self._wait_seconds())
        return None

    def _run(self, group: Group, *, report_first: bool) -> None:
        """Runs a batch and answers its requests. With `report_first` the observer is called before the replies."""
        try:
            results = self._compute(group)
        except (InvalidRequestError, TooLargeError, NotKeptError) as error:
            if group.size > 1:
                # The content of one request is invalid, or all together need too much memory; others must not fail.
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
        taken = time.monotonic()
        began = 0.0
        rows, requests = group.rows, group.size
        try:
            arrays = group.arrays()
            began, busy = time.monotonic(), time.thread_time()
            results = self._execute(group.outputs, arrays)
            if group.joinable:
                _check_rows(results, rows)
        except Exception as error:
            ended = time.monotonic()
            _note(group, taken, began or ended, ended, type(error).__name__)
            raise
        seconds = time.monotonic() - began
        # Thread time, without the time spent waiting for other threads. The first batch often takes much longer than
        # the rest, so its time is soon outweighed.
        busy = time.thread_time() - busy
        size = min(rows.bit_length(), len(self._thread_seconds) - 1)
        self._thread_seconds[size] = min(busy, (self._thread_seconds[size] + busy) / 2)
        self._last = began + seconds, seconds, requests + len(self._queue)
        self._ran.append((rows, requests, seconds))
        _note(group, taken, began, began + seconds)
        return results

    def _report(self) -> None:
        """Counts waiting times and batches since the last report. Called by the leader only."""
        if self._waits:
            waits, self._waits = self._waits, []
            self._observer.requests_waited(waits)
        if self._ran:
            ran, self._ran = self._ran, []
            for rows, requests, seconds in ran:
                self._times.add(rows, seconds)
                self._observer.batch_ran(rows, requests, seconds)


def _note(group: Group, taken: float, began: float, ended: float, error: str = "") -> None:
    """Adds a batch to the traces of its requests."""
    traces = group.traces()
    for trace in traces:
        trace.computed(taken, began, ended, group.rows, traces, error)


def _check_rows(results: Arrays, rows: int) -> None:
    """Raises RuntimeError if an output doesn't have `rows` rows: a reply must never contain another request's rows."""
    for name, array in results.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RuntimeError(f"output '{name}' has shape {array.shape} for a batch of {rows} rows")
