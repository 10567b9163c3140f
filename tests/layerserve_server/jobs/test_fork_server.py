"""The process that forks: it ends when it isn't needed, and no connection is lost by that."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest
from layerserve_server.jobs.channel import JobDiedError
from layerserve_server.jobs.fork_server import ForkServer

#: A program whose children send their process's parent; it ends slowly, as one that has imported torch.
PROGRAM = """
import os, time
from layerserve_server.jobs import program
from layerserve_server.jobs.limits import JobLimits

program.serve(lambda channel: channel.send({"parent": os.getppid()}), 0.2)
time.sleep(3)
"""


@pytest.fixture
def server() -> Iterator[ForkServer]:
    made = ForkServer("")
    made._command = [sys.executable, "-c", PROGRAM, ""]
    yield made
    made.close()


def parent(server: ForkServer) -> str:
    with server.connection(30.0) as channel:
        return str(channel.receive()["parent"])


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
from layerserve_server.jobs import program
from layerserve_server.jobs.limits import JobLimits

receive = socket.recv_fds

def late(control, *rest):
    socket.recv_fds = receive
    select.select([control], [], [])
    raise TimeoutError

socket.recv_fds = late
program.serve(lambda channel: channel.send({"parent": os.getppid()}), 0.2)
"""


def test_a_connection_that_comes_as_the_process_ends_is_served(server: ForkServer) -> None:
    server._command = [sys.executable, "-c", LATE, ""]
    assert parent(server) != ""


#: A program whose children write as much memory as the server asks for; at most so much, unless it is 0.
LIMITED = """
import json
from layerserve_server.jobs import program
from layerserve_server.jobs.limits import JobLimits

def handle(channel):
    request = channel.request()

    def work():
        channel.send({"size": len(bytearray(request["size"]))})

    program.supervise(channel, work, JobLimits(10.0, request["limit"] or None))

program.serve(handle, 0.2)
"""


@pytest.mark.parametrize(
    ("limit", "reply"),
    [(0, 1 << 26), (1 << 28, 1 << 26), (1 << 24, None)],
)
def test_a_job_may_take_as_much_memory_as_it_is_given(server: ForkServer, limit: int, reply: int | None) -> None:
    server._command = [sys.executable, "-c", LIMITED, ""]
    with server.connection(30.0) as channel:
        channel.send({"limit": limit, "size": 1 << 26})
        if reply is None:
            with pytest.raises(JobDiedError) as caught:
                channel.receive()
            assert (caught.value.signal, caught.value.late) == (0, False)
        else:
            assert channel.receive() == {"size": reply}


#: A program whose children tell their limits.
LIMITS = """
import json
import os
import resource
from pathlib import Path
from layerserve_server.jobs import program
from layerserve_server.jobs.limits import JobLimits

def handle(channel):
    channel.request()

    def work():
        for stream in (1, 2):
            os.write(stream, b"noise")
        found = [resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_CPU)]
        found.append(int(Path("/proc/self/oom_score_adj").read_text()))
        channel.send({"found": found})

    program.supervise(channel, work, JobLimits(10.4, None))

program.serve(handle, 0.2)
"""


def test_a_job_is_silent_leaves_no_memory_on_disk_ends_in_time_and_dies_first(
    server: ForkServer, capfd: pytest.CaptureFixture[str]
) -> None:
    server._command = [sys.executable, "-c", LIMITS, ""]
    with server.connection(30.0) as channel:
        channel.send({})
        assert channel.receive() == {"found": [[0, 0], [10, 11], 1000]}
    assert capfd.readouterr() == ("", "")


#: A program whose children get a BrokenPipeError, as they do if the caller has gone.
BROKEN = """
from layerserve_server.jobs import program
from layerserve_server.jobs.limits import JobLimits

def handle(channel):
    raise BrokenPipeError

program.serve(handle, 0.2)
"""


def test_a_child_whose_caller_has_gone_ends_silently(server: ForkServer, capfd: pytest.CaptureFixture[str]) -> None:
    server._command = [sys.executable, "-c", BROKEN, ""]
    with server.connection(30.0) as channel, pytest.raises(ConnectionError):
        channel.receive()
    assert capfd.readouterr().err == ""


def test_a_server_that_was_closed_starts_nothing(server: ForkServer) -> None:
    server.close()
    with pytest.raises(OSError, match="the process was closed"), server.connection(1.0):
        pass
