"""What connections may make the server keep: silent ones, stalled ones and parts of messages without end."""

import socket
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from random import Random

import grpc
import pytest
from clocks import replace_time
from echo_servers import ECHO
from layerserve_server.transport.client_address import counted_by, endpoint, host_of
from layerserve_server.transport.perimeter import connections, memory
from layerserve_server.transport.perimeter.connections import CHECK_SECONDS, Connection, Connections, Traffic, level
from layerserve_server.transport.perimeter.memory import MemoryBudget, default_limit
from some_limits import some_limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="connections are watched on Linux only")

HELLO = connections.HANDSHAKE_BYTES
LIMITS = some_limits(max_message_bytes=1 << 20, rpc_threads=1, max_streams=4, max_calls=8, max_buffered_bytes=8 << 20)


@pytest.mark.parametrize("said", [b"", b"PRI * HTTP/2.0\r\n"])
def test_a_connection_that_says_no_http2_is_ended(serve_echo, said):
    _, _, server, channel = serve_echo({"handshake_seconds": 0.5})
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.settimeout(30)
        silent.sendall(said)
        while silent.recv(1000):  # the server's own preface
            pass
    assert channel.unary_unary(ECHO + "echo")(b"x", timeout=30) == b"x"


@pytest.mark.parametrize(
    ("peer", "found"),
    [
        ("ipv4:10.0.0.7:51958", ("10.0.0.7", 51958)),
        ("ipv6:%5B::1%5D:51958", ("::1", 51958)),
        ("ipv6:[::1]:51958", ("::1", 51958)),
        ("unix:", None),
        ("unix:/tmp/a:1", None),
        ("", None),
    ],
)
def test_addresses_are_read_as_grpc_writes_them(peer, found):
    assert endpoint(peer) == found


def test_only_a_call_on_a_unix_socket_may_say_where_it_came_from():
    said = (("layerserve-peer", "ipv4:10.9.9.9:4000"),)
    assert host_of("unix:", said) == "10.9.9.9"
    assert host_of("ipv4:10.0.0.7:1", said) == "10.0.0.7"
    assert host_of("unix:", ()) == ""


