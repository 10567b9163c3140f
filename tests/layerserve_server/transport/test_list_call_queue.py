"""Calls that describe all models or runs: one list at a time, in turns, and one reply for equal calls."""

import threading

import pytest
from fake_calls import CallObserver, FakeCall, event_batches_here
from layerserve_server.access.caller import Caller
from layerserve_server.errors import UnknownModelError


class ListCall(FakeCall):
    """A call of a client's connection."""

    def __init__(self, batches, connection, request, caller=None):
        super().__init__(batches, request)
        self._connection = f"ipv4:10.0.0.1:{connection}"
        if caller is not None:
            self.caller = caller

    def client(self):
        return self._connection


class Handler:
    """Answers with what it was asked for, once it may."""

    def __init__(self):
        self.made, self.begun, self.may_end = [], threading.Event(), threading.Event()
        self.at_once, self.most = 0, 0

    def __call__(self, call):
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self.made.append(call.request)
        self.begun.set()
        assert self.may_end.wait(10)
        self.at_once -= 1
        if call.request == b"wrong":
            raise UnknownModelError("no model 'm'")
        call.reply(lambda: b"list " + call.request)


@pytest.fixture(name="batches")
def _batches():
    batches = event_batches_here(CallObserver(), max_calls=100)
    yield batches
    batches.close()


@pytest.fixture(name="handler")
def _handler():
    return Handler()


def begin(batches, handler, *calls):
    """Submits calls, of which the first has begun."""
    for call in calls:
        batches.begin(call)
        batches.work(call, handler, lists=True)
        assert handler.begun.wait(10)


def test_connections_take_turns_and_other_calls_do_not_wait(batches, handler, wait_until):
    calls = [ListCall(batches, 1, b"1%d" % number) for number in range(4)]
    calls += [
        ListCall(batches, connection, b"%d%d" % (connection, number)) for connection in (2, 3) for number in (0, 1)
    ]
    begin(batches, handler, *calls)
    other = FakeCall(batches)
    batches.begin(other)
    batches.work(other, lambda call: call.answer(b"y"), lists=False)
    wait_until(lambda: other.answered)
    assert handler.made == [b"10"]
    handler.may_end.set()
    wait_until(lambda: all(call.sent for call in calls))
    assert handler.made == [b"10", b"11", b"20", b"30", b"12", b"21", b"31", b"13"]
    assert handler.most == 1
    assert [call.sent for call in calls] == [[b"list " + call.request] for call in calls]


def test_equal_calls_that_wait_get_the_same_reply(batches, handler, wait_until):
    first, *equal = [ListCall(batches, connection, b"all") for connection in (1, 1, 2, 3)]
    other, of_another = ListCall(batches, 2, b"some"), ListCall(batches, 2, b"all", Caller("another"))
    begin(batches, handler, first, *equal, other, of_another)
    handler.may_end.set()
    wait_until(lambda: all(call.sent for call in (first, *equal, other, of_another)))
    # The first had begun, so that it may not know what happened before the others were sent.
    assert handler.made == [b"all", b"all", b"some", b"all"]
    assert [call.sent for call in (first, *equal)] == [[b"list all"]] * 4


@pytest.mark.parametrize("request_", [b"all", b"wrong"])
def test_equal_calls_are_answered_whoever_of_them_goes_away(batches, handler, wait_until, request_):
    begin(batches, handler, ListCall(batches, 1, b"begun"))
    leaves, gone, stays, last = [ListCall(batches, connection, request_) for connection in (2, 2, 3, 4)]

    def leaving(call):
        assert call is leaves
        leaves.gone()
        handler(call)

    for call in (leaves, gone, stays, last):
        batches.begin(call)
        batches.work(call, leaving, lists=True)
    gone.gone()
    handler.may_end.set()
    wait_until(lambda: stays.sent and last.sent)
    assert handler.made == [b"begun", request_]
    if request_ == b"all":
        assert stays.sent == last.sent == [b"list all"]
    else:
        assert [call.sent[0].code.name for call in (stays, last)] == ["NOT_FOUND"] * 2


def test_a_list_that_nobody_waits_for_is_not_made(batches, handler, wait_until):
    begin(batches, handler, ListCall(batches, 1, b"begun"))
    gone, waits = ListCall(batches, 1, b"gone"), ListCall(batches, 1, b"waits")
    for call in (gone, waits):
        batches.begin(call)
        batches.work(call, handler, lists=True)
    gone.gone()
    handler.may_end.set()
    wait_until(lambda: waits.sent)
    assert handler.made == [b"begun", b"waits"]


def test_a_handler_that_waits_is_run_for_each_of_the_equal_calls(batches, handler, wait_until):
    """If it waited for the first one only, the others would have no answer once that is cancelled."""
    waiting = []
    begin(batches, handler, ListCall(batches, 1, b"begun"))
    calls = [ListCall(batches, connection, b"all") for connection in (2, 3)]
    for call in calls:
        batches.begin(call)
        batches.work(call, waiting.append, lists=True)
    handler.may_end.set()
    wait_until(lambda: len(waiting) == 2)
    calls[0].gone()
    waiting[1].reply(lambda: b"later")
    assert (waiting, calls[1].sent) == (calls, [b"later"])
