"""Training leaves the processor to a server that needs all of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from clocks import replace_time
from layerserve_server.training.process import cpu_yield as give_way
from layerserve_server.training.process.cpu_usage import SERVER, seconds_served, seconds_waited, serving_processes
from layerserve_server.training.process.cpu_yield import MAX_REST_SECONDS, MIN_TRAIN_SECONDS, REST_RATIO, CpuYield

BUSY = (
    "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass\nprint('done', flush=True)\n"
)


def served() -> float:
    """Seconds of this process and those that serve with it."""
    return seconds_served(serving_processes(os.getpid()))


def computing(own_session: bool) -> subprocess.Popen[bytes]:
    """A process that has computed for 0.3 seconds, and still is there."""
    process = subprocess.Popen(
        [sys.executable, "-c", BUSY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=own_session,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    return process


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux counts")
def test_a_server_is_what_computes_in_its_session() -> None:
    before = served()
    # As a server's workers are: kept by a thread of its own, which the system calls their parent.
    with ThreadPoolExecutor(1) as keeper:
        worker = keeper.submit(computing, own_session=False).result()
        with_worker = served()
    run = computing(own_session=True)
    with_run = served()
    for process in (worker, run):
        process.communicate(b"\n", timeout=30)
    assert with_worker - before >= 0.25
    # This process itself has done little but wait.
    assert with_run - with_worker < 0.25


@pytest.mark.parametrize("pid", [0, 2**30])
def test_no_server_serves_nothing(pid: int) -> None:
    assert seconds_served(serving_processes(pid)) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="what Linux counts")
def test_waiting_for_a_core_is_counted() -> None:
    """Two threads' work on one core, of which one has to wait."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        before, end = seconds_waited(), time.monotonic() + 1.0
        while time.monotonic() < end:
            pass
        assert seconds_waited() - before > 0.1
    finally:
        os.sched_setaffinity(0, cores)
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("waited", "served", "rests"),
    [(0.9, 0.9, True), (0.4, 0.9, True), (0.99, 0.9, True), (0.9, 0.5, False), (0.2, 0.9, False), (0.0, 0.0, False)],
)
def test_it_rests_where_it_waits_and_the_server_computes(
    waited: float, served: float, rests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, slept = [100.0], []
    monkeypatch.setenv(SERVER, "7")
    monkeypatch.setattr(give_way, "seconds_waited", lambda: waited * now[0])
    monkeypatch.setattr(give_way, "serving_processes", lambda server: [server, 8])
    monkeypatch.setattr(give_way, "seconds_served", lambda pids: served * now[0] if pids == [7, 8] else 0.0)
    replace_time(monkeypatch, give_way, monotonic=lambda: now[0], sleep=slept.append)
    callback = CpuYield()
    for batch in range(5):
        now[0] += 0.6 * MIN_TRAIN_SECONDS
        callback.on_train_batch_end(batch)
    # In proportion to what it computed: it isn't to stand still where it hardly does.
    assert slept == (pytest.approx([REST_RATIO * (1 - waited) * 1.2 * MIN_TRAIN_SECONDS] * 2) if rests else [])
    now[0] += 100
    callback.on_train_batch_end(5)
    assert slept[2:] == ([pytest.approx(min(MAX_REST_SECONDS, REST_RATIO * (1 - waited) * 100))] if rests else [])


def test_workers_that_come_later_are_found_where_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept, there = [100.0], [], [[7]]
    monkeypatch.setenv(SERVER, "7")
    monkeypatch.setattr(give_way, "seconds_waited", lambda: 0.9 * now[0])
    monkeypatch.setattr(give_way, "serving_processes", lambda server: list(there[0]))
    monkeypatch.setattr(give_way, "seconds_served", lambda pids: 0.9 * now[0] if pids == [7, 8] else 0.0)
    replace_time(monkeypatch, give_way, monotonic=lambda: now[0], sleep=slept.append)
    callback = CpuYield()
    there[0] = [7, 8]
    for batch, rests in enumerate((0, 1, 2)):
        now[0] += 1.2 * MIN_TRAIN_SECONDS
        callback.on_train_batch_end(batch)
        assert len(slept) == rests, "the new one computes, and is known from the first look on"
