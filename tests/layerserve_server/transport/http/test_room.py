"""Which connection makes room for a new one: an idle one of who has too many, the one that was used least recently."""

from __future__ import annotations

import pytest
from layerserve_server.transport.http.connection import HttpConnections
from some_limits import some_limits


class Connection:
    def __init__(self, peer, idle=True):
        self.peer, self.idle, self.transport, self.aborted = peer, idle, self, False

    def abort(self):
        self.aborted = True


@pytest.fixture
def make():
    def connections(**limits):
        some = {"max_message_bytes": 1, "rpc_threads": 1, "max_streams": 1, "max_calls": 8}
        return HttpConnections(some_limits(**some, **limits))

    return connections


def opened(pool, *connections):
    for one in connections:
        assert pool.opened(one)
    return connections


def test_who_has_too_many_loses_one_of_its_own(make):
    pool = make(max_peer_connections=2, max_connections=100)
    others = opened(pool, *(Connection("b") for _ in range(2)), Connection("c"))
    mine = opened(pool, Connection("a", idle=False), Connection("a"))
    opened(pool, Connection("a"))
    assert [one.aborted for one in mine] == [False, True]
    assert not any(one.aborted for one in others)
    # All of its connections have requests.
    (newest,) = (one for one in pool._open if one.peer == "a" and one not in mine)
    newest.idle = False
    assert not pool.opened(Connection("a"))
    assert not any(one.aborted for one in (*others, newest))


def test_of_a_full_server_any_idle_one_makes_room_and_none_with_a_request(make):
    pool = make(max_peer_connections=100, max_connections=3)
    one, two, three = opened(pool, Connection("a", idle=False), Connection("b"), Connection("c"))
    opened(pool, Connection("a", idle=False))
    assert [one.aborted, two.aborted, three.aborted] == [False, True, False]
    opened(pool, Connection("d", idle=False))
    assert [one.aborted, three.aborted] == [False, True]
    assert not pool.opened(Connection("d"))
    assert not one.aborted


@pytest.mark.parametrize("used", [0, 1, 2])
def test_the_one_that_was_used_least_recently_goes_first(make, used):
    pool = make(max_peer_connections=3, max_connections=100)
    connections = opened(pool, *(Connection("a") for _ in range(3)))
    pool.used(connections[used])
    order = [number for number in range(3) if number != used] + [used]
    for number in order:
        opened(pool, Connection("a", idle=False))
        assert connections[number].aborted
        assert sum(one.aborted for one in connections) == order.index(number) + 1


def test_what_is_closed_counts_no_more_and_only_once(make):
    pool = make(max_peer_connections=2, max_connections=3)
    connections = opened(pool, Connection("a", idle=False), Connection("a", idle=False), Connection("b", idle=False))
    refused = Connection("a")
    assert not pool.opened(refused)
    # As for a connection that was refused, too, and for one that made room.
    for one in (refused, *connections, *connections):
        pool.closed(one)
        pool.used(one)
    assert (pool._open, pool._peers) == ({}, {})
    opened(pool, *(Connection("a") for _ in range(2)))
