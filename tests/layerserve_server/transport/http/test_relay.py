"""What a worker passes on to the main process, which is a script here: nothing is lost, and nobody waits for ever."""

from __future__ import annotations

import json
import socket
import threading

import pytest
from http_calls import exchange
from layerserve_server.access.gate import Gate
from layerserve_server.observability.metrics import Metrics
from layerserve_server.transport.call import Routes
from layerserve_server.transport.grpcio import SharedPort
from layerserve_server.transport.http.relay import socket_of
from layerserve_server.transport.http.server import HttpServer
from layerserve_server.transport.perimeter.memory import MemoryBudget
from some_limits import some_limits

GET = b"GET /a?b=c HTTP/1.1\r\nHost: a\r\nX-Odd: \xff\r\n\r\n"
LAST = GET[:-2] + b"connection: close\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n"


@pytest.fixture
def serve(tmp_path):
    """A server without routes, of the process that owns the port or of a worker."""
    servers = []

    def start(*, owner):
        limits = some_limits(max_message_bytes=1 << 20, rpc_threads=1, max_streams=1, max_calls=8)
        shared = SharedPort(tmp_path / "owner.sock", owner=owner)
        memory, gate = MemoryBudget(1 << 20), Gate()
        servers.append(
            HttpServer([], {}, Routes(), Metrics(), limits, memory, gate, host="127.0.0.1", port=0, shared=shared)
        )
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.stop(0.0)


@pytest.fixture
def worker(serve):
    return serve(owner=False)


@pytest.fixture
def main(tmp_path):
    """Has a function answer each connection of the worker, in a thread of its own."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_of(tmp_path)))

        def answer(script, count=1):
            def serve():
                for _ in range(count):
                    connection, _ = listener.accept()
                    with connection, connection.makefile("rb") as lines:
                        script(connection, lines)

            listener.listen()
            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            return thread

        yield answer


def read_head(lines):
    """The line that says whose request it is, and the request's own, with its headers."""
    introduction = json.loads(lines.readline())
    head = []
    while (line := lines.readline()) != b"\r\n":
        head.append(line)
    return introduction, head


def test_requests_go_as_they_came_with_whose_they_are(worker, main):
    seen = []

    def script(connection, lines):
        seen.append(read_head(lines))
        closes = b"connection: close\r\n" if len(seen) == 2 else b""
        connection.sendall(OK + closes + b"\r\nhi")
        assert lines.read() == b"", "a connection is for one request"

    thread = main(script, count=2)
    got = exchange(worker.port, GET + LAST)
    assert got == OK + b"\r\nhi" + OK + b"connection: close\r\n\r\nhi"
    thread.join(30)
    for introduction, head in seen:
        assert introduction["address"].startswith("ipv4:127.0.0.1:")
        assert (introduction["certificate_names"], introduction["closes"]) == ([], False)
        assert head[:3] == [b"GET /a?b=c HTTP/1.1\r\n", b"host: a\r\n", b"x-odd: \xff\r\n"]


@pytest.mark.parametrize("there", [False, True])
def test_a_main_process_that_has_ended_is_told_as_one_that_stops(worker, main, there):
    if there:
        main(lambda connection, lines: read_head(lines))
    got = exchange(worker.port, LAST)
    assert got.startswith(b"HTTP/1.1 503")
    assert b"layerserve-reason: unavailable" in got


def test_half_of_a_reply_isnt_made_a_whole_one(worker, main):
    def script(connection, lines):
        read_head(lines)
        connection.sendall(OK + b"\r\nh")

    main(script)
    assert exchange(worker.port, GET) == OK + b"\r\nh"


def test_a_client_that_leaves_ends_its_request(worker, main):
    came, ended = threading.Event(), threading.Event()

    def script(connection, lines):
        read_head(lines)
        came.set()
        assert lines.read() == b""
        ended.set()

    main(script)
    with socket.create_connection(("127.0.0.1", worker.port)) as client:
        client.sendall(GET)
        assert came.wait(30)
    assert ended.wait(30)


def test_long_bodies_and_replies_are_passed_on_whole_and_not_kept(worker, main, wait_until):
    """A body of 30 MB waits at the client until the main process reads it, and a reply until the client does."""
    size, reads = 30_000_000, threading.Event()
    received = []

    def script(connection, lines):
        read_head(lines)
        assert reads.wait(30)
        received.append(lines.read(size))
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % size)
        connection.sendall(received[0])

    main(script)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    with socket.create_connection(("127.0.0.1", worker.port), timeout=30) as client:
        head = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size
        sending = threading.Thread(target=client.sendall, args=(head + body,))
        sending.start()
        open_now = worker._connections._open
        wait_until(lambda: [one._read_paused for one in list(open_now)] == [True])
        (one,) = open_now
        assert sum(request.waiting for request in one._received) < 4 << 20
        reads.set()
        sending.join(30)
        with client.makefile("rb") as lines:
            while lines.readline() != b"\r\n":
                pass
            assert lines.read() == body


def test_the_reply_to_a_request_of_which_a_part_is_unread_reaches_the_worker(serve, tmp_path):
    """If the main process closed the connection, the worker would fail to send the rest, and not read the reply."""
    serve(owner=True)
    whose = {"address": "ipv4:192.0.2.7:4000", "certificate_names": [], "closes": False}
    with socket.socket(socket.AF_UNIX) as relayed, relayed.makefile("rb") as lines:
        relayed.settimeout(30)
        relayed.connect(str(socket_of(tmp_path)))
        put = b"PUT /a HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
        relayed.sendall(json.dumps(whose).encode() + b"\n" + put)
        assert lines.readline().startswith(b"HTTP/1.1 404")
        relayed.sendall(b"x" * 1_000_000)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += lines.readline()
        assert b"connection: close\r\n" in head
        assert "error" in json.loads(lines.read(int(head.partition(b"content-length: ")[2].split()[0])))
