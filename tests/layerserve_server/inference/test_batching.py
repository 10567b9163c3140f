"""Batching: rows belong to their caller, the queue is bounded, nothing waits without need."""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import time
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest
from clocks import replace_time
from layerserve_server.errors import (
    BusyError,
    CallCancelledError,
    DeadlinePassedError,
    InvalidRequestError,
    TooLargeError,
    UnavailableError,
)
from layerserve_server.inference import batching
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.queue import QueuedRequest


class Observer:
    def __init__(self):
        self.batches = []
        self.waits = []

    def batch_ran(self, rows, requests, seconds):
        assert 0 <= seconds < 60
        self.batches.append((rows, requests))

    def requests_waited(self, seconds):
        self.waits += seconds


class Doubler:
    """Doubles `x`. Runs wait for `gate`; with `running` a test knows that one has begun."""

    def __init__(self):
        self.gate = threading.Event()
        self.running = threading.Semaphore(0)
        self.seen = []

    def __call__(self, outputs, arrays):
        self.running.release()
        assert self.gate.wait(30)
        x = arrays["x"]
        self.seen.append(x[:, 0].tolist() if x.ndim > 1 else x.tolist())
        if (x < 0).any():
            raise InvalidRequestError(f"got {x.min():g}")
        return dict.fromkeys(outputs, x * 2)


@pytest.fixture
def make():
    queues = []

    def make_queue(execute, max_batch_rows=8, max_queue_rows=1000):
        observer = Observer()
        queue = BatchQueue(
            "m", execute, max_batch_rows=max_batch_rows, max_queue_rows=max_queue_rows, observer=observer
        )
        queues.append(queue)
        return queue, observer

    yield make_queue
    for queue in queues:
        queue.close()


def ask(queue, values, *, outputs=("y",), joinable=True, deadline=None, width=1, here=False):
    """Submits rows that begin with `values`; gives the request and a future of its results.

    They run in the queue's thread, or `here`.
    """
    future: Future = Future()

    def done(pending):
        if pending.error is not None:
            future.set_exception(pending.error)
        else:
            future.set_result(pending.results)

    x = np.repeat(np.asarray(values, np.float64)[:, None], width, axis=1)
    pending = QueuedRequest(outputs, {"x": x}, len(values), joinable, done, deadline)
    if not here:
        queue.submit(pending)
    else:
        queue.put(pending)
        queue.run()
    return pending, future


def column(future, name="y"):
    return future.result(30)[name][:, 0].tolist()


