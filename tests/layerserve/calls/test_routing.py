"""Which servers are asked for a model, and in which order."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest
from clocks import replace_time
from layerserve.calls import routing
from layerserve.calls.routing import Routes, Server, model_metadata, ranked

MODELS = [f"m{number}" for number in range(1000)]
FOUR = tuple(f"10.0.0.{number}:8500" for number in range(1, 5))
FIFTH = "10.0.0.5:8500"


def test_each_server_has_its_share_of_the_models():
    for place in range(4):
        shares = Counter(ranked(model, FOUR)[place] for model in MODELS)
        assert all(180 < shares[address] < 320 for address in FOUR), shares


def test_the_order_is_the_same_for_all_clients():
    """As long as this test doesn't change: clients of two releases would have two servers load each model."""
    assert ranked("mnist", FOUR) == tuple(f"10.0.0.{number}:8500" for number in (4, 1, 3, 2))
    assert ranked("mnist", FOUR[::-1]) == ranked("mnist", FOUR)


def test_a_server_that_comes_or_goes_moves_only_its_own_models():
    for model in MODELS:
        four, five = ranked(model, FOUR), ranked(model, (*FOUR, FIFTH))
        assert tuple(address for address in five if address != FIFTH) == four
    first = sum(ranked(model, (*FOUR, FIFTH))[0] == FIFTH for model in MODELS)
    assert 150 < first < 250


@pytest.mark.parametrize("name", ["mnist", "a.b-c_9", "9"])
def test_a_model_is_named_in_the_metadata(name):
    assert model_metadata(name) == (("layerserve-model", name),)


@pytest.mark.parametrize("name", ["", "mödel", "a b", "a\n", ".a", "a" * 129])
def test_what_no_model_can_be_named_is_not_sent(name):
    """gRPC refuses some of it before the server can say that there is no such model."""
    assert model_metadata(name) == ()


class Listed:
    """Addresses of servers."""

    def __init__(self, *addresses):
        self.addresses = addresses

    def known(self):
        return self.addresses


def routes(count, *addresses):
    """Routes whose channels are the addresses."""
    return Routes(Listed(*addresses), count, lambda address: Server(address, None))


def test_of_the_servers_that_share_a_model_the_one_with_the_fewest_open_calls_is_asked_first():
    made = routes(2, *FOUR)
    best = ranked("mnist", FOUR)
    first = Counter(made.order("mnist")[0].channel for _ in range(100))
    assert first.keys() == set(best[:2])
    assert min(first.values()) > 20
    assert [one.channel for one in made.order("mnist")[2:]] == list(best[2:])
    by_address = {one.channel: one for one in made.order("mnist")}
    by_address[best[0]].count(1)
    assert {made.order("mnist")[0].channel for _ in range(20)} == {best[1]}
    by_address[best[0]].count(-1)
    assert len({made.order("mnist")[0].channel for _ in range(100)}) == 2


def test_a_server_that_failed_is_left_out_for_a_while(monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, routing, monotonic=lambda: clock[0])
    made = routes(1, *FOUR)
    best = list(ranked("mnist", FOUR))
    made.order("mnist")[0].failed(1.0)
    assert [one.channel for one in made.order("mnist")] == best[1:]
    clock[0] = 101.0
    assert [one.channel for one in made.order("mnist")] == best


def test_servers_stay_connected_while_others_come_and_go():
    made = routes(1, *FOUR[:3])
    before = {one.channel: one for one in made.order("mnist")}
    made.addresses.addresses = FOUR[1:]
    after = {one.channel: one for one in made.order("mnist")}
    assert after.keys() == set(FOUR[1:])
    assert all(after[address] is before[address] for address in FOUR[1:3])
    assert set(made.channels()) == set(FOUR[1:])


def test_with_one_server_there_is_nothing_to_choose():
    assert routes(1, FOUR[0]).order("mnist") == []
    assert routes(1).order("mnist") == []


def test_only_so_many_orders_are_remembered(monkeypatch):
    monkeypatch.setattr(routing, "MAX_REMEMBERED", 10)
    made = routes(1, *FOUR)
    for model in MODELS[:100]:
        assert [one.channel for one in made.order(model)] == list(ranked(model, FOUR))
    assert len(made._ranked) <= 10


def run(program):
    """Runs a program in a process of its own: gRPC doesn't let a process fork that has used it as this one has."""
    done = subprocess.run([sys.executable, "-c", FORK + program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


FORK = """
import os, signal, threading, time, weakref
from layerserve.calls import server_addresses
from layerserve.calls.routing import Routes, Server
from layerserve.calls.server_addresses import ServerAddresses

def in_child(check):
    child = os.fork()
    if not child:
        signal.alarm(20)  # the lock may never be released
        os._exit(0 if check() else 1)
    return os.waitpid(child, 0)[1] == 0

def connect(address):
    return Server(address, threading.Lock())
"""


def test_a_forked_child_waits_for_no_lock_of_its_parents_threads():
    run("""
routes = Routes(ServerAddresses("10.0.0.1:1,10.0.0.2:1"), 1, connect)
server = routes.order("m")[0]
with routes._lock, server.checking:
    assert in_child(lambda: not routes.order("m")[0].checking.locked())
assert routes.order("m")[0] is server
""")


def test_a_forked_child_frees_no_channel_of_its_parent():
    """gRPC may wait forever for threads that the child doesn't have."""
    run("""
class Channel:
    pass

routes = Routes(ServerAddresses("10.0.0.1:1,10.0.0.2:1"), 1, lambda address: Server(Channel(), threading.Lock()))
channel = weakref.ref(routes.order("m")[0].channel)
assert in_child(lambda: routes.order("m")[0].channel is not channel() and channel() is not None)
""")


def test_a_forked_child_resolves_a_name_that_its_parent_was_resolving():
    run("""
asked, go = threading.Event(), threading.Event()

def resolve(name):
    asked.set()
    go.wait(20)
    return ("10.0.0.1:8500", "10.0.0.2:8500")

server_addresses._addresses = resolve
routes = Routes(ServerAddresses("models.test:8500"), 1, connect)
routes.addresses.wait(0.0)
assert asked.wait(20)

def found():
    go.set()
    routes.addresses.wait(3)
    return len(routes.addresses.known()) == 2

assert in_child(found)
go.set()
""")
