"""When a batch leaves, who waits, who is refused. Knows neither gRPC nor torch.

A lane is the queue before one model version. There is no idle wait: what arrived while the last batch ran is the next
one. Rows are counted, not requests.

Batches run one after another, each in the thread of whoever leads: a thread that brought requests and found nobody
leading, as waking another one costs more than a small model does; or the lane's own.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    DeadlinePassedError,
    InvalidRequestError,
    UnavailableError,
)
from layerserve_server.inference.queue import Arrays, Piece, QueuedRequest, joined

#: Batches that a thread runs for others before it goes on with its own work.
MAX_TURNS = 16

logger = logging.getLogger(__name__)

#: A model is quick while its batches take less than this, in seconds of a thread's own time: then a burst of calls is
#: best computed where it was taken, although no further call is taken meanwhile.
QUICK_SECONDS = 0.002


#: Part of a batch's time that the next one may be held up for callers who have just got their answers; the least and
#: the most that it may be, in seconds.
GATHER_PART, MIN_GATHER_SECONDS, MAX_GATHER_SECONDS = 0.05, 0.0005, 0.01


class Executor(Protocol):
    """Runs one batch. Raises InvalidRequestError where the content of an input is at fault."""

    def __call__(self, outputs: tuple[str, ...], arrays: Arrays) -> Arrays:
        """Gives the arrays of `outputs`; of inputs with joined rows, arrays with as many rows."""


class BatchObserver(Protocol):
    """What is told about batches: metrics."""

    def batch_ran(self, rows: int, requests: int, seconds: float) -> None:
        """A batch ran in `seconds`."""

    def requests_waited(self, seconds: Sequence[float]) -> None:
        """The first batches of some requests began so many seconds after they came."""


def _at_once(tell: Callable[[], None]) -> None:
    tell()


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
        #: Whether somebody runs batches, and so looks at the queue again before ceasing to.
        self._led = False
        self._closed = False
        #: Rows that a client which never rested had been served by now, and those after which a client's next is due.
        self._clock = 0.0
        self._turns: dict[object, float] = {}
        self._thread: threading.Thread | None = None
        self._seconds_per_row = 0.0
        #: When the last batch ended, the seconds that it took, and its requests with those that waited then.
        self._last = (0.0, 0.0, 0)
        #: Whether the lane's thread waits for more requests, with some there or none.
        self._gathering = False
        #: What the observer is told when whoever leads ceases to.
        self._untold: list[Callable[[], None]] = []
        #: What batches took of a thread's own time, by the bits of their number of rows; infinite where not known.
        self._took = [math.inf] * (max_batch_rows.bit_length() + 1)

    def put(self, pending: QueuedRequest) -> None:
        """Puts a request into the queue; one of the methods `run...` must follow.

        Raises BusyError if the queue is full. A request that is larger than the whole queue waits in an empty one.
        """
        with self._lock:
            if self._closed:
                raise UnavailableError(f"{self._name} is being unloaded")
            if self._queued_rows and self._queued_rows + pending.rows > self._max_queue_rows:
                raise BusyError(
                    f"the queue of {self._name} is full: {self._queued_rows} rows wait, {pending.rows} more would pass "
                    f"the limit of {self._max_queue_rows}",
                    retry_after=self._wait_seconds(),
                )
            self._give_turn(pending)
            self._insert(pending)
            self._queued_rows += pending.rows
            if self._gathering:
                self._wake.notify()

    def submit(self, pending: QueuedRequest) -> None:
        """Puts a request into the queue and returns; its batch runs in the lane's own thread, or that of others.

        Raises BusyError if the queue is full.
        """
        self.put(pending)
        self.run_elsewhere()

    def lead(self, rows: int) -> bool:
        """Takes the lead if the model is quick with so many rows, nobody has it and nothing waits. `cease` must follow.

        So requests that came together, and are alike, can be run without a queue.
        """
        if self._expected(rows) >= QUICK_SECONDS:
            return False
        with self._lock:
            if self._led or self._queue or self._closed:
                return False
            self._led = True
        return True

    def run_now(self, outputs: tuple[str, ...], arrays: Arrays, rows: int, waited: Sequence[float]) -> Arrays:
        """Runs one batch of joinable requests for whoever leads; each waited so many seconds for it.

        Raises what the executor raises. The observer is told when the lead ceases: after the answers, which wait for it
        otherwise.
        """
        self._untold.append(partial(self._observer.requests_waited, waited))
        return self._execute_timed(outputs, arrays, rows, len(waited), True, tell=self._untold.append)

    def cease(self) -> None:
        """Gives the lead back once nothing waits."""
        untold, self._untold = self._untold, []
        for tell in untold:
            tell()
        self._lead()

    def run(self) -> None:
        """Runs batches in this thread, unless somebody does: until nothing waits, or the lane's thread takes over."""
        with self._lock:
            if self._led or not self._queue:
                return
            self._led = True
        self._lead()

    def run_if_quick(self) -> None:
        """As `run`, if the model is quick; else the lane's own thread runs what waits."""
        if self._expected(self._queued_rows) < QUICK_SECONDS:
            self.run()
        else:
            self.run_elsewhere()

    def run_elsewhere(self) -> None:
        """Lets the lane's own thread run what waits, unless somebody does; returns at once."""
        with self._wake:
            if self._led or self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=f"lane {self._name}", daemon=True)
                self._thread.start()
            self._wake.notify()

    def close(self) -> None:
        """Ends the lane after the batch that runs. Requests that still wait get UnavailableError."""
        with self._wake:
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._queued_rows = 0
            self._wake.notify()
        for pending in left:
            pending.fail(UnavailableError(f"{self._name} is being unloaded"))

    @property
    def queued_rows(self) -> int:
        """Rows that wait now."""
        return self._queued_rows

    def _give_turn(self, pending: QueuedRequest) -> None:
        """Start-time fair queueing: a client's requests are due as if each client were served the same rows at a time.

        So one that sends thousands keeps nobody else waiting for more than its share (Goyal, Vin and Cheng, 1996).
        """
        if not self._queue:
            self._clock, self._turns = 0.0, {}
            return
        client = pending.client()
        pending.turn = max(self._clock, self._turns.get(client, 0.0))
        self._turns[client] = pending.turn + pending.rows

    def _insert(self, pending: QueuedRequest) -> None:
        """Behind all that have more priority, or as much and an earlier turn."""
        place = len(self._queue)
        while place:
            before = self._queue[place - 1]
            if before.priority > pending.priority or (
                before.priority == pending.priority and before.turn <= pending.turn
            ):
                break
            place -= 1
        self._queue.insert(place, pending)

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
        idle lanes nor lone callers ever wait.
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

        After so many turns the lane's own thread takes over: one that brought a request has other things to do.
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
                batch, dropped = self._form()
            for pending, error in dropped:
                pending.fail(error)
            if not batch:
                continue
            try:
                self._run(batch)
            except Exception:
                # A defect outside of the model. Whoever leads must go on, or nobody will ever be answered.
                logger.exception("a batch of %s", self._name)
            if turns is not None and turns <= 0:
                with self._lock:
                    self._led = False
                self.run_elsewhere()
                return

    def _form(self) -> tuple[list[Piece], list[tuple[QueuedRequest, Exception]]]:
        """Takes the next batch from the queue: the oldest request, and those behind it that may run with it, in order.

        A request larger than a batch gives one batch's rows and goes behind the others of its priority, so that it
        shares the lane instead of holding it.
        """
        batch: list[Piece] = []
        dropped: list[tuple[QueuedRequest, Exception]] = []
        kept: list[QueuedRequest] = []
        room = self.max_batch_rows
        key: object = None
        now = time.monotonic()
        unfinished: QueuedRequest | None = None
        waited: list[float] = []
        while self._queue and room > 0:
            pending = self._queue.popleft()
            refusal = self._refusal(pending, now)
            if refusal is not None:
                self._queued_rows -= pending.rows_left
                dropped.append((pending, refusal))
                continue
            if key is None:
                key = pending.key
            elif not pending.joinable or pending.key != key:
                kept.append(pending)
                continue
            elif pending.rows_left > room and pending.rows <= self.max_batch_rows:
                # It runs whole in the next batch. A smaller one behind it may not take its turn.
                kept.append(pending)
                break
            if pending.started is None:
                pending.started = now
                self._clock = max(self._clock, pending.turn)
                waited.append(now - pending.arrived)
            piece = pending.take(room)
            self._queued_rows -= piece.rows
            batch.append(piece)
            room -= piece.rows
            if pending.rows_left:
                unfinished = pending
            if not pending.joinable:
                break
        self._queue.extendleft(reversed(kept))
        if unfinished is not None:
            alike = (other.turn for other in self._queue if other.priority == unfinished.priority)
            unfinished.turn = max(alike, default=unfinished.turn)
            self._insert(unfinished)
        if waited:
            self._observer.requests_waited(waited)
        return batch, dropped

    def _refusal(self, pending: QueuedRequest, now: float) -> Exception | None:
        """Why a request that waited isn't computed any more. None: it is."""
        if pending.ended:
            return CallCancelledError("the caller has gone")
        if pending.deadline is not None and pending.deadline <= now:
            return DeadlinePassedError("the deadline passed while the request waited")
        if pending.give_up is not None and pending.give_up <= now and pending.started is None:
            return BusyError("the request waited for longer than it wanted to", retry_after=self._wait_seconds())
        return None

    def _run(self, batch: Sequence[Piece]) -> None:
        rows = sum(piece.rows for piece in batch)
        owner = batch[0].owner
        try:
            parts = [piece.arrays for piece in batch]
            arrays = owner.padding.join(parts) if owner.padding and len(parts) > 1 else joined(parts)
            results = self._execute_timed(owner.outputs, arrays, rows, len(batch), owner.joinable)
        except InvalidRequestError as error:
            if len(batch) > 1:
                # One caller's content is at fault, and the others must not pay for it.
                for piece in batch:
                    self._run([piece])
            else:
                owner.fail(error)
            return
        except Exception as error:
            for piece in batch:
                piece.owner.fail(error)
            return
        self._hand_out(batch, results)

    def _execute_timed(
        self,
        outputs: tuple[str, ...],
        arrays: Arrays,
        rows: int,
        requests: int,
        joinable: bool,
        *,
        tell: Callable[[Callable[[], None]], None] = _at_once,
    ) -> Arrays:
        began, busy = time.monotonic(), time.thread_time()
        results = self._execute(outputs, arrays)
        if joinable:
            _check_rows(results, rows)
        seconds = time.monotonic() - began
        self._seconds_per_row = seconds / max(rows, 1)
        # By the thread's own time, as waiting for other threads makes no model slow. The first batch is often much
        # longer than the rest, and must not count for long.
        busy = time.thread_time() - busy
        size = min(rows.bit_length(), len(self._took) - 1)
        self._took[size] = min(busy, (self._took[size] + busy) / 2)
        self._last = began + seconds, seconds, requests + len(self._queue)
        tell(partial(self._observer.batch_ran, rows, requests, seconds))
        return results

    def _hand_out(self, batch: Sequence[Piece], results: Arrays) -> None:
        if len(batch) == 1:
            batch[0].owner.add_part(results)
            return
        start = 0
        for piece in batch:
            stop = start + piece.rows
            part: Arrays = {name: array[start:stop] for name, array in results.items()}
            padding = piece.owner.padding
            piece.owner.add_part(padding.cut(part, piece.arrays) if padding else part)
            start = stop


def _check_rows(results: Arrays, rows: int) -> None:
    """Guards the promise that no reply holds another's rows, whatever the executor does."""
    for name, array in results.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise RuntimeError(f"output '{name}' has shape {array.shape} for a batch of {rows} rows")
