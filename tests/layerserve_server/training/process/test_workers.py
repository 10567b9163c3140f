"""Processes of a run with several workers."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from layerserve_server.training.process import workers

#: Starts a process that ends with this one, which then waits. Both hold standard output.
PARENT = """
import os, sys, time
from layerserve_server.training.process.workers import end_with_parent
if os.fork() == 0:
    end_with_parent()
    print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can end a process with its parent")
def test_a_worker_ends_when_its_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"ready\n"
        parent.kill()
        # The output ends once no process has it open.
        assert parent.communicate(timeout=30) == (b"", None)


@pytest.mark.parametrize(
    ("codes", "text", "kind"),
    [
        ({1: -9, 0: workers.LOST_PEER}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        # What couldn't be ended by SIGTERM in time is killed, too.
        ({1: -9, 0: -9}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({0: -6, 1: -9}, "worker 1 of the run was ended by signal SIGKILL", "killed"),
        ({0: -6, 1: -15}, "worker 0 of the run was ended by signal SIGABRT", "killed"),
        ({0: workers.LOST_PEER, 1: -15}, "a worker of the run was lost", "killed"),
        ({1: 1, 0: -15}, "internal error in worker 1; see the run's log", "failed"),
    ],
)
def test_the_worker_that_ended_first_is_told(codes, text, kind, tmp_path):
    outcome = workers.lost(tmp_path, {rank: SimpleNamespace(exitcode=code) for rank, code in codes.items()})
    assert outcome.reason.startswith(text)
    assert outcome.kind == kind
