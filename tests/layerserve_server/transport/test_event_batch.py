"""Event batches: what is refused at the door, who is answered when, and what is told of it."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import pytest
from fake_calls import CallObserver, FakeCall, event_batches_here
from layerserve_server.errors import BusyError, UnknownModelError
from layerserve_server.transport.call import FORWARDED
from layerserve_server.transport.native import NativeServer
from layerserve_server.transport.perimeter.limits import BATCH_CALLS


@pytest.fixture
def make():
    made = []

    def make_batches(**limits):
        observer = CallObserver()
        batches = event_batches_here(observer, **{"max_calls": 3, **limits})
        made.append(batches)
        return batches, observer

    yield make_batches
    for batches in made:
        batches.close()


def taken(batches, call, handler=lambda call: None):
    batches.begin(call)
    batches.take(call, handler)
    return call


def codes(*calls):
    return [call.outcome for call in calls]


def test_a_message_may_be_as_long_as_the_limit(make):
    batches, _ = make(max_message_bytes=10)
    seen = []
    fits = taken(batches, FakeCall(batches, bytes(10)), seen.append)
    large = taken(batches, FakeCall(batches, bytes(11)), seen.append)
    assert seen == [fits]
    assert codes(fits, large) == [None, "RESOURCE_EXHAUSTED"]
    assert large.sent[0].text == (
        "the message has 11 bytes, expected at most 10 (setting 'max_message_bytes'); send fewer rows at a time"
    )
    # Another try is of no use.
    assert dict(large.sent[0].metadata)["grpc-retry-pushback-ms"] == "-1"
    assert batches.open == {fits}


def test_a_call_whose_deadline_has_passed_is_not_handled(make):
    batches, _ = make()
    seen = []
    late, patient = FakeCall(batches), FakeCall(batches)
    late.deadline, patient.deadline = time.monotonic() - 0.001, time.monotonic() + 60
    for call in (late, patient):
        taken(batches, call, seen.append)
    assert seen == [patient]
    assert codes(late, patient) == ["DEADLINE_EXCEEDED", None]


def test_as_many_calls_are_open_as_the_limit_says_and_an_answer_makes_room(make):
    batches, _ = make(max_calls=3)
    calls = [taken(batches, FakeCall(batches)) for _ in range(4)]
    assert codes(*calls) == [None, None, None, "RESOURCE_EXHAUSTED"]
    assert "all 3 calls of this server are in use" in calls[3].sent[0].text
    assert dict(calls[3].sent[0].metadata)["grpc-retry-pushback-ms"] == "100"
    for end in (lambda call: call.answer(b"y"), lambda call: call.fail(BusyError("", 1)), lambda call: call.gone()):
        end(calls.pop(0))
        calls.append(taken(batches, FakeCall(batches)))
    assert codes(*calls) == ["RESOURCE_EXHAUSTED", None, None, None]
    assert batches.open == set(calls[1:])


def test_a_server_that_stops_takes_no_further_call_and_finishes_those_it_has(make):
    batches, _ = make()
    earlier = taken(batches, FakeCall(batches))
    batches.stopping = True
    later = taken(batches, FakeCall(batches))
    earlier.answer(b"y")
    assert codes(earlier, later) == ["OK", "UNAVAILABLE"]


def test_an_error_of_a_handler_is_its_calls(make):
    batches, _ = make()

    def handler(call):
        raise UnknownModelError("no model 'm'")

    def defect(call):
        raise ZeroDivisionError

    refused = [taken(batches, FakeCall(batches), raising) for raising in (handler, defect)]
    assert codes(*refused) == ["NOT_FOUND", "INTERNAL"]
    assert not batches.open


@pytest.mark.parametrize("first", ["answer", "fail", "gone"])
def test_only_the_first_answer_is_sent_and_told(make, first):
    batches, observer = make()
    call = taken(batches, FakeCall(batches))
    ends = {
        "answer": lambda: call.answer(b"y"),
        "fail": lambda: call.fail(UnknownModelError("m")),
        "gone": call.gone,
    }
    ends.pop(first)()
    for end in ends.values():
        end()
    batches.finish()
    status = {"answer": "OK", "fail": "NOT_FOUND", "gone": "CANCELLED"}[first]
    assert codes(call) == [status]
    assert [ended.status for ended in observer.ended] == [status]
    assert call.answered


def test_who_goes_away_is_told_of_once_and_by_its_reason(make):
    batches, _observer = make(max_calls=9)
    gone = []
    calls = [
        FakeCall(batches),
        FakeCall(batches, deadline=time.monotonic() + 100),
        FakeCall(batches, deadline=time.monotonic() - 1),
    ]
    for call in calls:
        taken(batches, call)
        call.on_gone(lambda call=call: gone.append(call))
        call.gone()
        call.gone()
    assert gone == calls
    assert codes(*calls) == ["CANCELLED", "CANCELLED", "DEADLINE_EXCEEDED"]
    late = []
    calls[0].on_gone(lambda: late.append(1))
    assert late == [1]


def test_an_answered_call_calls_nobody_back(make):
    batches, _ = make()
    call = taken(batches, FakeCall(batches))
    gone = []
    call.on_gone(lambda: gone.append(1))
    call.answer(b"y")
    call.gone()
    assert gone == []


def test_what_is_left_to_do_is_done_once_for_all_of_a_burst_and_in_order(make):
    batches, observer = make()
    done = []

    def work():
        done.append(("work", dict(observer.began)))

    def gathered(items):
        done.append(("gathered", list(items), dict(observer.began)))

    def handler(call):
        call.coalesce(gathered, call.request)
        call.after_batch(work)

    for request in (b"1", b"2"):
        taken(batches, FakeCall(batches, request), handler).answer(b"")
    assert (done, observer.began, observer.ended) == ([], {}, [])
    batches.finish()
    # The quickest answers first, then metrics, which slower ones wait for.
    assert done == [("gathered", [b"1", b"2"], {}), ("work", {"/a/B": 2})]
    assert [ended.status for ended in observer.ended] == ["OK", "OK"]
    batches.finish()
    assert (len(done), observer.began, len(observer.ended)) == (2, {"/a/B": 2}, 2)


def test_a_defect_in_what_is_left_to_do_keeps_nobody_else_from_it(make, caplog):
    batches, observer = make()
    done = []

    def broken(*items):
        raise ZeroDivisionError

    def handler(call):
        call.coalesce(broken, 1)
        call.coalesce(done.append, 2)
        call.after_batch(broken)
        call.after_batch(lambda: done.append(3))

    taken(batches, FakeCall(batches), handler)
    batches.finish()
    assert done == [[2], 3]
    assert observer.began == {"/a/B": 1}
    assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError] * 2


def elsewhere(work):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def test_in_another_thread_nothing_waits_for_the_end_of_a_burst(make):
    batches, observer = make()
    done = []
    call = taken(batches, FakeCall(batches))
    elsewhere(lambda: call.coalesce(lambda items: done.extend(items), 1))
    elsewhere(lambda: call.after_batch(lambda: done.append(2)))
    assert done == [1, 2]
    elsewhere(lambda: call.answer(b"y"))
    assert [ended.status for ended in observer.ended] == ["OK"]


def test_ended_calls_are_reported_before_metrics_are_collected(make):
    batches, observer = make()
    call = taken(batches, FakeCall(batches))
    call.set_metric_labels("m", 3)
    call.answer(b"y")
    assert observer.ended == []
    (report,) = observer.before
    report()
    report()
    (ended,) = observer.ended
    assert ended[:4] == ("/a/B", "m", "3", "OK")
    assert 0 <= ended.seconds < 60


def test_a_call_that_another_process_answers_is_reported_as_such(make):
    batches, observer = make()
    call = taken(batches, FakeCall(batches))
    call.forwarded = True
    call.answer(b"y")
    batches.report()
    assert [ended.status for ended in observer.ended] == [FORWARDED]


def test_what_may_block_runs_in_another_thread_and_its_error_is_the_calls(make, wait_until):
    batches, _ = make()
    threads = []
    good, bad = taken(batches, FakeCall(batches)), taken(batches, FakeCall(batches))

    def fail():
        raise UnknownModelError("no model 'm'")

    good.in_pool(lambda: (threads.append(threading.current_thread()), good.answer(b"y")))
    bad.in_pool(fail)
    wait_until(lambda: good.answered and bad.answered and not batches.open)
    assert codes(good, bad) == ["OK", "NOT_FOUND"]
    assert threads[0] is not threading.current_thread()


def test_work_that_may_block_is_not_begun_for_a_caller_who_has_gone():
    observer = CallObserver()
    batches, begun = event_batches_here(observer), []
    for wait in ("in_pool", "work"):
        call = FakeCall(batches)
        batches.begin(call)
        call.gone()
        if wait == "work":
            batches.work(call, begun.append, lists=False)
        else:
            call.in_pool(lambda: begun.append(1))
    for pool in (batches._blocking, batches._working):
        pool.shutdown(wait=True)
    assert begun == []


def test_the_receiving_thread_gets_pythons_lock_soon(make):
    usual = sys.getswitchinterval()
    try:
        make()[0].bind_to_thread()
        assert sys.getswitchinterval() <= 0.0005
    finally:
        sys.setswitchinterval(usual)


def test_closing_ends_what_is_open(make):
    batches, _observer = make()
    calls = [taken(batches, FakeCall(batches)) for _ in range(3)]
    calls[0].answer(b"y")
    batches.close()
    assert codes(*calls) == ["OK", "UNAVAILABLE", "UNAVAILABLE"]
    assert not batches.open


def test_large_messages_count_against_the_memory_of_all_until_they_are_answered(make, monkeypatch):
    # `given_back` has short ones counted, too.
    monkeypatch.setattr("layerserve_server.transport.event_batch.COUNTED_BYTES", 4096)
    batches, _ = make(memory=20_000, max_calls=9)
    small, first, second = [taken(batches, FakeCall(batches, bytes(size))) for size in (4095, 4096, 10_000)]
    assert batches.memory.held == 14_096
    refused = taken(batches, FakeCall(batches, bytes(6000)))
    assert codes(small, first, second, refused) == [None, None, None, "RESOURCE_EXHAUSTED"]
    assert batches.memory.held == 14_096
    first.answer(b"y")
    assert batches.memory.held == 10_000
    assert taken(batches, FakeCall(batches, bytes(6000))).outcome is None
    second.gone()
    assert batches.memory.held == 6000
    small.answer(bytes(4096))
    assert (small.outcome, batches.memory.held) == ("OK", 6000)


def test_a_reply_that_finds_no_memory_is_refused_and_counts_for_nothing(make):
    batches, _ = make(memory=20_000)
    held = taken(batches, FakeCall(batches, bytes(10_000)))
    call = taken(batches, FakeCall(batches))
    call.answer(bytes(11_000))
    assert (call.outcome, held.outcome, batches.memory.held) == ("RESOURCE_EXHAUSTED", None, 10_000)


def test_a_caller_that_goes_away_while_its_reply_is_counted_leaves_nothing_counted(make, monkeypatch):
    batches, _ = make()
    call = taken(batches, FakeCall(batches, bytes(5000)))
    take = batches.memory.take
    monkeypatch.setattr(batches.memory, "take", lambda size: (call.gone(), take(size)))
    call.answer(bytes(6000))
    assert (call.outcome, batches.memory.held) == ("CANCELLED", 0)


def test_work_that_is_not_prompt_runs_in_another_thread_and_its_error_is_the_calls(make, wait_until):
    batches, _ = make()
    threads = []
    good, bad = taken(batches, FakeCall(batches)), taken(batches, FakeCall(batches))

    def fail(call):
        raise UnknownModelError("no model 'm'")

    batches.work(good, lambda call: (threads.append(threading.current_thread()), call.answer(b"y")), lists=False)
    batches.work(bad, fail, lists=False)
    wait_until(lambda: good.sent and bad.sent)
    assert codes(good, bad) == ["OK", "NOT_FOUND"]
    assert threads[0] is not threading.current_thread()


def test_the_native_front_hands_over_at_most_a_burst():
    asked = []
    server = object.__new__(NativeServer)
    server._front = SimpleNamespace(recv_batch_details=lambda *given: asked.append(given) or [1])
    for has_cores in (True, False):
        server._has_cores = has_cores
        for busily in (True, False):
            assert server._arrived(busily=busily) == [1]
    assert {given[0] for given in asked} == {BATCH_CALLS}
    # Busily is without waiting, and only where there are cores to spare.
    assert asked == [(BATCH_CALLS, 0), *[(BATCH_CALLS,)] * 3]


def test_what_ends_a_call_later_ends_no_equal_one(make):
    """Both were given to a handler that waits for something, and each has a deadline of its own."""
    batches, _ = make()
    for end in (
        lambda call: call.fail(BusyError("full", 1.0)),
        lambda call: call.gone(),
        lambda call: call.answer(b""),
    ):
        first, second = (FakeCall(batches) for _ in range(2))
        first.answer_together(lambda call: None, [second])
        end(first)
        assert (first.outcome is None, second.outcome) == (False, None)
        second.answer(b"")
