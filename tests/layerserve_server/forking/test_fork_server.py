"""The process that forks: it ends when it isn't needed, and no connection is lost by that."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterator

import pytest
from layerserve_server.forking.fork_server import ForkServer, received

#: A program whose children send their process's parent; it ends slowly, as one that has imported torch.
PROGRAM = """
import os, time
from layerserve_server.forking import forked

forked.serve(lambda channel: channel.sendall(str(os.getppid()).encode()))
time.sleep(3)
"""


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer("", ["0.2"])
    made._command = [sys.executable, "-c", PROGRAM, "0.2"]
    yield made
    made.close()


def parent(server: ForkServer) -> str:
    with server.connection(30.0) as channel:
        return channel.recv(100).decode()


def test_a_process_that_is_ending_is_replaced(server: ForkServer) -> None:
    first = parent(server)
    assert parent(server) == first
    assert server._process is not None
    time.sleep(1.0)  # longer than it waits for a connection
    assert server._process.poll() is None
    assert parent(server) not in ("", first)


#: The same, with a connection that comes just when the wait for one has ended.
LATE = """
import os, select, socket
from layerserve_server.forking import forked

receive = socket.recv_fds

def late(control, *rest):
    socket.recv_fds = receive
    select.select([control], [], [])
    raise TimeoutError

socket.recv_fds = late
forked.serve(lambda channel: channel.sendall(str(os.getppid()).encode()))
"""


def test_a_connection_that_comes_as_the_process_ends_is_served(server: ForkServer) -> None:
    server._command = [sys.executable, "-c", LATE, "0.2"]
    assert parent(server) != ""


#: A program whose children write as much memory as the server asks for; at most so much, unless it is 0.
LIMITED = """
import json
from layerserve_server.forking import forked

def handle(channel):
    limit, size = json.loads(channel.recv(100))

    def work():
        channel.sendall(str(len(bytearray(size))).encode())

    forked.supervise(channel, work, seconds=10.0, memory_bytes=limit or None, wall_seconds=30.0)

forked.serve(handle)
"""


@pytest.mark.parametrize(
    ("limit", "reply"),
    [(0, "67108864"), (1 << 28, "67108864"), (1 << 24, '{"died": 0, "late": false}\n')],
)
def test_a_job_may_take_as_much_memory_as_it_is_given(server: ForkServer, limit: int, reply: str) -> None:
    server._command = [sys.executable, "-c", LIMITED, "0.2"]
    with server.connection(30.0) as channel:
        channel.sendall(f"[{limit}, {1 << 26}]".encode())
        assert channel.makefile().read() == reply


#: A program whose children tell their limits.
LIMITS = """
import json
import os
import resource
from pathlib import Path
from layerserve_server.forking import forked

def handle(channel):
    channel.recv(1)

    def work():
        for stream in (1, 2):
            os.write(stream, b"noise")
        found = [resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_CPU)]
        found.append(int(Path("/proc/self/oom_score_adj").read_text()))
        channel.sendall(json.dumps(found).encode())

    forked.supervise(channel, work, seconds=10.4, memory_bytes=None, wall_seconds=30.0)

forked.serve(handle)
"""


def test_a_job_is_silent_leaves_no_memory_on_disk_ends_in_time_and_dies_first(
    server: ForkServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server._command = [sys.executable, "-c", LIMITS, "0.2"]
    with server.connection(30.0) as channel:
        channel.sendall(b"1")
        assert json.loads(channel.makefile().read()) == [[0, 0], [10, 11], 1000]
    assert capfd.readouterr() == ("", "")


#: A program whose children get a BrokenPipeError, as they do if the caller has gone.
BROKEN = """
from layerserve_server.forking import forked

def handle(channel):
    channel.recv(1)
    raise BrokenPipeError

forked.serve(handle)
"""


def test_a_child_whose_caller_has_gone_ends_silently(server: ForkServer, capfd: pytest.CaptureFixture[str]) -> None:
    server._command = [sys.executable, "-c", BROKEN, "0.2"]
    with server.connection(30.0) as channel:
        channel.shutdown(socket.SHUT_WR)
        assert channel.recv(1) == b""
    assert capfd.readouterr().err == ""


def test_a_reply_may_be_as_long_as_the_limit() -> None:
    for reply, expected in ((b"four", b"four"), (b"fives", None)):
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                theirs.sendall(reply)
            if expected is None:
                with pytest.raises(OSError, match="the reply is too long"):
                    received(ours, 4)
            else:
                assert received(ours, 4) == expected


def test_a_server_that_was_closed_starts_nothing(server: ForkServer) -> None:
    server.close()
    with pytest.raises(OSError, match="the process was closed"), server.connection(1.0):
        pass