def test_limits_change_while_requests_wait(make):
    doubler, queue, observer, first = held(make, max_batch_rows=8, max_queue_rows=8)
    waiting = [ask(queue, [number])[1] for number in range(4)]
    queue.set_limits(2, 5)
    fifth = ask(queue, [4])[1]
    with pytest.raises(BusyError, match="limit of 5"):
        ask(queue, [5])
    doubler.gate.set()
    assert [column(future) for future in (first, *waiting, fifth)] == [[2], [0], [2], [4], [6], [8]]
    assert [rows for rows, _ in observer.batches] == [1, 2, 2, 1]
    # Larger batches than at first have their times, too.
    queue.set_limits(1000, 5000)
    assert column(ask(queue, list(range(900)))[1])[-1] == 1798
    assert observer.batches[-1] == (900, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's on Linux only")
def test_a_nice_model_is_computed_in_its_own_thread_with_its_niceness():
    seen = []

    def execute(outputs, arrays):
        thread = threading.get_native_id()
        seen.append((threading.current_thread().name, os.getpriority(os.PRIO_PROCESS, thread)))
        return dict.fromkeys(outputs, arrays["x"])

    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    for nice, own in ((0, False), (19, True)):
        queue = BatchQueue("m", execute, max_batch_rows=8, max_queue_rows=8, observer=Observer(), nice=nice)
        queue._thread_seconds = [0.0] * 5  # it is quick
        future: Future = Future()
        queue.put(
            QueuedRequest(
                ("y",), {"x": np.ones((1, 1))}, 1, True, lambda done, future=future: future.set_result(done.results)
            )
        )
        queue.run_if_quick()
        future.result(30)
        group = SimpleNamespace(request_rows=1, rows=1, parts=lambda rows: [])
        assert queue.run_together(group) is not own
        queue.close()
        name, niceness = seen[-1]
        assert (name == "batches of m", niceness) == (own, nice if own else before)
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before


def held(make, **limits):
    """A queue whose first batch is under way, so that what is asked next waits."""
    doubler = Doubler()
    queue, observer = make(doubler, **limits)
    _, first = ask(queue, [1])
    assert doubler.running.acquire(timeout=30)
    return doubler, queue, observer, first


def test_what_arrives_while_a_batch_runs_is_the_next_one(make):
    doubler, queue, observer, first = held(make)
    futures = [ask(queue, [10 * i, 10 * i + 1])[1] for i in range(1, 4)]
    doubler.gate.set()
    assert [column(future) for future in futures] == [[20, 22], [40, 42], [60, 62]]
    assert column(first) == [2]
    assert observer.batches == [(1, 1), (6, 3)]


def waits_of(queue):
    """How long the queue's thread waited for company, each time; None is for the next request, however long."""
    found, wait = [], queue._wake.wait
    queue._wake.wait = lambda timeout=None: found.append(timeout) or wait(timeout)
    return found


def test_an_idle_queue_answers_without_waiting_for_company(make):
    doubler = Doubler()
    doubler.gate.set()
    queue, _ = make(doubler)
    waits = waits_of(queue)
    assert column(ask(queue, [1])[1]) == [2]
    assert column(ask(queue, [2])[1]) == [4]
    assert set(waits) <= {None}


@pytest.mark.parametrize(
    ("seconds", "expected", "longest"),
    [
        (0.2, 3, 0.01),
        (0.1, 3, 0.005),
        # No more than that, however long the batch took; not for one caller; not where it isn't worth a wait.
        (10.0, 3, 0.01),
        (0.2, 1, None),
        (0.009, 3, None),
    ],
)
def test_a_queue_waits_for_company_for_a_twentieth_of_its_last_batch(make, monkeypatch, seconds, expected, longest):
    queue, _ = make(lambda outputs, arrays: {"y": arrays["x"]})
    replace_time(monkeypatch, batching, monotonic=lambda: 1000.0)
    queue._last = (1000.0, seconds, expected)
    waits = []
    queue._wake.wait = lambda timeout=None: waits.append(timeout) or queue._queue.extend([None] * expected)
    with queue._lock:
        queue._gather()
        queue._queue.clear()
    assert waits == ([] if longest is None else [pytest.approx(longest)])
    assert not queue._gathering


def test_a_moment_that_has_passed_is_not_waited_for(make, monkeypatch):
    queue, _ = make(lambda outputs, arrays: {"y": arrays["x"]})
    queue._last = (time.monotonic() - 1.0, 0.2, 3)
    waits = waits_of(queue)
    with queue._lock:
        queue._gather()
    assert waits == []


class Clock:
    """Time that passes only while batches run."""

    def __init__(self, monkeypatch):
        self.now, self.busy = 1000.0, 10.0
        monkeypatch.setattr(batching, "time", self)

    def monotonic(self):
        return self.now

    def thread_time(self):
        return self.busy


def test_a_queue_learns_how_long_batches_take(make, monkeypatch):
    clock = Clock(monkeypatch)
    takes = iter([8.0, 4.0, 16.0, 2.0])

    def execute(outputs, arrays):
        took = next(takes)
        clock.now, clock.busy = clock.now + 2 * took, clock.busy + took
        return {"y": arrays["x"]}

    queue, _ = make(execute, max_batch_rows=8)
    assert queue._expected(1) == math.inf
    expected = []
    for rows in (1, 1, 1, 4):
        queue.put(QueuedRequest(("y",), {"x": np.ones((rows, 1))}, rows, True, lambda pending: None))
        queue.run()
        expected.append([queue._expected(count) for count in (1, 2, 4, 8)])
    assert expected == [
        [8, 16, 32, 64],
        # What is quicker than before counts at once, what is slower by half.
        [4, 8, 16, 32],
        [10, 20, 40, 80],
        # Of what a larger one took a smaller one may take all, but it is known here.
        [10, 20, 2, 4],
    ]
    assert queue._last == (clock.now, 4.0, 1)
    assert queue._times.expected(4) == 4.0


@pytest.mark.parametrize(
    ("rows", "each", "seconds"), [(0, 1.0, 0.01), (50, 0.1, 5.0), (50, 1.0, 10.0), (3, 1e-6, 0.01)]
)
def test_who_is_refused_may_come_back_when_the_queue_has_gone(make, rows, each, seconds):
    queue, _ = make(lambda outputs, arrays: {"y": arrays["x"]})
    queue._queued_rows = rows
    queue._times.add(rows, rows * each)
    assert queue._wait_seconds() == pytest.approx(seconds)
    queue._queued_rows = 0


def in_seconds(seconds):
    return time.monotonic() + seconds


def test_a_request_whose_deadline_would_pass_in_the_queue_is_refused_at_once(make):
    """It would take the time of others for nothing: under overload, all requests would be computed too late."""
    doubler, queue, _, first = held(make)
    queue._times.add(4, 4.0)  # a second a row
    queue._busy_until = in_seconds(2)
    _, waiting = ask(queue, [1, 2, 3])
    with pytest.raises(BusyError, match="has 3 rows before the request, whose deadline would pass") as caught:
        ask(queue, [4], deadline=in_seconds(1.25 * 6 - 0.5))
    assert caught.value.retry_after == pytest.approx(3.0)
    assert queue.queued_rows == 3
    _, accepted = ask(queue, [4], deadline=in_seconds(1.25 * 6 + 5))
    _, patient = ask(queue, [5])
    doubler.gate.set()
    for future, values in ((first, [2]), (waiting, [2, 4, 6]), (accepted, [8]), (patient, [10])):
        assert column(future) == values


def test_only_the_rows_before_a_request_count(make):
    """Those of a lower priority, and of a client that has sent thousands, run after it."""
    doubler, queue, _, _ = held(make)
    queue._times.add(4, 4.0)
    futures = []

    def put(client, rows, priority, deadline):
        future = Future()
        request = QueuedRequest(
            *(("y",), {"x": np.ones((rows, 1))}, rows, True, lambda pending: future.set_result(pending.error)),
            deadline=deadline,
            priority=priority,
            client=lambda: client,
        )
        queue.submit(request)
        futures.append(future)

    for _ in range(5):
        put("greedy", 4, 0, None)
    put("modest", 1, 0, in_seconds(15))
    with pytest.raises(BusyError, match="has 21 rows before"):
        put("greedy", 1, 0, in_seconds(15))
    put("greedy", 1, 1, in_seconds(15))
    doubler.gate.set()
    assert [future.result(30) for future in futures] == [None] * 7


def test_an_idle_queue_accepts_every_request_however_long_the_last_one_took(make):
    doubler = Doubler()
    doubler.gate.set()
    queue, _ = make(doubler)
    queue._times.add(1, 1000.0)
    for _ in range(3):
        _, future = ask(queue, [1], deadline=in_seconds(30))
        assert column(future) == [2]
    assert queue._times.expected(1) < 1000.0


def test_a_batch_takes_no_longer_than_until_the_deadlines_of_its_requests(make):
    doubler, queue, observer, first = held(make)
    # The estimate becomes known while they wait.
    futures = [ask(queue, [value], deadline=in_seconds(60)) for value in range(7)]
    queue._times.add(1, 28.0)  # and 14 after the first batch, which takes no time
    doubler.gate.set()
    assert column(first) == [2]
    assert [column(future) for _, future in futures] == [[2 * value] for value in range(7)]
    rows = [rows for rows, _ in observer.batches]
    assert rows[:2] == [1, 3], "a fourth row would have taken 1.25 times 56 s"
    assert sum(rows) == 8


def test_a_deadline_that_is_missed_in_any_case_makes_no_batch_smaller(make):
    doubler, queue, observer, _ = held(make)
    futures = [ask(queue, [value], deadline=in_seconds(60)) for value in range(4)]
    queue._times.add(1, 100.0)
    doubler.gate.set()
    for _, future in futures:
        column(future)
    assert observer.batches == [(1, 1), (4, 4)]


def test_a_request_larger_than_a_batch_is_split_and_rejoined_and_lets_others_in_between(make):
    doubler, queue, observer, _ = held(make, max_batch_rows=4)
    _, large = ask(queue, range(100, 110))
    _, small = ask(queue, [5])
    doubler.gate.set()
    assert column(large) == [2 * i for i in range(100, 110)]
    assert column(small) == [10]
    assert observer.batches == [(1, 1), (4, 1), (4, 2), (3, 1)]
    assert doubler.seen[2][0] == 5


def test_first_come_first_served_within_a_batch(make):
    doubler, queue, _, _ = held(make, max_batch_rows=4)
    futures = [ask(queue, values)[1] for values in ([1, 2, 3], [4, 5], [6])]
    doubler.gate.set()
    for future in futures:
        future.result(30)
    assert doubler.seen[1:] == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("change", [{"outputs": ("z",)}, {"width": 3}])
def test_what_differs_in_outputs_or_shape_runs_apart(make, change):
    doubler, queue, observer, _ = held(make)
    _, one = ask(queue, [1, 2])
    _, other = ask(queue, [3], **change)
    _, third = ask(queue, [4])
    doubler.gate.set()
    assert column(one) == [2, 4]
    assert column(third) == [8]
    assert column(other, change.get("outputs", ("y",))[0]) == [6]
    assert observer.batches[1:] == [(3, 2), (1, 1)]


def test_a_model_without_a_row_axis_runs_alone(make):
    doubler, queue, observer, _ = held(make, max_batch_rows=2)
    futures = [ask(queue, [1, 2, 3], joinable=False)[1] for _ in range(2)]
    doubler.gate.set()
    assert [column(future) for future in futures] == [[2, 4, 6]] * 2
    assert observer.batches[1:] == [(3, 1), (3, 1)]


def test_only_the_caller_whose_content_is_wrong_fails(make):
    doubler, queue, _, _ = held(make)
    _, good = ask(queue, [1])
    _, bad = ask(queue, [-7])
    _, also_good = ask(queue, [3])
    doubler.gate.set()
    assert column(good) == [2]
    assert column(also_good) == [6]
    with pytest.raises(InvalidRequestError, match="got -7"):
        bad.result(30)


def test_requests_that_together_need_too_much_memory_run_one_by_one(make):
    doubler = Doubler()

    def execute(outputs, arrays):
        results = doubler(outputs, arrays)
        if len(arrays["x"]) > 1:
            raise TooLargeError("layer 'up': needs more memory than there is")
        return results

    queue, _ = make(execute)
    ask(queue, [0])
    assert doubler.running.acquire(timeout=30)
    small = [ask(queue, [number])[1] for number in (1, 2, 3)]
    _, large = ask(queue, [4, 5])
    doubler.gate.set()
    assert [column(result) for result in small] == [[2], [4], [6]]
    with pytest.raises(TooLargeError, match="layer 'up'"):
        large.result(30)
    # Together, then each alone.
    assert doubler.seen == [[0], [1, 2, 3, 4, 5], [1], [2], [3], [4, 5]]


def test_a_defect_of_the_executor_fails_the_batch_and_not_the_queue(make):
    calls = []

    def execute(outputs, arrays):
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return {"y": arrays["x"]}

    queue, _ = make(execute)
    with pytest.raises(ZeroDivisionError):
        ask(queue, [1])[1].result(30)
    assert column(ask(queue, [1])[1]) == [1]


@pytest.mark.parametrize("wrong", [np.zeros((3, 1)), np.zeros(())])
def test_results_with_other_rows_are_never_handed_out(make, wrong):
    queue, _ = make(lambda outputs, arrays: {"y": wrong})
    with pytest.raises(RuntimeError, match="output 'y' has shape"):
        ask(queue, [1, 2])[1].result(30)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back(make):
    doubler, queue, _, _ = held(make, max_queue_rows=4)
    ask(queue, [1, 2, 3])
    with pytest.raises(BusyError, match="it has 3 rows, 2 more would exceed the limit of 4") as caught:
        ask(queue, [4, 5])
    assert 0 < caught.value.retry_after <= 10
    _, last = ask(queue, [6])
    doubler.gate.set()
    assert column(last) == [12]


def test_a_request_larger_than_the_queue_waits_in_an_empty_one(make):
    doubler, queue, _, _ = held(make, max_queue_rows=4)
    _, large = ask(queue, range(20))
    doubler.gate.set()
    assert column(large) == [2 * i for i in range(20)]


def test_who_has_gone_or_is_too_late_is_not_computed(make):
    doubler, queue, _, _ = held(make)
    gone, gone_future = ask(queue, [10])
    _, late_future = ask(queue, [20], deadline=time.monotonic() - 1)
    _, here = ask(queue, [30])
    _, in_time = ask(queue, [40], deadline=time.monotonic() + 100)
    gone.cancel()
    doubler.gate.set()
    assert column(here) == [60]
    assert column(in_time) == [80]
    with pytest.raises(CallCancelledError):
        gone_future.result(30)
    with pytest.raises(DeadlinePassedError):
        late_future.result(30)
    assert doubler.seen == [[1], [30, 40]]
    assert queue.queued_rows == 0


def test_a_closed_queue_answers_everyone_and_takes_nobody(make):
    doubler, queue, _, _ = held(make)
    _, waiting = ask(queue, [1])
    queue.close()
    with pytest.raises(UnavailableError):
        waiting.result(30)
    with pytest.raises(UnavailableError):
        ask(queue, [1])
    doubler.gate.set()


def test_each_request_knows_when_it_came_and_when_its_batch_began(make):
    doubler, queue, _, _ = held(make)
    pending, future = ask(queue, [1])
    doubler.gate.set()
    future.result(30)
    assert pending.arrived <= pending.started <= time.monotonic()


def wait_here(queue, values, run, **fields):
    """Puts a request into the queue and tells it to run; gives a future of its results, and the request."""
    future: Future = Future()

    def done(pending):
        future.set_exception(pending.error) if pending.error else future.set_result(pending.results)

    x = np.asarray(values, np.float64)[:, None]
    pending = QueuedRequest(("y",), {"x": x}, len(values), True, done, **fields)
    queue.put(pending)
    run()
    return future


def test_an_idle_queue_runs_where_it_is_told_to(make):
    threads = []

    def execute(outputs, arrays):
        threads.append(threading.current_thread())
        return {"y": arrays["x"]}

    queue, _ = make(execute)
    assert column(wait_here(queue, [1], queue.run)) == [1]
    assert threads == [threading.current_thread()]


def test_only_a_quick_model_runs_where_a_burst_was_taken(make):
    threads = []

    def execute(outputs, arrays):
        threads.append(threading.current_thread())
        if arrays["x"][0, 0] == 2:
            busy = time.thread_time() + 0.02
            while time.thread_time() < busy:
                pass
        return {"y": arrays["x"]}

    queue, _ = make(execute)
    for value in (1, 1, 2, 1):
        assert column(wait_here(queue, [value], queue.run_if_quick)) == [value]
        while queue._has_leader:  # the thread that led hasn't stopped leading yet
            time.sleep(0.001)
    here = threading.current_thread()
    # The first time nothing is known, and after a long batch the model isn't quick.
    assert [thread is here for thread in threads] == [False, True, True, False]


def test_nobody_has_to_run_batches_for_others_for_ever(make):
    """Each batch brings the next request, as a busy stream does."""
    threads = []

    def execute(outputs, arrays):
        threads.append(threading.current_thread())
        if len(threads) < 3 * batching.MAX_TURNS:
            queue.submit(QueuedRequest(("y",), {"x": np.ones((1, 1))}, 1, True, lambda pending: None))
        return {"y": arrays["x"]}

    queue, observer = make(execute)
    assert column(wait_here(queue, [1], queue.run)) == [1]
    here = threading.current_thread()
    while len(observer.batches) < 3 * batching.MAX_TURNS:
        time.sleep(0.001)
    assert threads.count(here) == batching.MAX_TURNS
    assert threads[-1] is not here


def test_who_has_priority_goes_first_and_equals_in_the_order_they_came(make):
    doubler, queue, _, _ = held(make, max_batch_rows=1)
    futures = [
        wait_here(queue, [value], queue.run, priority=priority)
        for value, priority in ((2, 0), (3, -1), (4, 5), (5, 0), (6, 5))
    ]
    doubler.gate.set()
    for future in futures:
        future.result(30)
    assert [row for batch in doubler.seen[1:] for row in batch] == [4, 6, 2, 5, 3]


def test_a_client_that_sends_much_keeps_nobody_else_waiting(make):
    doubler, queue, _, _ = held(make, max_batch_rows=1)
    futures = [wait_here(queue, [value], queue.run, client=lambda: "much") for value in range(10, 16)]
    futures += [wait_here(queue, [value], queue.run, client=lambda: "little") for value in (20, 21)]
    futures.append(wait_here(queue, [30], queue.run, client=lambda: "much", priority=1))
    doubler.gate.set()
    for future in futures:
        future.result(30)
    # The first one came when nothing waited, and so counts for nobody.
    assert [row for batch in doubler.seen[1:] for row in batch] == [30, 10, 11, 20, 12, 21, 13, 14, 15]


def test_clients_share_a_queue_by_rows(make):
    doubler, queue, _, _ = held(make, max_batch_rows=2)
    wait_here(queue, [9], queue.run)
    futures = [wait_here(queue, [value, value], queue.run, client=lambda: "large") for value in range(10, 14)]
    futures += [wait_here(queue, [value], queue.run, client=lambda: "small") for value in range(20, 28)]
    doubler.gate.set()
    for future in futures:
        future.result(30)
    order = [row for batch in doubler.seen[2:] for row in batch]
    # After any number of rows both have had about as many.
    for count in range(2, len(order), 2):
        large = sum(row < 20 for row in order[:count])
        assert abs(2 * large - count) <= 4, order


@pytest.mark.parametrize("rounds", [1, 3])
def test_what_a_client_had_is_forgotten_when_the_queue_was_empty(make, rounds):
    """Else who has sent much in a year would wait behind all others for as long."""
    doubler, queue, _, _ = held(make, max_batch_rows=1)

    def ask_in_order(asked):
        """Has these values and clients wait while a batch runs; gives the order in which they are computed."""
        futures = [wait_here(queue, [value], queue.run, client=lambda who=who: who) for value, who in asked]
        doubler.gate.set()
        for future in futures:
            future.result(30)
        return [row for batch in doubler.seen[-len(asked) :] for row in batch]

    for _ in range(rounds):
        ask_in_order([(10, "much")] * 6)
        while doubler.running.acquire(blocking=False):
            pass
        doubler.gate.clear()
        ask(queue, [1])
        assert doubler.running.acquire(timeout=30)
    # The first of them comes when nothing waits, and so counts for no client.
    assert ask_in_order([(20, "much"), (21, "much"), (30, "little"), (31, "little")]) == [20, 21, 30, 31]
    assert queue._virtual_ends.keys() <= {"much", "little"}


def test_what_is_left_of_a_large_request_comes_after_all_that_wait(make):
    doubler, queue, _, _ = held(make, max_batch_rows=2)
    futures = [wait_here(queue, [10, 11, 12, 13, 14, 15], queue.run, client=lambda: "large")]
    futures += [wait_here(queue, [value], queue.run, client=lambda: "small") for value in (20, 21, 22, 23)]
    futures.append(wait_here(queue, [30], queue.run, client=lambda: "later", priority=-1))
    doubler.gate.set()
    for future in futures:
        future.result(30)
    assert doubler.seen[1:] == [[10, 11], [20, 21], [22, 23], [12, 13], [14, 15], [30]]


def test_virtual_ends_are_kept_of_so_many_clients_that_sent_last(make, monkeypatch):
    """Each connection is a client: while a queue is never empty, there may be millions."""
    monkeypatch.setattr(batching, "MAX_CLIENTS", 8)
    doubler, queue, _, _ = held(make, max_batch_rows=1)
    futures = [wait_here(queue, [0], queue.run)]
    for number in range(1, 40):
        futures.append(wait_here(queue, [number], queue.run, client=lambda number=number: number))
        futures.append(wait_here(queue, [100 + number], queue.run, client=lambda: "much"))
        assert len(queue._virtual_ends) <= 8
    doubler.gate.set()
    for future in futures:
        future.result(30)
    order = [row for batch in doubler.seen[2:] for row in batch]
    # Others came between its requests, so that it was never one of those that were dropped.
    assert order == [*range(1, 2), 101, *range(2, 40), *range(102, 140)]


def test_who_waited_for_longer_than_it_wanted_is_refused(make):
    doubler, queue, _, _ = held(make)
    hasty = wait_here(queue, [1], queue.run, queue_deadline=time.monotonic() - 1)
    patient = wait_here(queue, [2], queue.run, queue_deadline=time.monotonic() + 100)
    doubler.gate.set()
    assert column(patient) == [4]
    with pytest.raises(BusyError, match="longer than its max_queue_ms"):
        hasty.result(30)


@pytest.mark.parametrize(
    ("change", "batches", "error"),
    [
        (lambda pending: setattr(pending, "deadline", -math.inf), [4], DeadlinePassedError),
        (lambda pending: pending.cancel(), [4], CallCancelledError),
        # It waits no more, so it goes on: what was computed isn't thrown away.
        (lambda pending: setattr(pending, "queue_deadline", 0.0), [4, 4, 2], type(None)),
    ],
    ids=["too late", "gone", "impatient"],
)
def test_a_request_that_has_begun_ends_between_its_batches_only_if_nobody_wants_it(make, change, batches, error):
    ran, answered = [], []

    def execute(outputs, arrays):
        ran.append(len(arrays["x"]))
        change(pending)
        return {"y": arrays["x"]}

    queue, _ = make(execute, max_batch_rows=4)
    pending = QueuedRequest(("y",), {"x": np.ones((10, 1))}, 10, True, answered.append)
    queue.put(pending)
    queue.run()
    assert (ran, queue.queued_rows, answered) == (batches, 0, [pending])
    assert isinstance(pending.error, error)


def quick_queue(make, **limits):
    """A queue that knows its model to be quick."""
    queue, observer = make(lambda outputs, arrays: {"y": arrays["x"]}, **limits)
    queue._thread_seconds = [0.0] * len(queue._thread_seconds)
    return queue, observer


class Caller:
    """A request that came together with others."""

    def __init__(self, value, *, arrived=None, deadline=None):
        self.value, self.deadline = value, deadline
        self.arrived = time.monotonic() if arrived is None else arrived
        self.answer = None

    @property
    def answered(self):
        return self.answer is not None

    def fail(self, error):
        self.answer = self.answer or error


class Together:
    """Requests that came together, each with as many rows of its value."""

    outputs, joinable = ("y",), True

    def __init__(self, requests, request_rows=1, max_wait=None):
        self.requests, self.request_rows, self.max_wait = requests, request_rows, max_wait

    def traces(self):
        return []

    @property
    def size(self):
        return len(self.requests)

    @property
    def rows(self):
        return self.size * self.request_rows

    def arrays(self):
        return {"x": np.repeat([[caller.value] for caller in self.requests], self.request_rows, axis=0)}

    def deliver(self, results):
        for place, caller in enumerate(self.requests):
            caller.answer = results["y"][place * self.request_rows :][: self.request_rows, 0].tolist()

    def fail(self, error):
        for caller in self.requests:
            caller.fail(error)

    def split(self):
        return [Together([caller], self.request_rows, self.max_wait) for caller in self.requests]

    def parts(self, max_rows):
        most = max_rows // self.request_rows
        starts = range(0, self.size, most)
        return [Together(self.requests[start : start + most], self.request_rows, self.max_wait) for start in starts]

    def drop_answered(self):
        self.requests = [caller for caller in self.requests if not caller.answered]


def runs(queue, rows=1):
    """Whether the queue runs a request of so many rows that came alone, at once."""
    caller = Caller(1.0)
    ran = queue.run_together(Together([caller], rows))
    assert caller.answer == ([1.0] * rows if ran else None)
    return ran


def test_requests_that_came_together_run_at_once_and_are_counted_after_their_answers(make):
    counted = []

    def execute(outputs, arrays):
        # While they run, no others do at once.
        assert not queue.run_together(Together([Caller(9.0)]))
        counted.append(list(observer.batches))
        return {"y": arrays["x"]}

    queue, observer = make(execute)
    queue._thread_seconds = [0.0] * len(queue._thread_seconds)
    now = time.monotonic()
    callers = [Caller(1.0, arrived=now - 0.25), Caller(2.0, arrived=now - 0.5)]
    group = Together(callers)
    deliver = group.deliver
    group.deliver = lambda results: (deliver(results), counted.append(list(observer.batches)))
    group.parts = lambda max_rows: [group]
    assert queue.run_together(group)
    assert [caller.answer for caller in callers] == [[1.0], [2.0]]
    assert counted == [[], []]
    assert observer.batches == [(2, 2)]
    assert observer.waits == pytest.approx([0.25, 0.5], abs=0.1)
    assert not queue._has_leader


def test_as_many_of_those_that_came_together_run_as_fit_into_a_batch(make):
    queue, observer = quick_queue(make, max_batch_rows=8)
    callers = [Caller(float(value)) for value in range(5)]
    assert queue.run_together(Together(callers, 3))
    assert [caller.answer for caller in callers] == [[float(value)] * 3 for value in range(5)]
    assert observer.batches == [(6, 2), (6, 2), (3, 1)]


def test_no_others_run_before_those_who_wait(make):
    queue, _observer = quick_queue(make)
    waiting = QueuedRequest(("y",), {"x": np.ones((1, 1))}, 1, True, lambda pending: None)
    queue.put(waiting)
    assert not runs(queue)
    queue.run()
    assert waiting.answered
    assert runs(queue)


def test_who_came_while_others_ran_is_run_after_them(make):
    futures = []

    def execute(outputs, arrays):
        if not futures:
            futures.append(wait_here(queue, [5], queue.run))
            assert not futures[0].done()
        return {"y": arrays["x"]}

    queue, _observer = make(execute)
    queue._thread_seconds = [0.0] * len(queue._thread_seconds)
    assert runs(queue)
    assert column(futures[0]) == [5]


def test_nothing_runs_at_once_in_a_queue_that_is_closed_or_slow(make):
    queue, _ = quick_queue(make, max_batch_rows=8)
    for rows, quick in ((1, True), (2, True), (3, True), (4, False), (8, False), (16, False)):
        # Twice the rows may take twice as long.
        queue._thread_seconds = [0.0, batching.QUICK_SECONDS / 4, *[math.inf] * (len(queue._thread_seconds) - 2)]
        assert runs(queue, rows) == quick
    queue._thread_seconds = [0.0] * len(queue._thread_seconds)
    assert not runs(queue, 9)  # more than a batch has
    queue.close()
    assert not runs(queue)


def test_results_with_other_rows_are_never_handed_out_to_those_that_came_together(make):
    queue, _ = make(lambda outputs, arrays: {"y": arrays["x"][:1]})
    queue._thread_seconds = [0.0] * len(queue._thread_seconds)
    callers = [Caller(1.0), Caller(2.0)]
    assert queue.run_together(Together(callers))
    assert all(re.match("output 'y' has shape", str(caller.answer)) for caller in callers)
    assert [type(caller.answer) for caller in callers] == [RuntimeError] * 2
    assert not queue._has_leader


def queued(queue, callers, max_wait):
    """Requests in the queue as the callers are; runs them."""
    for caller in callers:

        def done(request, caller=caller):
            caller.answer = request.error or request.results["y"][:, 0].tolist()

        x, latest = np.array([[caller.value]]), None if max_wait is None else caller.arrived + max_wait
        queue.put(
            QueuedRequest(
                ("y",), {"x": x}, 1, True, done, caller.deadline, queue_deadline=latest, arrived=caller.arrived
            )
        )
    queue.run()


def coalesced(queue, callers, max_wait):
    """The same without the queue."""
    assert queue.run_together(Together(callers, max_wait=max_wait))


@pytest.mark.parametrize("run", [queued, coalesced])
def test_who_is_refused_or_at_fault_is_so_with_a_queue_and_without(make, run):
    def execute(outputs, arrays):
        if (arrays["x"] < 0).any():
            raise InvalidRequestError("got -7")
        return {"y": arrays["x"] * 2}

    queue, observer = make(execute, max_batch_rows=16)
    queue._thread_seconds = [0.0] * len(queue._thread_seconds)
    now = time.monotonic()
    callers = [
        Caller(1.0, deadline=now + 100),
        Caller(2.0, deadline=now - 1),
        Caller(3.0, arrived=now - 100),
        Caller(-7.0),
        Caller(5.0),
    ]
    run(queue, callers, 50)
    assert callers[0].answer == [2.0]
    assert callers[4].answer == [10.0]
    errors = [caller.answer for caller in callers[1:4]]
    assert [(type(error), str(error)) for error in errors] == [
        (DeadlinePassedError, "the deadline passed while the request was queued"),
        (BusyError, "the request was queued longer than its max_queue_ms"),
        (InvalidRequestError, "got -7"),
    ]
    assert errors[1].retry_after == 0.01
    # Each is computed by itself where one is at fault.
    assert observer.batches == [(1, 1), (1, 1)]
    assert len(observer.waits) == 3


def test_callers_that_ask_again_at_once_stay_together(make, monkeypatch):
    """Without a moment's patience a batch of 3 falls apart into the first that comes back, and the other 2."""
    for name in ("GATHER_PART", "MAX_GATHER_SECONDS"):
        monkeypatch.setattr(batching, name, 30.0)
    queue, observer = make(lambda outputs, arrays: {"y": arrays["x"]})
    queue._last = (time.monotonic(), 30.0, 3)
    futures = [ask(queue, [value])[1] for value in (1, 2, 3)]
    assert [column(future) for future in futures] == [[1], [2], [3]]
    assert observer.batches == [(3, 3)]


def test_a_defect_in_an_answer_ends_no_queue(make):
    queue, _ = make(lambda outputs, arrays: {"y": arrays["x"]})

    def done(pending):
        raise ZeroDivisionError

    queue.put(QueuedRequest(("y",), {"x": np.ones((1, 1))}, 1, True, done))
    queue.run()
    assert column(wait_here(queue, [1], queue.run)) == [1]