@pytest.mark.parametrize(
    ("host", "found"),
    [
        # A provider gives each customer a whole network.
        ("2606:4700:1:2::7", "2606:4700:1:2::/64"),
        ("2606:4700:1:2:ffff::8", "2606:4700:1:2::/64"),
        ("2606:4700:1:3::7", "2606:4700:1:3::/64"),
        # In networks of one's own, many machines share one.
        ("fd00:1:2:3::7", "fd00:1:2:3::7"),
        ("fe80::7%eth0", "fe80::7%eth0"),
        ("::1", "::1"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7"),
        ("8.8.8.8", "8.8.8.8"),
        ("", ""),
    ],
)
def test_addresses_that_one_client_may_all_have_are_counted_together(host, found):
    assert counted_by(host) == found


def test_streams_are_counted_by_networks():
    assert host_of("ipv6:%5B2606:4700:1:2::7%5D:51958") == host_of("ipv6:[2606:4700:1:2::8]:1") == "2606:4700:1:2::/64"


class Pair:
    """A connection of this process's own, and what is watched of it."""

    def __init__(self, limits=LIMITS):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.caller = socket.create_connection(self.listener.getsockname())
        self.taken, address = self.listener.accept()
        self.peer = f"ipv4:{address[0]}:{address[1]}"
        self.caller.sendall(bytes(HELLO))
        self.taken.recv(1000)
        self.watched = Connections(limits)
        self.watched._port = self.listener.getsockname()[1]
        self.watched._thread = threading.current_thread()  # else nothing is counted
        self.traffic = self.watched.of(self.peer)

    def look(self):
        self.watched._search()
        self.watched._check(0.0)

    @property
    def connection(self) -> Connection:
        (found,) = self.watched._connections.values()
        return found

    def send(self, size):
        """Sends bytes, which the server takes."""
        reader = threading.Thread(
            target=lambda: [self.taken.recv(1 << 16, socket.MSG_WAITALL) for _ in range(size >> 16)]
        )
        reader.start()
        self.caller.sendall(bytes(size))
        reader.join()

    def close(self):
        for one in (self.listener, self.caller, self.taken):
            one.close()

    def ended(self):
        self.caller.settimeout(0.01)
        try:
            return self.caller.recv(1) == b""
        except TimeoutError:
            return False
        finally:
            self.caller.settimeout(None)


@pytest.fixture
def pair():
    found = Pair()
    yield found
    found.close()


def test_bytes_of_messages_that_are_not_whole_are_counted(pair):
    pair.look()
    pair.send(2 << 20)
    pair.look()
    # Buffers of the libraries are half empty.
    assert pair.watched.buffered() == 2 * ((2 << 20) + HELLO)
    # The message came whole, and is counted by whoever took it.
    pair.traffic.calls += 1
    pair.traffic.received += 2 << 20
    pair.look()
    assert pair.watched.buffered() == 0


def test_a_connection_whose_messages_never_end_is_ended(pair, monkeypatch):
    monkeypatch.setattr(connections, "own_memory", lambda: 1 << 40)
    pair.look()
    pair.send(5 << 19)
    pair.look()
    assert not pair.ended()
    pair.send(1 << 20)
    pair.look()
    assert pair.ended(), "requests of others still fit into the last MiB of 8"
    # It goes on to count until its library has noticed.
    took = pair.watched.buffered()
    assert 7 << 20 < took < 8 << 20
    pair.watched._check(connections.CLOSING_SECONDS)
    assert pair.watched.buffered() == pytest.approx(took / 2, abs=1)
    pair.watched._check(100.0)
    assert pair.watched.buffered() == 0


def test_what_went_on_to_another_process_is_not_kept(pair, monkeypatch):
    monkeypatch.setattr(connections, "own_memory", lambda: 1 << 20)
    pair.look()
    pair.send(9 << 20)
    pair.look()
    assert not pair.ended()
    pair.watched.unattributed.received += 9 << 20
    pair.watched.unattributed.calls += 1
    pair.look()
    assert pair.connection.incomplete == 0
    pair.send(5 << 20)
    pair.look()
    assert pair.connection.incomplete == pytest.approx(5 << 20, rel=0.01), "what went on before went on once"


def test_calls_whose_requests_still_come_are_refused_before_their_connection_is_ended(pair, monkeypatch):
    monkeypatch.setattr(connections, "own_memory", lambda: 1 << 40)
    refused = []
    pair.watched.relieve = lambda where: refused.append(where) is None
    pair.look()
    pair.send(9 << 20)
    pair.look()
    assert refused == [endpoint(pair.peer)]
    assert not pair.ended()


def test_a_caller_that_takes_no_replies_is_ended(pair, monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, connections, monotonic=lambda: clock[0])
    pair.look()
    pair.traffic.replied += 5 << 20
    pair.look()
    assert pair.watched.buffered() == (5 << 20) + 2 * HELLO
    clock[0] += LIMITS.stalled_seconds - 1
    pair.look()
    assert not pair.ended()
    clock[0] += 2
    pair.look()
    assert pair.ended()


def test_replies_count_as_soon_as_they_are_given_out(pair):
    """Many more would be given out until the next look; it comes at once where they are much."""
    pair.look()
    pair.watched.count_reply(pair.traffic, 1 << 20)
    assert pair.watched.buffered() == 1 << 20
    assert not pair.watched._check_now.is_set()
    pair.look()
    assert pair.watched.buffered() == (1 << 20) + 2 * HELLO  # once, as what is left on the connection
    pair.watched.count_reply(pair.traffic, (1 << 20) + 1)  # an eighth of all is a MiB
    assert pair.watched._check_now.is_set()
    pair.look()
    assert pair.watched.buffered() == (2 << 20) + 1 + 2 * HELLO


def test_a_caller_that_takes_its_replies_slowly_stays(pair, monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, connections, monotonic=lambda: clock[0])
    pair.traffic.replied += 5 << 20
    for _ in range(4):
        pair.look()
        clock[0] += LIMITS.stalled_seconds - 1
        pair.taken.sendall(bytes(1000))
        assert pair.caller.recv(1000, socket.MSG_WAITALL)
    pair.look()
    assert pair.connection.stalled_since is None


def test_a_connection_that_cancels_calls_without_end_is_ended(pair, monkeypatch):
    clock = [100.0]
    replace_time(monkeypatch, connections, monotonic=lambda: clock[0])
    pair.look()
    for resets, ended in ((LIMITS.max_resets_per_second, False), (LIMITS.max_resets_per_second + 1, True)):
        clock[0] += 1.0
        pair.traffic.resets += resets
        pair.look()
        assert pair.ended() is ended


class Crowd:
    """Connections of several addresses to one port of this process."""

    def __init__(self, **limits):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.watched = Connections(replace(LIMITS, **limits))
        self.watched._port = self.listener.getsockname()[1]
        self.callers, self.taken = [], []

    def connect(self, host, count):
        for _ in range(count):
            self.callers.append(socket.create_connection(self.listener.getsockname(), source_address=(host, 0)))
            self.taken.append(self.listener.accept()[0])
            self.say(-1)

    def say(self, number):
        self.callers[number].sendall(bytes(HELLO))
        self.taken[number].recv(HELLO, socket.MSG_WAITALL)

    def look(self):
        """Looks; gives the numbers of the connections that are ended."""
        self.watched._search()
        self.watched._check(0.0)
        ended = []
        for number, caller in enumerate(self.callers):
            caller.settimeout(0)
            with suppress(BlockingIOError):
                assert caller.recv(1) == b""
                ended.append(number)
        return ended

    def close(self):
        for one in (self.listener, *self.callers, *self.taken):
            one.close()


@pytest.fixture
def crowd():
    crowds = []

    def make(**limits):
        crowds.append(Crowd(**limits))
        return crowds[-1]

    yield make
    for one in crowds:
        one.close()


def test_an_address_with_too_many_connections_loses_those_that_were_silent_longest(crowd, caplog):
    here = crowd(max_peer_connections=3)
    here.connect("127.0.0.2", 3)
    assert here.look() == []
    here.connect("127.0.0.3", 1)
    here.connect("127.0.0.2", 2)
    here.say(0)
    assert here.look() == [1, 2]
    assert here.look() == [1, 2]
    lines = [record.getMessage() for record in caplog.records]
    assert lines == ["closed 2 connections of 127.0.0.2: the address has more than 3 connections"]


def test_connections_are_counted_by_networks(crowd, monkeypatch, caplog):
    monkeypatch.setattr(connections, "counted_by", lambda host: host.rpartition(".")[0])
    here = crowd(max_peer_connections=3)
    for number in range(2, 7):
        here.connect(f"127.0.0.{number}", 1)
    assert here.look() == [0, 1]
    # One line, of however many addresses.
    assert [record.getMessage() for record in caplog.records] == [
        "closed 2 connections of 127.0.0: the address has more than 3 connections"
    ]


def test_addresses_with_most_connections_leave_room_for_others(crowd):
    """Before the transport takes no more, of whoever."""
    here = crowd(max_connections=16, max_peer_connections=100)
    here.connect("127.0.0.2", 10)
    here.connect("127.0.0.3", 3)
    here.connect("127.0.0.4", 1)
    assert here.look() == []  # 14 of 16
    here.connect("127.0.0.4", 2)
    assert here.look() == [0, 1]
    here.connect("127.0.0.3", 9)
    # Eleven places are left by the one with three; the other two share them.
    assert here.look() == [0, 1, 2, 3, 4, 10, 11, 12, 16, 17, 18, 19]


@pytest.mark.parametrize("seed", range(20))
def test_a_level_cuts_no_more_than_it_must(seed):
    random = Random(seed)
    counts = sorted(random.randrange(1, 50) for _ in range(random.randrange(1, 20)))
    total = random.randrange(len(counts), sum(counts) + 10)
    found = level(counts, total)
    assert sum(min(count, found) for count in counts) <= total
    assert found >= counts[-1] or sum(min(count, found + 1) for count in counts) > total


def test_connections_are_looked_at_more_often_while_memory_fills_up():
    watched = Connections(LIMITS)  # 6 MiB of 8
    assert watched._pause(0.0) == CHECK_SECONDS
    assert watched._pause(-1.0) == CHECK_SECONDS
    assert watched._pause(1 << 20) == CHECK_SECONDS
    assert watched._pause(64 << 20) == pytest.approx(3 / 64)
    watched._buffered = 4 << 20
    assert watched._pause(32 << 20) == pytest.approx(1 / 32)
    watched._buffered = 20 << 20
    assert watched._pause(16 << 20) == 0.0


def test_calls_that_are_cancelled_without_end_are_seen_at_once(pair):
    pair.look()
    for _ in range(LIMITS.max_resets_per_second):
        pair.watched.count_reset(pair.traffic)
    assert not pair.watched._check_now.is_set()
    pair.look()
    pair.watched.count_reset(pair.traffic)
    assert not pair.watched._check_now.is_set()  # since the last look it is one
    for _ in range(LIMITS.max_resets_per_second):
        pair.watched.count_reset(pair.traffic)
    assert pair.watched._check_now.is_set()
    pair.look()
    assert pair.ended()


def test_cancelled_calls_are_counted_by_connection_and_deadlines_that_pass_are_not(serve_echo, wait_until):
    _, _, server, channel = serve_echo()
    if type(server).__name__ != "GrpcioServer":
        pytest.skip("only the poller learns of each call that is cancelled")
    hang = channel.unary_unary(ECHO + "hang")
    for _ in range(3):
        with pytest.raises(grpc.RpcError):
            hang(b"", timeout=0.05)
    for _ in range(2):
        call = hang.future(b"", timeout=60)
        wait_until(lambda: server._batches.open)
        call.cancel()
        wait_until(lambda: not server._batches.open)
    ((_, traffic),) = server._connections._traffic.items()
    assert traffic.resets == 2


def test_what_was_counted_for_connections_that_ended_is_forgotten(pair):
    for number in range(100):
        pair.watched.of(f"ipv4:10.0.0.1:{number + 1}").calls += 1
    for _ in range(connections.MAX_MISSED + 2):
        pair.look()
    assert set(pair.watched._traffic) == {pair.peer}
    pair.taken.close()
    pair.look()
    assert pair.watched._connections == {}


def test_nothing_is_counted_where_nothing_is_watched():
    unwatched = Connections(LIMITS)
    unwatched.of("ipv4:10.0.0.1:1").calls += 1
    assert unwatched._traffic == {}
    assert isinstance(unwatched.of("ipv4:10.0.0.1:1"), Traffic)


def test_memory_has_one_bound_for_what_is_held_and_what_libraries_keep():
    outside = [0]
    memory = MemoryBudget(100, lambda: outside[0])
    memory.take(1000)  # alone, even what is larger passes: messages have a limit of their own
    memory.give(1000)
    memory.take(60)
    outside[0] = 30
    memory.take(10)
    with pytest.raises(Exception, match="11 more would exceed the limit of 100"):
        memory.take(11)
    memory.give(70)
    assert memory.held == 0


def test_the_bound_is_a_part_of_the_memory_there_is(tmp_path):
    group = tmp_path / "sys/fs/cgroup/memory.max"
    group.parent.mkdir(parents=True)
    group.write_text(str(4 << 30))
    assert default_limit(tmp_path) == 1 << 30
    group.write_text("max")
    assert default_limit(tmp_path) > 64 << 20


def test_nothing_is_counted_once_all_is_answered(serve_echo, wait_until):
    _, _, server, channel = serve_echo()
    echo = channel.unary_unary(ECHO + "echo")
    for future in [echo.future(bytes(9000), timeout=30) for _ in range(20)]:
        assert len(future.result()) == 9000
    assert list(channel.stream_stream(ECHO + "upper")(iter([b"a" * 9000] * 3), timeout=30)) == [b"A" * 9000] * 3
    wait_until(lambda: server._batches.memory.held == 0)


def test_more_than_the_bound_is_refused_and_when_to_come_back_is_said(serve_echo, wait_until):
    _, _, server, channel = serve_echo({"max_buffered_bytes": 30_000})
    hanging = [channel.unary_unary(ECHO + "hang").future(bytes(9000), timeout=60) for _ in range(3)]
    wait_until(lambda: server._batches.memory.held >= 27_000)
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(ECHO + "echo")(bytes(9000), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "would exceed the limit of 30000" in caught.value.details()
    # Small calls go on.
    assert channel.unary_unary(ECHO + "echo")(b"x", timeout=30) == b"x"
    for future in hanging:
        future.cancel()
    wait_until(lambda: server._batches.memory.held == 0)
    assert len(channel.unary_unary(ECHO + "echo")(bytes(9000), timeout=30)) == 9000


def test_memory_that_callers_no_longer_take_is_returned_to_the_system(monkeypatch):
    returned = []
    monkeypatch.setattr(memory, "trim_heap", lambda: returned.append(True))
    outside = [0]
    budget = MemoryBudget(1 << 30, lambda: outside[0])
    looks = memory.HeapTrimmer(budget)
    for used, times in (
        (0, 0),
        (100 << 20, 0),
        (90 << 20, 0),
        (60 << 20, 1),
        (40 << 20, 1),
        (0, 2),
        (31 << 20, 2),
        (0, 2),
    ):
        outside[0] = used
        looks.check()
        assert len(returned) == times, used


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has them")
def test_without_cookies_of_sockets_connections_are_not_monitored(monkeypatch, caplog):
    def unknown(descriptor):
        raise OSError(92, "Protocol not available")

    monkeypatch.setattr(connections, "cookie_of", unknown)
    monitor = Connections(LIMITS)
    monitor.start(80)
    monitor.stop()
    assert caplog.messages == [
        "connections are not monitored: SO_COOKIE requires Linux 4.12 or newer ([Errno 92] Protocol not available)"
    ]
